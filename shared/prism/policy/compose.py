"""Inheritance and floors.

``compose`` lays the files of a chain over each other: what a file writes replaces what it
inherits, key by key, and in rules of the same id likewise.

``stricter`` takes two compiled policies and returns one that does, on every text, whatever the
stricter of the two does. It holds because it only ever *keeps* rules: a rule is left out only where
another one ``dominates`` it, and two rules are joined only where they differ in nothing but what
they look for. So a floor can be checked without running anything: each of its rules is dominated
by a rule of the result (``missing_from``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from prism.documents import Document, NodePath, did_you_mean
from prism.documents.problems import Problem
from prism.policy.canonical import canonical_rule, with_digest
from prism.policy.compiled import CompiledPolicy, CompiledRule
from prism.policy.loader import Layer
from prism.policy.model import RuleEntry, Tiers
from prism.taxonomy import HARM
from prism.types import Boundary, Mode, Stage

DETECTORS = ("phrases", "regexes", "thresholds", "plain_language", "pii")
UNKNOWN_LANGUAGE = ("allow", "flag", "block")
"""What a policy may do with a text in a language that the models don't know, loosest first."""

_ABOUT = frozenset({"prism", "id", "title", "extends", "rationale", "dissent", "approvers"})
"""Keys of a policy file that say something about that file and are not inherited."""


@dataclass(frozen=True, slots=True)
class Sourced:
    """A value with the place it was written at."""

    value: Any
    document: Document
    path: NodePath

    @property
    def origin(self) -> str:
        """``file:line``."""
        line = self.document.position(self.path, of_key=True)[0]
        return f"{self.document.file}:{line}"

    def problem(self, message: str, fix: str, *within: str | int) -> Problem:
        """Return a problem with the value, or with what stands at ``within`` inside it."""
        return self.document.problem((*self.path, *within), message, fix)


@dataclass(slots=True)
class ComposedRule:
    """A rule after inheritance; every key knows who wrote it."""

    id: str
    place: Sourced  # the last file that mentions the rule
    keys: dict[str, Sourced] = field(default_factory=dict)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of ``key``."""
        return self.keys[key].value if key in self.keys else default


@dataclass(slots=True)
class Composed:
    """A policy after inheritance, before compiling. ``keys`` are dotted: ``messages.en``."""

    layers: tuple[Layer, ...]
    keys: dict[str, Sourced]
    rules: dict[str, ComposedRule]

    @property
    def id(self) -> str:
        """The policy's own id."""
        return self.layers[-1].file.id

    def group(self, prefix: str) -> dict[str, Sourced]:
        """Return the keys under ``prefix``, without it."""
        cut = len(prefix) + 1
        return {k[cut:]: v for k, v in self.keys.items() if k.startswith(f"{prefix}.")}


def compose(layers: Sequence[Layer]) -> tuple[Composed, list[Problem]]:
    """Merge ``layers`` (ancestor first); return the result and what is wrong with it."""
    composed = Composed(tuple(layers), {}, {})
    problems: list[Problem] = []
    for layer in layers:
        last = layer is layers[-1]
        for key in layer.file.model_fields_set - {"rules"}:
            if key not in _ABOUT or last:
                _put(composed.keys, key, getattr(layer.file, key), layer.document)
        seen: dict[str, int] = {}
        for index, entry in enumerate(layer.file.rules):
            path = ("rules", index)
            if entry.id in seen:
                line = layer.document.position(("rules", seen[entry.id]))[0]
                message = f"a rule {entry.id!r} is already given on line {line}"
                fix = "join the two, or rename one"
                problems.append(layer.document.problem((*path, "id"), message, fix))
                continue
            seen[entry.id] = index
            if entry.phrases_from is not None:  # the loader has read those of policy files
                message = "is read for policy files only"
                fix = "write the phrases here, or the list into the policy's own file"
                problems.append(layer.document.problem((*path, "phrases_from"), message, fix))
            _put_rule(composed.rules, entry, layer.document, path)
    for rule in composed.rules.values():
        problems.extend(_incomplete(rule, composed.rules))
    return composed, problems


def _put(keys: dict[str, Sourced], key: str, value: Any, document: Document) -> None:
    if isinstance(value, Tiers):
        value = value.model_dump(exclude_none=True)
    if isinstance(value, Mapping):  # messages, tiers, marginal_risk: merged entry by entry
        for name, item in value.items():
            keys[f"{key}.{name}"] = Sourced(item, document, (key, name))
    else:
        keys[key] = Sourced(value, document, (key,))


def _put_rule(
    rules: dict[str, ComposedRule], entry: RuleEntry, document: Document, path: NodePath
) -> None:
    place = Sourced(entry, document, path)
    rule = rules.setdefault(entry.id, ComposedRule(entry.id, place))
    rule.place = place
    for key in entry.model_fields_set - {"id"}:
        written = (*path, key)
        if key == "phrases" and not document.has(written):
            written = (*path, "phrases_from")
        rule.keys[key] = Sourced(getattr(entry, key), document, written)


def _incomplete(rule: ComposedRule, rules: Mapping[str, ComposedRule]) -> Iterable[Problem]:
    """Yield what a new rule lacks; a misspelt id of an inherited rule shows here too."""
    here = rule.place.document
    others = [other.id for other in rules.values() if other.place.document is not here]
    hint = did_you_mean(rule.id, others, "-") if others else "-"
    meant = f", or {hint}" if hint != "-" else ""
    for key, example in (("category", "prv"), ("action", "block")):
        if key not in rule.keys:
            yield rule.place.problem(
                f"the new rule {rule.id!r} has no {key}", f"add `{key}: {example}`{meant}"
            )
    if not any(rule.get(key) for key in DETECTORS) and rule.get("action") != "allow":
        yield rule.place.problem(
            f"the rule {rule.id!r} looks for nothing",
            f'add `phrases: ["zephyr lantern"]` or `regexes: […]`{meant}',
        )
    if rule.get("category") == HARM:
        for key in ("phrases", "regexes", "pii", "plain_language"):
            if rule.get(key):
                message = "is for thresholds only: `harm` is what the score models say of a text"
                where = rule.keys["category"]
                yield where.problem(message, f"name the category that the {key} belong to")


def _scored(rule: CompiledRule) -> bool:
    """Return whether a model can make it fire: on the category, or on what its sentence says."""
    return rule.plain_language is not None or bool(rule.thresholds)


def _thresholds_reach(strict: CompiledRule, loose: CompiledRule) -> bool:
    have: Mapping[Stage, float] = strict.thresholds or {}
    need: Mapping[Stage, float] = loose.thresholds or {}
    return all(stage in have and have[stage] <= score for stage, score in need.items())


def dominates(strict: CompiledRule, loose: CompiledRule) -> bool:
    """Return whether ``strict`` fires wherever ``loose`` does, and asks for at least as much."""
    return (
        strict.category == loose.category
        and strict.action >= loose.action
        and (strict.mode is Mode.ENFORCE or loose.mode is Mode.MONITOR)
        and strict.stages >= loose.stages
        and (strict.boundary is Boundary.NONE or loose.boundary is Boundary.WORD)
        and strict.disguises >= loose.disguises
        and set(strict.phrases) >= set(loose.phrases)
        and set(strict.regexes) >= set(loose.regexes)
        and set(strict.pii) >= set(loose.pii)
        and (not _scored(loose) or strict.plain_language == loose.plain_language)
        and _thresholds_reach(strict, loose)
    )


def missing_from(policy: CompiledPolicy, floor: CompiledPolicy) -> tuple[CompiledRule, ...]:
    """Return the rules of ``floor`` that no rule of ``policy`` dominates: none means it holds."""
    return tuple(rule for rule in floor.rules if not any(dominates(r, rule) for r in policy.rules))


def _base_id(rule: CompiledRule) -> str:
    return rule.id.split("#", 1)[0]


def _joinable(rule: CompiledRule) -> str:
    """Equal for rules that differ in phrases, regexes and PII kinds only."""
    bare = replace(rule, id=_base_id(rule), phrases=(), regexes=(), pii=())
    return json.dumps(canonical_rule(bare), sort_keys=True)


def _join(rules: Sequence[CompiledRule]) -> CompiledRule:
    return replace(
        rules[0],
        id=_base_id(rules[0]),
        phrases=tuple(sorted({p for r in rules for p in r.phrases})),
        regexes=tuple(
            sorted({x for r in rules for x in r.regexes}, key=lambda x: (x.pattern, x.ignore_case))
        ),
        pii=tuple(sorted({p for r in rules for p in r.pii})),
    )


def _stricter_rules(rules: Iterable[CompiledRule]) -> tuple[CompiledRule, ...]:
    """Join and prune rules of the same id; where several remain, number them ``id#2``, ``id#3``."""
    groups: dict[str, dict[str, list[CompiledRule]]] = {}
    for rule in rules:
        groups.setdefault(_base_id(rule), {}).setdefault(_joinable(rule), []).append(rule)
    result: list[CompiledRule] = []
    for base, group in groups.items():
        joined = [_join(same) for same in group.values()]
        kept = [
            rule
            for rule in joined
            if not any(dominates(other, rule) for other in joined if other is not rule)
        ]
        # Strictest first; the order must not depend on which policy came first.
        kept.sort(key=lambda r: (-r.action, r.mode, json.dumps(canonical_rule(r), sort_keys=True)))
        result += [
            rule if number == 1 else replace(rule, id=f"{base}#{number}")
            for number, rule in enumerate(kept, start=1)
        ]
    return tuple(sorted(result, key=lambda r: r.id))


def stricter(a: CompiledPolicy, b: CompiledPolicy) -> CompiledPolicy:
    """Return the stricter of both, rule by rule; the same either way round, but for the id.

    Where both word a message differently, the alphabetically first wording is taken.
    """
    mode = Mode.ENFORCE if Mode.ENFORCE in (a.mode, b.mode) else Mode.MONITOR
    messages = {
        tag: min(p.messages[tag] for p in (a, b) if tag in p.messages)
        for tag in sorted({*a.messages, *b.messages})
    }
    tiers = {
        name: "on" if "on" in (a.tiers.get(name), b.tiers.get(name)) else "off"
        for name in sorted({*a.tiers, *b.tiers})
    }
    close = "close" in (a.on_tier_failure, b.on_tier_failure)
    foreign = max(a.unknown_language, b.unknown_language, key=UNKNOWN_LANGUAGE.index)
    marked = "required" in (a.watermark, b.watermark)
    return with_digest(
        CompiledPolicy(
            id=a.id if a.id == b.id else f"{a.id}+{b.id}",
            digest="",
            mode=mode,
            rules=_stricter_rules([*a.rules, *b.rules]),
            messages=MappingProxyType(messages),
            locale=min(a.locale, b.locale),
            tiers=MappingProxyType(tiers),
            on_tier_failure="close" if close else "open",
            watermark="required" if marked else "off",
            unknown_language=foreign,
            token_scores="on" if "on" in (a.token_scores, b.token_scores) else "off",
        )
    )


def apply_floor(policy: CompiledPolicy, floor: CompiledPolicy) -> CompiledPolicy:
    """Return ``policy`` with nothing in it looser than ``floor``; its own wording stays."""
    return with_digest(
        replace(
            stricter(policy, floor),
            id=policy.id,
            locale=policy.locale,
            messages=MappingProxyType(dict(sorted({**floor.messages, **policy.messages}.items()))),
        )
    )
