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
    pii: Sequence[str] = (),
    category: str = "prv",
    plain_language: str | None = None,
) -> CompiledRule:
    compiled = tuple(CompiledRegex(r, True, check_regex(r)) for r in regexes)
    return CompiledRule(
        rule_id, category, stages, action, mode, tuple(phrases), boundary, disguises, compiled,
        thresholds, plain_language, tuple(pii),
    )  # fmt: skip


def policy(
    *rules: CompiledRule,
    on_tier_failure: str = "close",
    tiers: Sequence[str] = (),
    mode: Mode = Mode.ENFORCE,
    unknown_language: str = "allow",
) -> CompiledPolicy:
    """Return a policy with ``tiers`` on beside the patterns."""
    known = repr((rules, on_tier_failure, tiers, mode, unknown_language))
    return CompiledPolicy(
        "test",
        hashlib.sha256(known.encode()).hexdigest(),
        mode,
        rules,
        {"en": REFUSAL, "de": "Dabei kann ich nicht helfen."},
        "en",
        {"patterns": "on", **dict.fromkeys(tiers, "on")},
        on_tier_failure,
        unknown_language=unknown_language,
    )
