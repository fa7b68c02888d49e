from __future__ import annotations

import pytest
from tests.policies import REFUSAL, policy, rule

from prism.decide import decide
from prism.types import Action, Evidence, Match, Mode, Stage, TierState

RAN = {"patterns": TierState.RAN}
FAILED = {"patterns": TierState.FAILED}
POLICY = policy(
    rule("flag", action=Action.FLAG),
    rule("redact", action=Action.REDACT),
    rule("steer", action=Action.STEER),
    rule("block"),
    rule("watched", mode=Mode.MONITOR),
    rule("scored", thresholds={Stage.PROMPT: 0.8, Stage.OUTPUT: 0.5}),
)


def hit(*rules):
    return Evidence(tuple(Match(r, 0, 4) for r in rules), tiers=RAN)


@pytest.mark.parametrize(
    ("p", "q", "action", "would"),
    [
        (None, None, Action.ALLOW, Action.ALLOW),
        (hit(), None, Action.ALLOW, Action.ALLOW),
        (hit("flag"), hit(), Action.FLAG, Action.FLAG),
        (hit("flag"), hit("redact"), Action.REDACT, Action.REDACT),
        (hit(), hit("redact", "steer"), Action.STEER, Action.STEER),
        (hit("block"), None, Action.BLOCK, Action.BLOCK),
        (None, hit("flag", "block"), Action.BLOCK, Action.BLOCK),
        (hit("watched"), hit("flag"), Action.FLAG, Action.BLOCK),
        (Evidence(scores={"prv": 0.79}, tiers=RAN), None, Action.ALLOW, Action.ALLOW),
        (Evidence(scores={"prv": 0.80}, tiers=RAN), None, Action.BLOCK, Action.BLOCK),
        (None, Evidence(scores={"prv": 0.5}, tiers=RAN), Action.BLOCK, Action.BLOCK),
        (None, Evidence(scores={"hte": 0.99}, tiers=RAN), Action.ALLOW, Action.ALLOW),
        (Evidence(tiers=FAILED), None, Action.BLOCK, Action.BLOCK),
        (hit(), Evidence(tiers=FAILED), Action.BLOCK, Action.BLOCK),
    ],
)
def test_the_strictest_enforced_finding_decides(p, q, action, would):
    decision = decide(p, q, POLICY)
    assert (decision.action, decision.would) == (action, would)
    assert decision.blocked == (action is Action.BLOCK)
    assert decision.message == (REFUSAL if decision.blocked else None)
    assert decision.policy == POLICY.digest


SCORED = policy(
    rule("likely", category="harm", action=Action.FLAG, thresholds={Stage.PROMPT: 0.5}),
    rule("plain", category="harm", thresholds={Stage.PROMPT: 0.9, Stage.OUTPUT: 0.95}),
    rule("watched", category="hte", mode=Mode.MONITOR, thresholds={Stage.PROMPT: 0.3}),
    rule(
        "advice",
        category="spc",
        action=Action.REDACT,
        plain_language="Gives advice.",
        thresholds={Stage.PROMPT: 0.5, Stage.OUTPUT: 0.7},
    ),
    unknown_language="flag",
)


def read(scores=None, answers=None, language=None):
    return Evidence(scores=scores or {}, tiers=RAN, answers=answers or {}, language=language)


@pytest.mark.parametrize(
    ("p", "q", "action", "would", "fired"),
    [
        (read({"harm": 0.49}), None, Action.ALLOW, Action.ALLOW, []),
        (read({"harm": 0.5}), None, Action.FLAG, Action.FLAG, ["likely"]),
        (read({"harm": 0.9}), None, Action.BLOCK, Action.BLOCK, ["likely", "plain"]),
        # Each stage has its own threshold, or none.
        (None, read({"harm": 0.94}), Action.ALLOW, Action.ALLOW, []),
        (None, read({"harm": 0.95}), Action.BLOCK, Action.BLOCK, ["plain"]),
        (read({"harm": 0.1}), read({"harm": 0.96}), Action.BLOCK, Action.BLOCK, ["plain"]),
        (read({"hte": 0.3}), None, Action.ALLOW, Action.BLOCK, ["watched"]),
        # A rule in plain language hears the guard's answer to it, not its category's score.
        (read({"spc": 0.99}), None, Action.ALLOW, Action.ALLOW, []),
        (read(answers={"advice": 0.5}), None, Action.REDACT, Action.REDACT, ["advice"]),
        (None, read(answers={"advice": 0.6}), Action.ALLOW, Action.ALLOW, []),
        (read(answers={"other": 0.9}), None, Action.ALLOW, Action.ALLOW, []),
        (read(language="en"), None, Action.ALLOW, Action.ALLOW, []),
        (read(language="und"), None, Action.ALLOW, Action.ALLOW, []),
        (read(language="de"), None, Action.FLAG, Action.FLAG, ["prism.unknown_language"]),
        (None, read(language="unknown"), Action.FLAG, Action.FLAG, ["prism.unknown_language"]),
    ],
)
def test_scores_against_thresholds(p, q, action, would, fired):
    decision = decide(p, q, SCORED)
    assert (decision.action, decision.would) == (action, would)
    assert [finding.rule for finding in decision.findings] == fired


def test_a_decision_has_the_higher_score_of_both_stages_and_each_ones_language():
    p = read({"harm": 0.2, "prv": 0.3}, language="en")
    q = read({"harm": 0.4}, language="zh")
    decision = decide(p, q, SCORED)
    assert decision.scores == {"harm": 0.4, "prv": 0.3}
    assert decision.languages == {"prompt": "en", "output": "zh"}
    assert decide(read(), None, SCORED).languages == {}


@pytest.mark.parametrize(
    ("what", "mode", "action", "would"),
    [
        ("allow", Mode.ENFORCE, Action.ALLOW, Action.ALLOW),
        ("block", Mode.ENFORCE, Action.BLOCK, Action.BLOCK),
        ("block", Mode.MONITOR, Action.ALLOW, Action.BLOCK),
    ],
)
def test_what_a_policy_does_with_unknown_languages(what, mode, action, would):
    decision = decide(read(language="de"), None, policy(mode=mode, unknown_language=what))
    assert (decision.action, decision.would) == (action, would)


def test_a_failed_tier_opens_only_where_the_policy_says_so():
    opening = policy(rule("block"), on_tier_failure="open")
    decision = decide(Evidence(tiers=FAILED), None, opening)
    assert decision.action is Action.FLAG
    assert decision.findings[0].rule == "prism.tier_failure"


def test_tiers_that_were_not_asked_are_absent_rather_than_passed():
    assert dict(decide(hit(), None, POLICY).tiers) == {"prompt.patterns": TierState.RAN}
    assert dict(decide(None, None, POLICY).tiers) == {}
