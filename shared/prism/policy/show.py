"""A policy in effect as one file that could stand for it, with where each value came from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prism.policy.canonical import canonical_rule
from prism.policy.compiled import SELFTEST_RULE, CompiledPolicy, CompiledRule
from prism.policy.compose import Composed, ComposedRule, Sourced
from prism.types import Disguise

DEFAULT = "default"
"""Stands for the origin of what nobody wrote."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A value in effect. ``origins``: ``file:line`` of whoever wrote it, or ``default``."""

    rule: str
    key: str
    value: Any
    origins: tuple[str, ...]


def explain(policy: CompiledPolicy, sources: tuple[Composed, ...]) -> list[Shown]:
    """Return every value of ``policy`` with its origins in ``sources`` (the policy, its floor)."""
    rows = [Shown("", "id", policy.id, _origin(sources[0].keys.get("id")))]
    own: dict[str, Any] = {
        "mode": policy.mode.value,
        "locale": policy.locale,
        **{f"messages.{tag}": text for tag, text in policy.messages.items()},
        **{f"tiers.{name}": state for name, state in policy.tiers.items()},
        "on_tier_failure": policy.on_tier_failure,
        "watermark": policy.watermark,
        "unknown_language": policy.unknown_language,
        "token_scores": policy.token_scores,
    }
    for key, value in own.items():
        writers = [s.keys[key] for s in sources if key in s.keys and s.keys[key].value == value]
        rows.append(Shown("", key, value, _origin(*writers)))
    for rule in policy.rules:
        if rule.id != SELFTEST_RULE:
            rows.extend(_explain_rule(rule, sources))
    return rows


def _origin(*writers: Sourced | None) -> tuple[str, ...]:
    found = [w.origin for w in writers if w is not None]
    return tuple(dict.fromkeys(found)) or (DEFAULT,)


def _explain_rule(rule: CompiledRule, sources: tuple[Composed, ...]) -> Iterator[Shown]:
    base = rule.id.split("#", 1)[0]
    written = [s.rules[base] for s in sources if base in s.rules]
    data = canonical_rule(rule)
    yield Shown(rule.id, "id", rule.id, _origin(*(w.place for w in written)))
    for key, value in data.items():
        if key != "id":
            writers = [w.keys[key] for w in written if _wrote(w, key, value)]
            if key == "mode" and not writers:  # a policy in monitor mode puts its rules into it
                own = [s.keys["mode"] for s in sources if "mode" in s.keys and base in s.rules]
                writers = [w for w in own if w.value == value == "monitor"]
            yield Shown(rule.id, key, value, _origin(*writers))
    for key in ("rationale", "dissent", "approvers"):
        said = [w.keys[key] for w in written if key in w.keys]
        if said:
            yield Shown(rule.id, key, _both([s.value for s in said]), _origin(*said))


def _both(said: list[Any]) -> Any:
    """Return what the policy and its floor say as one value; what they agree on stands once."""
    if isinstance(said[0], list):
        return list(dict.fromkeys(name for names in said for name in names))
    return " / ".join(dict.fromkeys(map(str, said)))


def _wrote(rule: ComposedRule, key: str, value: Any) -> bool:
    """Return whether what ``rule`` says under ``key`` is the ``value`` in effect or part of it."""
    if key not in rule.keys:
        return False
    said = rule.keys[key].value
    if key == "regexes":
        said = [{"pattern": r.pattern, "ignore_case": r.ignore_case} for r in said]
    elif key == "thresholds":
        said = said.model_dump(exclude_none=True)
        return all(said.get(stage) == score for stage, score in value.items())
    if key == "phrases":  # there may be very many
        return set(value).issuperset(said)
    if isinstance(value, list):
        return all(item in value for item in said)
    return bool(said == value)


def to_yaml(policy: CompiledPolicy, rows: list[Shown]) -> str:
    """Return ``rows`` as a policy file with the origins as comments."""
    lines = [f"# digest {policy.digest}", "prism: 1"]
    group, rule = "", ""
    for row in rows:
        if row.rule:
            if not rule:
                lines.append("rules:")
            indent = "  - " if row.rule != rule else "    "
            rule, key = row.rule, row.key
        else:
            head, _, tail = row.key.partition(".")
            if tail and head != group:
                lines.append(f"{head}:")
            group, indent, key = head, "  " if tail else "", tail or head
        value = "all" if key == "disguises" and len(row.value) == len(Disguise) else row.value
        lines.append(f"{indent}{key}: {_inline(value)}  # {', '.join(row.origins)}")
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> str:
    """Return ``value`` as JSON, which is YAML; plain where a bare word says the same."""
    if isinstance(value, str) and value.replace("-", "").replace("_", "").isalpha():
        return value if value.isascii() and value.lower() not in _RESERVED else json.dumps(value)
    return json.dumps(value, ensure_ascii=False)


_RESERVED = frozenset({"true", "false", "null"})
