"""The frozen form of a policy that the hot path reads. Built only by ``prism.policy.compiler``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prism.types import Action, Boundary, Disguise, Mode, Stage

SELFTEST_RULE = "prism.selftest"
"""Id of the rule every compiled policy carries; it is enforced even in monitor mode."""

SELFTEST_PHRASE = "prism canary vorquelle"
"""A made-up phrase that the start-up self-test sends through the running engine."""


@dataclass(frozen=True, slots=True)
class CompiledRegex:
    """A linted pattern. ``max_width`` bounds, in characters, what can be held back for it."""

    pattern: str
    ignore_case: bool
    max_width: int


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """One rule in effect, after inheritance and floors."""

    id: str
    category: str
    stages: frozenset[Stage]
    action: Action
    mode: Mode
    phrases: tuple[str, ...] = ()
    boundary: Boundary = Boundary.WORD
    disguises: frozenset[Disguise] = frozenset(Disguise)
    regexes: tuple[CompiledRegex, ...] = ()
    thresholds: Mapping[Stage, float] | None = None
    plain_language: str | None = None
    pii: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy in effect. Equal digests mean equal behaviour."""

    id: str
    digest: str  # sha256 hex over the canonical JSON of everything that changes behaviour
    mode: Mode
    rules: tuple[CompiledRule, ...]
    messages: Mapping[str, str]  # BCP 47 locale -> refusal text
    locale: str  # the default locale; always a key of ``messages``
    tiers: Mapping[str, str]  # tier name -> "off" | "on"
    on_tier_failure: str  # "close" | "open"
    watermark: str = "off"  # "off" | "required"
    unknown_language: str = "allow"  # "allow" | "flag" | "block"
    token_scores: str = "on"  # "on" | "off": whether the token layer acts on scores

    def rule(self, rule_id: str) -> CompiledRule:
        """Return the rule with that id. Raises ``KeyError``."""
        for rule in self.rules:
            if rule.id == rule_id:
                return rule
        raise KeyError(rule_id)

    def rules_for(self, stage: Stage) -> tuple[CompiledRule, ...]:
        """Return the rules that apply at ``stage``, in the policy's order."""
        return tuple(rule for rule in self.rules if stage in rule.stages)

    def message(self, locale: str | None = None) -> str:
        """Return the refusal in ``locale``, its language, or the default locale."""
        for key in (locale, (locale or "").split("-")[0]):
            if key and key in self.messages:
                return self.messages[key]
        return self.messages[self.locale]
