"""The canonical form of a compiled policy, and the digest over it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from prism.policy.compiled import CompiledPolicy, CompiledRule

FORMAT = 1
"""Raised when the same form comes to mean something else."""


def canonical_rule(rule: CompiledRule) -> dict[str, Any]:
    """Return ``rule`` as plain data, in one order whatever the order it was written in."""
    data: dict[str, Any] = {
        "id": rule.id,
        "category": rule.category,
        "stages": sorted(stage.value for stage in rule.stages),
        "action": str(rule.action),
        "mode": rule.mode.value,
        "phrases": sorted(set(rule.phrases)),
        "boundary": rule.boundary.value,
        "disguises": sorted(d.value for d in rule.disguises),
        "regexes": sorted(
            ({"pattern": r.pattern, "ignore_case": r.ignore_case} for r in set(rule.regexes)),
            key=lambda r: (str(r["pattern"]), bool(r["ignore_case"])),
        ),
    }
    if rule.thresholds is not None:
        data["thresholds"] = {stage.value: rule.thresholds[stage] for stage in rule.thresholds}
    if rule.plain_language is not None:
        data["plain_language"] = rule.plain_language
    if rule.pii:
        data["pii"] = sorted(set(rule.pii))
    return data


def canonical(policy: CompiledPolicy) -> dict[str, Any]:
    """Return everything of ``policy`` that changes behaviour; its name doesn't."""
    return {
        "format": FORMAT,
        "mode": policy.mode.value,
        "rules": [canonical_rule(r) for r in sorted(policy.rules, key=lambda r: r.id)],
        "messages": dict(policy.messages),
        "locale": policy.locale,
        "tiers": dict(policy.tiers),
        "on_tier_failure": policy.on_tier_failure,
        "watermark": policy.watermark,
        "unknown_language": policy.unknown_language,
        "token_scores": policy.token_scores,
    }


def with_digest(policy: CompiledPolicy) -> CompiledPolicy:
    """Return ``policy`` with the digest of what it now is."""
    text = json.dumps(canonical(policy), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return replace(policy, digest=digest)
