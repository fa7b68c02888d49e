"""Which tier is asked, what its word counts for, and what becomes of one that fails."""

from __future__ import annotations

import numpy as np
import pytest
from tests.policies import policy, rule
from tests.scores import QUIET, FakeEncoder, FakeGuard, FakeSketch, models

from prism.classify import operating
from prism.classify.cascade import MOST_SEGMENTS, OVERLAP, SEGMENT, segments
from prism.classify.models import Models, ModelsError
from prism.moderator import Moderator
from prism.types import Action, Mode, Stage, TierState

RAN, SETTLED, FAILED, NOT_RUN = (
    TierState.RAN,
    TierState.SETTLED,
    TierState.FAILED,
    TierState.NOT_RUN,
)
BOTH = {Stage.PROMPT: 0.8, Stage.OUTPUT: 0.8}
HARM = rule("harm", category="harm", thresholds=BOTH)
PRIVATE = rule("private", category="prv", thresholds=BOTH, action=Action.FLAG)
PLAIN = rule("plain", plain_language="zephyr lantern", thresholds={Stage.PROMPT: 0.5})
THREE = ("sketch", "encoder", "guard")


def scored(*rules, tiers=("sketch", "encoder"), on_tier_failure="close", **fakes):
    made = models(**fakes)
    return Moderator(policy(*rules, tiers=tiers, on_tier_failure=on_tier_failure), made)


@pytest.mark.parametrize(
    ("tiers", "prompt", "states", "harm", "action"),
    [
        # The sketch is sure: nobody else is asked.
        (THREE, "a mild text", (RAN, SETTLED, SETTLED), QUIET, Action.ALLOW),
        # The encoder's word takes the place of the sketch's, both ways.
        (THREE, "[s9] a mild text", (RAN, RAN, SETTLED), QUIET, Action.ALLOW),
        (THREE, "[s2] [e9]", (RAN, RAN, SETTLED), 0.9, Action.BLOCK),
        # Where the encoder is unsure the guard's word takes the place of both.
        (THREE, "[s2] [e5] [g9]", (RAN, RAN, RAN), 0.9, Action.BLOCK),
        (THREE, "[s9] [e5]", (RAN, RAN, RAN), QUIET, Action.ALLOW),
        # Tiers that are off are no part of it.
        (("sketch",), "[s9] [e1]", (RAN, None, None), 0.9, Action.BLOCK),
        (("sketch",), "[s5] [e9]", (RAN, None, None), 0.5, Action.ALLOW),
        (("encoder",), "[s9] [e1]", (None, RAN, None), 0.1, Action.ALLOW),
        (("sketch", "guard"), "[s5] [g9]", (RAN, None, RAN), 0.9, Action.BLOCK),
        (("guard",), "[g9]", (None, None, RAN), 0.9, Action.BLOCK),
        ((), "[s9] [e9] [g9]", (None, None, None), None, Action.ALLOW),
    ],
)
def test_each_tier_is_asked_where_it_is_needed(tiers, prompt, states, harm, action):
    if tiers == ("guard",):
        moderator = scored(HARM, PLAIN, tiers=tiers, guard=FakeGuard())
    else:
        moderator = scored(HARM, tiers=tiers, guard=FakeGuard())
    decision = moderator.check_prompt(prompt)
    assert decision.action is action
    assert decision.scores.get("harm") == (None if harm is None else pytest.approx(harm))
    told = tuple(decision.tiers.get(f"prompt.{tier}") for tier in THREE)
    assert told == states
    assert decision.tiers["prompt.patterns"] is RAN


def test_a_threshold_below_the_skip_is_not_skipped_over():
    low = operating.skip(Stage.PROMPT, "harm") / 2
    quiet = FakeSketch()
    moderator = scored(rule("low", category="harm", thresholds={Stage.PROMPT: 0.009}), sketch=quiet)
    assert low > 0.009
    # The sketch says 0.01: no longer surely harmless to somebody who blocks from 0.009 on.
    assert moderator.check_prompt("a mild text").tiers["prompt.encoder"] is RAN
    usual = scored(HARM)
    assert usual.check_prompt("a mild text").tiers["prompt.encoder"] is SETTLED


def test_a_category_that_the_sketch_lacks_is_watched_through_harm():
    blind = FakeSketch(categories=("harm", "inj"))
    low = rule("low", category="prv", thresholds={Stage.PROMPT: 0.005}, action=Action.FLAG)
    decision = scored(low, sketch=blind).check_prompt("[e7:prv]")
    assert decision.tiers["prompt.encoder"] is RAN
    assert decision.scores["prv"] == pytest.approx(0.7)
    assert decision.action is Action.FLAG


def test_a_category_that_the_encoder_lacks_keeps_the_sketchs_score():
    moderator = scored(PRIVATE, encoder=FakeEncoder(categories=("harm",)))
    decision = moderator.check_prompt("[s9:prv]")
    assert decision.scores == pytest.approx({"harm": QUIET, "inj": QUIET, "prv": 0.9, "hte": QUIET})
    assert [f.rule for f in decision.findings] == ["private"]


def test_injection_is_looked_for_in_prompts_only():
    moderator = scored(HARM)
    assert moderator.check_prompt("[s5:inj]").tiers["prompt.encoder"] is RAN
    assert moderator.check_output("[s5:inj]").tiers["output.encoder"] is SETTLED


def test_a_pattern_that_blocks_settles_the_guard_but_the_score_stays_a_score():
    guard = FakeGuard()
    moderator = scored(HARM, PLAIN, rule("lamp", ["amber quokka"]), tiers=THREE, guard=guard)
    decision = moderator.check_prompt("amber quokka [s4] [e5]")
    assert decision.blocked
    assert decision.tiers["prompt.guard"] is SETTLED
    assert decision.scores["harm"] == pytest.approx(0.5)
    assert guard.items == []


def test_a_rule_in_plain_language_asks_the_guard_of_every_text():
    guard = FakeGuard()
    moderator = scored(PLAIN, tiers=THREE, guard=guard)
    decision = moderator.check_prompt("where is the zephyr lantern")
    assert decision.blocked
    (finding,) = decision.findings
    assert (finding.rule, finding.category, finding.score) == ("plain", "prv", 0.9)
    assert not moderator.check_prompt("where is the lantern").blocked
    assert [item.rules for item in guard.items] == [(("plain", "zephyr lantern"),)] * 2
    # The rule is for prompts.
    assert moderator.check_output("a zephyr lantern").tiers["output.guard"] is SETTLED


def test_the_guard_sees_the_conversation_and_the_encoder_the_prompt():
    guard, encoder = FakeGuard(), FakeEncoder()
    moderator = scored(HARM, tiers=THREE, guard=guard, encoder=encoder)
    session = moderator.session()
    session.check_prompt(
        [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "yes?"},
            {"role": "user", "content": "second"},
        ]
    )
    session.feed("[s5] [e5] an answer")
    session.finish()
    (item,) = guard.items
    assert item.messages[0] == ("system", "be kind")
    assert item.messages[-1] == ("user", "second")
    assert item.response == "[s5] [e5] an answer"
    assert encoder.given == ["second"]
    assert encoder.seen == ["[s5] [e5] an answer"]


@pytest.mark.parametrize("tier", ["sketch", "encoder", "guard"])
@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize("stage", list(Stage))
def test_a_tier_that_raises(tier, closes, stage):
    def fail():
        raise RuntimeError("boom")

    quiet = FakeEncoder() if tier == "guard" else FakeEncoder(during=fail)
    moderator = scored(
        HARM,
        tiers=THREE,
        on_tier_failure="close" if closes else "open",
        sketch=FakeSketch(fault="torn") if tier == "sketch" else FakeSketch(),
        encoder=FakeEncoder() if tier == "sketch" else quiet,
        guard=FakeGuard(during=fail) if tier == "guard" else FakeGuard(),
    )
    check = moderator.check_prompt if stage is Stage.PROMPT else moderator.check_output
    decision = check("[s5] torn [e5]")
    assert decision.tiers[f"{stage.value}.{tier}"] is FAILED
    assert decision.action is (Action.BLOCK if closes else Action.FLAG)
    assert "prism.tier_failure" in [f.rule for f in decision.findings]


def test_what_is_left_still_judges_where_the_policy_opens():
    def fail():
        raise RuntimeError("boom")

    moderator = scored(HARM, on_tier_failure="open", encoder=FakeEncoder(during=fail))
    assert moderator.check_prompt("[s9]").blocked  # by the sketch's own score
    moderator = scored(HARM, on_tier_failure="open", sketch=FakeSketch(fault="torn"))
    assert moderator.check_prompt("torn [e9]").blocked


def test_nothing_to_read_is_not_run():
    decision = scored(HARM).check_prompt("")
    assert decision.tiers["prompt.sketch"] is NOT_RUN
    assert decision.scores == {}
    session = scored(HARM).session()
    session.finish()
    assert session.decision.tiers["output.encoder"] is NOT_RUN


def test_a_request_that_is_split_over_turns_is_one_text():
    encoder = FakeEncoder()
    moderator = scored(HARM, sketch=FakeSketch(), encoder=encoder)
    turns = [
        {"role": "user", "content": "[s9"},
        {"role": "assistant", "content": "go on"},
        {"role": "user", "content": "] [e9]"},
    ]
    assert not moderator.check_prompt(turns[:1]).blocked
    assert moderator.check_prompt([turns[0], turns[2]]).blocked is False  # the marks need "[s9]"
    moderator = scored(rule("lamp", ["zephyr lantern"]), HARM)
    turns[0]["content"], turns[2]["content"] = "tell me of the zephyr", "lantern please"
    decision = moderator.check_prompt(turns)
    assert decision.blocked
    assert decision.findings[0].via == ("turns",)


@pytest.mark.parametrize("place", [0, 3, 40])
def test_long_padding_hides_nothing(place):
    encoder = FakeEncoder()
    moderator = scored(HARM, encoder=encoder)
    words = ["mild words all along. " * 50] * 41
    words.insert(place, "[s6] [e9]")
    decision = moderator.check_prompt("".join(words))
    assert decision.blocked
    assert len(encoder.seen) <= 2


def test_a_flood_of_doubtful_segments_is_bounded_and_the_worst_are_read():
    encoder = FakeEncoder()
    moderator = scored(HARM, encoder=encoder)
    doubtful = "".join(f"[s3] {number:04d} ".ljust(SEGMENT, "x") for number in range(60))
    decision = moderator.check_prompt(doubtful + "[s7] [e9]")
    assert len(encoder.seen) == MOST_SEGMENTS
    assert decision.blocked
    # What no room was left for has the sketch's word, which is as good as its threshold.
    assert moderator.check_prompt(doubtful.replace("s3", "s8")).blocked


@pytest.mark.parametrize("length", [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 5 * SEGMENT + 7])
def test_segments_cover_every_character_and_overlap(length):
    text = "".join(chr(0x4E00 + i % 20_000) for i in range(length))
    parts = segments(text)
    assert parts[0] + "".join(part[OVERLAP:] for part in parts[1:]) == text
    assert all(len(part) <= SEGMENT + OVERLAP for part in parts)


@pytest.mark.parametrize(
    ("mode", "action", "sent"), [(Mode.MONITOR, Action.ALLOW, 14), (Mode.ENFORCE, Action.BLOCK, 0)]
)
def test_monitor_mode_holds_nothing_and_says_what_it_would(mode, action, sent):
    watched = rule("harm", category="harm", thresholds=BOTH, mode=mode)
    made = models()
    session = Moderator(policy(watched, tiers=("sketch", "encoder"), mode=mode), made).session()
    out = session.feed("[s9] [e9] mild").text + session.finish().text
    assert session.decision.action is action
    assert session.decision.would is Action.BLOCK
    assert len(out) == sent


@pytest.mark.parametrize("action", [Action.REDACT, Action.STEER])
def test_a_score_has_no_place_to_redact_or_steer_so_the_output_ends(action):
    held = rule("harm", category="harm", thresholds=BOTH, action=action)
    session = scored(held).session()
    assert session.feed("[s9] [e9] mild").text + session.finish().text == ""
    assert session.decision.blocked
    assert scored(held).check_prompt("[s9] [e9]").action is action


@pytest.mark.parametrize(
    ("what", "text", "action"),
    [
        ("allow", "Wie backe ich ein Brot ohne Hefe?", Action.ALLOW),
        ("flag", "Wie backe ich ein Brot ohne Hefe?", Action.FLAG),
        ("block", "Wie backe ich ein Brot ohne Hefe?", Action.BLOCK),
        ("block", "How do I bake bread without yeast?", Action.ALLOW),
        ("block", "12 + 5 = ?", Action.ALLOW),
    ],
)
@pytest.mark.parametrize("tiers", [(), ("sketch", "encoder")])
def test_a_language_that_the_models_do_not_know(what, text, action, tiers):
    made = models()
    moderator = Moderator(policy(HARM, tiers=tiers, unknown_language=what), made)
    assert moderator.check_prompt(text).action is action
    assert moderator.check_output(text).action is action
    if tiers and text.startswith("Wie"):
        assert moderator.check_prompt(text).languages == {"prompt": "de"}
    session = moderator.session()
    out = "".join(session.feed(char).text for char in text) + session.finish().text
    assert out == ("" if action is Action.BLOCK else text)


def test_a_policy_whose_tier_cannot_be_loaded_does_not_start():
    plain = policy(PLAIN, tiers=THREE)
    with pytest.raises(ModelsError) as caught:
        Moderator(plain, models())
    assert str(caught.value) == (
        "policy 'test': tiers.guard: needs a guard model, and none is set (rule 'plain' is in "
        "plain language); name one under `guard:` in prism.yaml, or write `tiers: {guard: off}`"
    )
    guard = FakeGuard()
    guard.takes_rules = False
    with pytest.raises(ModelsError, match="can't judge the plain-language rule 'plain'"):
        Moderator(plain, models(guard=guard))

    def broken():
        raise OSError("no such model")

    with pytest.raises(ModelsError, match="the guard can't be loaded: OSError: no such model"):
        Moderator(plain, Models(sketch=FakeSketch(), encoder=FakeEncoder(), open_guard=broken))


def test_scores_are_rounded_to_what_float32_carries():
    class Exact(FakeEncoder):
        def prompts(self, texts):
            return np.full((len(texts), len(self.categories)), 0.8, np.float32)

    decision = scored(HARM, encoder=Exact()).check_prompt("[s5]")
    assert decision.scores["harm"] == 0.8
    assert decision.blocked  # "from 0.8 on"
