"""Policies written in code, for tests of what stands below the policy files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from prism.match import check_regex
from prism.policy.compiled import CompiledPolicy, CompiledRegex, CompiledRule
from prism.types import Action, Boundary, Disguise, Mode, Stage

REFUSAL = "I can't help with that."


def rule(
    rule_id: str,
    phrases: Sequence[str] = (),
    *,
    regexes: Sequence[str] = (),
    action: Action = Action.BLOCK,
    boundary: Boundary = Boundary.WORD,
    stages: frozenset[Stage] = frozenset(Stage),
    mode: Mode = Mode.ENFORCE,
    disguises: frozenset[Disguise] = frozenset(Disguise),
    thresholds: dict[Stage, float] | None = None,
) -> CompiledRule:
    compiled = tuple(CompiledRegex(r, True, check_regex(r)) for r in regexes)
    return CompiledRule(
        rule_id, "prv", stages, action, mode, tuple(phrases), boundary, disguises, compiled,
        thresholds,
    )  # fmt: skip


def policy(*rules: CompiledRule, on_tier_failure: str = "close") -> CompiledPolicy:
    digest = hashlib.sha256(repr((rules, on_tier_failure)).encode()).hexdigest()
    messages = {"en": REFUSAL, "de": "Dabei kann ich nicht helfen."}
    return CompiledPolicy(
        "test", digest, Mode.ENFORCE, rules, messages, "en", {"patterns": "on"}, on_tier_failure
    )
