from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.policies import REFUSAL, policy, rule

from prism.decide import decide
from prism.match import Scanner
from prism.match.layers import Layer
from prism.moderator import Moderator, prompt_text
from prism.types import Action, Mode, Stage, TierState

S = "zephyr lantern"
MODERATOR = Moderator(
    policy(
        rule("lantern", [S]),
        rule("quiet", ["copper kettle"], action=Action.FLAG),
        rule("hidden", ["velvet cartographer"], action=Action.REDACT),
        rule("steered", ["amber orrery"], action=Action.STEER),
        rule("watched", ["paper comet"], mode=Mode.MONITOR),
        rule("asked", ["tin whistle"], stages=frozenset({Stage.PROMPT})),
    )
)


def stream(text, size=3, session=None):
    session = session or MODERATOR.session()
    out = [session.feed(text[i : i + size]).text for i in range(0, len(text), size)]
    last = session.finish()
    return "".join([*out, last.text]), last.blocked, session


@pytest.mark.parametrize(
    ("prompt", "blocked"),
    [
        ("tell me of the zephyr lantern", True),
        ("tell me of the copper kettle", False),
        ([{"role": "system", "content": "be kind"}, {"role": "user", "content": S}], True),
        ([{"role": "user", "content": [{"type": "text", "text": f"a {S}"}]}], True),
        ([{"role": "user", "content": "zephyr"}, {"role": "user", "content": "lantern"}], True),
        ([{"role": "assistant", "content": None}, {"role": "user", "content": "hi"}], False),
        ("", False),
        ([], False),
    ],
)
def test_prompts_of_every_shape(prompt, blocked):
    decision = MODERATOR.check_prompt(prompt)
    assert decision.blocked == blocked
    assert decision.message == (REFUSAL if blocked else None)
    assert decision.tiers == {"prompt.patterns": TierState.RAN}


async def test_the_async_twins_say_the_same():
    assert (await MODERATOR.acheck_prompt(S)).blocked
    assert await MODERATOR.acheck_output(S, "a lamp?") == MODERATOR.check_output(S, "a lamp?")
    assert (await MODERATOR.acheck_output(S)).blocked


def test_stages_are_kept_apart():
    assert MODERATOR.check_prompt("a tin whistle").blocked
    assert not MODERATOR.check_output("a tin whistle").blocked


@pytest.mark.parametrize("size", [1, 2, 7, 100])
@pytest.mark.parametrize(
    ("text", "out", "blocked", "action"),
    [
        (f"now the {S} shines", "now the ", True, Action.BLOCK),
        ("a copper kettle sings", "a copper kettle sings", False, Action.FLAG),
        ("the velvet cartographer.", "the [redacted].", False, Action.REDACT),
        ("one amber orrery", "one ", True, Action.BLOCK),
        # In a tool call's JSON a line break is two characters, and stays so.
        ('{"a": "x\\nzephyr\\tlantern"}', '{"a": "x\\n', True, Action.BLOCK),
        (
            '{"a": "velvet cartographer\\nmore\\n"}',
            '{"a": "[redacted]\\nmore\\n"}',
            False,
            Action.REDACT,
        ),
        ("a paper comet", "a paper comet", False, Action.ALLOW),
        (f"the velvet cartographer and {S}", "the [redacted] and ", True, Action.BLOCK),
        ("velvet cartographer velvet cartographer", "[redacted] [redacted]", False, Action.REDACT),
    ],
)
def test_streams(text, out, blocked, action, size):
    released, was_blocked, session = stream(text, size)
    assert (released, was_blocked) == (out, blocked)
    assert session.decision.action is action


def test_monitor_mode_reports_what_it_would_have_done():
    _, _, session = stream("a paper comet")
    assert session.decision.would is Action.BLOCK
    assert session.decision.message is None


def test_choices_and_channels_are_streams_of_their_own():
    session = MODERATOR.session()
    assert session.feed("a zephyr ", choice=0).text == "a "
    assert session.feed("lantern", choice=1).text == "lantern"
    assert session.feed("lantern ", choice=0, channel="reasoning").text == "lantern "
    assert session.feed("lantern ", choice=0).blocked
    assert session.blocked(0)
    assert not session.blocked(1)
    # Nothing more of a blocked choice goes out, in any channel.
    assert session.feed("more", choice=0, channel="reasoning").text == ""
    assert session.feed("more", choice=1).text == "more"
    assert session.channels[0, "content"] == len("a zephyr lantern ")


def test_one_session_never_sees_another():
    first, second = MODERATOR.session(), MODERATOR.session()
    assert first.id != second.id
    first.feed("a zephyr ")
    assert second.feed("lantern ").text == "lantern "
    assert not second.finish().blocked


def test_the_refusal_speaks_the_users_language():
    session = MODERATOR.session(locale="de-AT")
    assert session.check_prompt(S).message == "Dabei kann ich nicht helfen."


def test_a_failure_inside_closes_and_leaks_nothing(monkeypatch):
    session = MODERATOR.session()
    assert session.feed("hello the zephyr ").text == "hello the "

    def fail(self, text):
        raise RuntimeError("boom")

    monkeypatch.setattr(Scanner, "feed", fail)
    released = session.feed("lamp")
    assert released.blocked
    assert released.text == ""
    assert session.decision.tiers["output.patterns"] is TierState.FAILED
    assert session.feed("more").text == ""
    assert MODERATOR.session().check_prompt("100 % hello").blocked


def test_a_failure_opens_only_where_the_policy_says_so(monkeypatch):
    opening = Moderator(policy(rule("lantern", [S]), on_tier_failure="open"))
    session = opening.session()
    session.feed("the zephyr ")

    def fail(self, text):
        raise RuntimeError("boom")

    monkeypatch.setattr(Scanner, "feed", fail)
    assert session.feed("lamp").text == "zephyr lamp"
    assert session.feed(" more").text == " more"
    assert session.decision.action is Action.FLAG


def read_by_token(session, pieces):
    """Feed pieces the short way where it goes; return what went out."""
    out = ""
    for piece in pieces:
        released = session.token(piece.encode(), 0, "content") if piece.isascii() else None
        if released is None:
            released = session.flow(piece)
        out += piece if released is True else released
    return out


@pytest.mark.parametrize("action", [Action.FLAG, Action.REDACT, Action.BLOCK])
@given(
    st.lists(
        st.one_of(
            st.sampled_from(["the", " zephyr", " lan", "tern", " river", " &", "amp;", ". ", "é"]),
            st.text(st.characters(max_codepoint=127), max_size=4),
        ),
        max_size=16,
    )
)
def test_tokens_read_the_short_way_let_out_what_the_long_way_does(action, pieces):
    made = Moderator(policy(rule("lantern", [S], action=action)))
    short, long = made.session(), made.session()
    assert read_by_token(short, pieces) == "".join(long.flow(piece) for piece in pieces)
    assert short.blocked() == long.blocked()
    assert short.finish() == long.finish()
    assert (short.decision, short.channels) == (long.decision, long.channels)


@pytest.mark.parametrize(("on_failure", "out"), [("close", ""), ("open", "zephyr lamp")])
def test_a_failure_on_the_short_way_is_answered_likewise(monkeypatch, on_failure, out):
    session = Moderator(policy(rule("lantern", [S]), on_tier_failure=on_failure)).session()
    assert session.feed("the zephyr ").text == "the "

    def fail(self, data):
        raise RuntimeError("boom")

    monkeypatch.setattr(Scanner, "token", fail)
    assert session.token(b"lamp", 0, "content") == out
    assert session.blocked() == (on_failure == "close")
    assert session.decision.tiers["output.patterns"] is TierState.FAILED
    assert session.token(b"more", 0, "content") is None
    assert session.flow("more") == ("more" if out else "")


def test_text_that_decodes_to_far_more_than_itself_fails_closed(monkeypatch):
    import base64

    monkeypatch.setattr("prism.match.layers.WORK_FREE", 10)
    monkeypatch.setattr("prism.match.layers.WORK_PER_CHARACTER", 0)
    assert MODERATOR.check_output(base64.b64encode(b"a perfectly mild text").decode()).blocked


def test_a_flood_of_flagged_words_neither_grows_nor_hides_the_blocked_one():
    session = MODERATOR.session()
    session.feed("copper kettle. " * 3000)
    session.feed(f"{S}. ")
    decision = session.decision
    assert decision.blocked
    assert len(decision.findings) < 300


def test_shapes_that_hide_text_are_refused():
    with pytest.raises(TypeError, match="int"):
        prompt_text([{"role": "user", "content": [3]}])
    with pytest.raises(TypeError, match="dict"):
        prompt_text([{"role": "user", "content": {"text": "hi"}}])
    assert MODERATOR.check_prompt([{"role": "user", "content": 3}]).blocked


def test_a_verdict_that_comes_in_while_another_is_made_is_not_lost(monkeypatch):
    """The prompt may be judged in another thread than the answer's beginning."""
    session = MODERATOR.session()
    begun = []

    def slow(p, q, policy):
        decision = decide(p, q, policy)
        if not begun:
            begun.append(True)
            assert session.check_prompt(S).blocked  # as from the other thread, in between
        return decision

    monkeypatch.setattr("prism.session.decide", slow)
    session.feed("a copper kettle sings")
    assert begun
    assert session.decision.blocked


def test_what_a_whole_output_answers_is_known_but_not_judged():
    assert not MODERATOR.check_output("fine", prompt="tell me of the zephyr lantern").blocked
    assert list(MODERATOR.check_output("fine", prompt=S).tiers) == ["output.patterns"]


@pytest.mark.parametrize("on_failure", ["close", "open"])
def test_a_whole_text_gets_the_sessions_verdict(on_failure, monkeypatch):
    """Where nothing is found a check goes without a session, and says the same."""
    moderator = Moderator(policy(rule("lantern", [S]), on_tier_failure=on_failure))
    opened = []
    session = moderator.session
    monkeypatch.setattr(moderator, "session", lambda: opened.append(1) or session())

    def by_session(text):
        streamed = session()
        streamed.feed(text)
        streamed.finish()
        return session().check_prompt(text), streamed.decision

    def by_check(text):
        return moderator.check_prompt(text), moderator.check_output(text)

    for text in ("", "a harmless text", "a lantern, zephyr", f"the {S} and more", S):
        assert by_check(text) == by_session(text), text
    assert len(opened) == 4  # for the two texts with the phrase
    nothing = moderator.check_prompt("a harmless text")
    assert nothing.tiers == {"prompt.patterns": TierState.RAN}
    with pytest.raises(TypeError):
        nothing.tiers["prompt.patterns"] = TierState.FAILED

    def broken(self, text=""):
        raise RuntimeError("broken")

    for method in ("feed", "finish"):
        with monkeypatch.context() as patch:
            patch.setattr(Layer, method, broken)
            text = "harmless, 100 % of it"  # a layer has to say that
            found = by_check(text)
            assert found == by_session(text)
            assert [decision.blocked for decision in found] == [on_failure == "close"] * 2


def test_the_verdict_on_texts_without_a_match_is_everybodys():
    verdicts = []
    for prompt in ("a walk by the river", [{"role": "user", "content": "a ferry"}]):
        session = MODERATOR.session()
        assert session.check_prompt(prompt) is MODERATOR.check_prompt("bread")
        stream("the bridge was closed", session=session)
        verdicts.append(session.decision)
    assert verdicts[0] is verdicts[1]
    assert verdicts[0].tiers == dict.fromkeys(("prompt.patterns", "output.patterns"), "ran")
    with pytest.raises(TypeError):
        verdicts[0].tiers["prompt.patterns"] = TierState.FAILED


@pytest.mark.parametrize("text", [f"a {S}", "a copper kettle"])
def test_a_verdict_of_ones_own_follows_on_the_shared_one(text):
    session = MODERATOR.session()
    session.check_prompt("a walk")
    shared = session.decision
    stream(text, session=session)
    assert session.decision is not shared
    assert session.decision.findings
    assert not shared.findings


def test_what_was_refused_elsewhere_is_never_the_shared_verdict():
    session = MODERATOR.session()
    session.check_prompt("a walk")
    session.block()
    assert session.decision.blocked
    assert not MODERATOR.check_prompt("a walk").blocked
