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


def test_a_failed_tier_opens_only_where_the_policy_says_so():
    opening = policy(rule("block"), on_tier_failure="open")
    decision = decide(Evidence(tiers=FAILED), None, opening)
    assert decision.action is Action.FLAG
    assert decision.findings[0].rule == "prism.tier_failure"


def test_tiers_that_were_not_asked_are_absent_rather_than_passed():
    assert dict(decide(hit(), None, POLICY).tiers) == {"prompt.patterns": TierState.RAN}
    assert dict(decide(None, None, POLICY).tiers) == {}
