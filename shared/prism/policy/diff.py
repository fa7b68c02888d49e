"""What differs between two policies in effect, and in which direction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from prism.policy.canonical import canonical, canonical_rule
from prism.policy.compiled import CompiledPolicy, CompiledRule
from prism.policy.compose import UNKNOWN_LANGUAGE, dominates

Direction = Literal["stricter", "looser", "mixed", "wording"]


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. ``key`` is dotted; ``rule`` is empty for the policy's own keys.

    ``direction`` is that of the rule as a whole: ``stricter`` where the new one catches all that
    the old one did and more, ``looser`` the other way round, else ``mixed``.
    """

    rule: str
    key: str
    old: Any
    new: Any
    direction: Direction

    def to_json(self) -> dict[str, Any]:
        """Return the change as plain data."""
        return asdict(self)


def diff(old: CompiledPolicy, new: CompiledPolicy) -> tuple[Change, ...]:
    """Return what differs in behaviour; the order and place of what is written don't matter."""
    return (*_own_keys(old, new), *_rules(old, new))


_STRICTER = {
    "mode": "enforce",
    "on_tier_failure": "close",
    "token_scores": "on",
    "watermark": "required",
}


def _own_keys(old: CompiledPolicy, new: CompiledPolicy) -> list[Change]:
    before, after = _flat(canonical(old)), _flat(canonical(new))
    changes = []
    for key in sorted({*before, *after}):
        was, now = before.get(key), after.get(key)
        if was == now:
            continue
        direction: Direction = "wording"
        if key in _STRICTER:
            direction = "stricter" if now == _STRICTER[key] else "looser"
        elif key.startswith("tiers."):
            direction = "stricter" if now == "on" else "looser"
        elif key == "unknown_language":
            order = UNKNOWN_LANGUAGE.index
            direction = "stricter" if order(str(now)) > order(str(was)) else "looser"
        changes.append(Change("", key, was, now, direction))
    return changes


def _flat(data: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if key in ("rules", "format"):
            continue
        if isinstance(value, Mapping):
            flat.update({f"{key}.{name}": item for name, item in value.items()})
        else:
            flat[key] = value
    return flat


def _rules(old: CompiledPolicy, new: CompiledPolicy) -> list[Change]:
    before = {rule.id: rule for rule in old.rules}
    after = {rule.id: rule for rule in new.rules}
    changes: list[Change] = []
    for rule_id in sorted({*before, *after}):
        was, now = before.get(rule_id), after.get(rule_id)
        if was is None and now is not None:
            changes.append(Change(rule_id, "", None, canonical_rule(now), "stricter"))
        elif now is None and was is not None:
            changes.append(Change(rule_id, "", canonical_rule(was), None, "looser"))
        elif was is not None and now is not None:
            changes += _rule(was, now)
    return changes


def _rule(was: CompiledRule, now: CompiledRule) -> list[Change]:
    before, after = canonical_rule(was), canonical_rule(now)
    keys = [k for k in sorted({*before, *after}) if before.get(k) != after.get(k)]
    direction: Direction = "mixed"
    if dominates(now, was):
        direction = "stricter"
    elif dominates(was, now):
        direction = "looser"
    return [Change(was.id, key, before.get(key), after.get(key), direction) for key in keys]


def list_change(old: Any, new: Any) -> tuple[list[Any], list[Any]] | None:
    """Return what a list lost and gained; ``None`` where the values aren't lists."""
    if not (isinstance(old, list) and isinstance(new, list)):
        return None
    return _missing(old, new), _missing(new, old)


def _missing(items: list[Any], others: list[Any]) -> list[Any]:
    """Return those of ``items`` that aren't among ``others``; there may be 100,000 of each."""
    known = {json.dumps(item, sort_keys=True) for item in others}
    return [item for item in items if json.dumps(item, sort_keys=True) not in known]
