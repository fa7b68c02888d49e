"""From composed layers to the frozen form that the hot path reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from prism.documents import Problem
from prism.policy.canonical import with_digest
from prism.policy.compiled import (
    SELFTEST_PHRASE,
    SELFTEST_RULE,
    CompiledPolicy,
    CompiledRegex,
    CompiledRule,
)
from prism.policy.compose import Composed, ComposedRule, apply_floor, compose
from prism.policy.errors import PolicyError
from prism.policy.loader import read_layers
from prism.policy.model import PLAIN_LANGUAGE_THRESHOLD, TIERS, RegexEntry, Thresholds
from prism.taxonomy import SELFTEST_CATEGORY
from prism.types import Action, Boundary, Disguise, Mode, Stage

DEFAULT_MESSAGE = "I can't help with that."
DEFAULT_LOCALE = "en"

_SELFTEST = CompiledRule(
    id=SELFTEST_RULE,
    category=SELFTEST_CATEGORY,
    stages=frozenset(Stage),
    action=Action.BLOCK,
    mode=Mode.ENFORCE,
    phrases=(SELFTEST_PHRASE,),
)


def load_policy(ref: str | Path, *, floor: str | Path | None = None) -> CompiledPolicy:
    """Return the policy at ``ref`` (a path or a shipped name), at least as strict as ``floor``.

    Raises ``PolicyError`` with everything that is wrong.
    """
    problems: list[Problem] = []
    loaded: list[CompiledPolicy] = []
    for each in (ref, floor):
        if each is None:
            continue
        try:
            loaded.append(compile_policy(compose_policy(each)))
        except PolicyError as error:
            problems.extend(error.problems)
    if problems:
        raise PolicyError(problems)
    return loaded[0] if floor is None else apply_floor(loaded[0], loaded[1])


def compose_policy(ref: str | Path) -> Composed:
    """Return the policy at ``ref`` after inheritance. Raises ``PolicyError``."""
    composed, problems = compose(read_layers(ref))
    if not problems:
        return composed
    # What compiling would complain of too is worth hearing in the same run.
    _, more = _compile(composed)
    raise PolicyError([*problems, *more])


def compile_policy(composed: Composed) -> CompiledPolicy:
    """Return the frozen form of ``composed``. Raises ``PolicyError``."""
    policy, problems = _compile(composed)
    if problems:
        raise PolicyError(problems)
    return policy


def _compile(composed: Composed) -> tuple[CompiledPolicy, list[Problem]]:
    problems: list[Problem] = []
    rules = [_rule(rule) for rule in composed.rules.values()]
    in_effect = [rule for rule in rules if rule is not None and rule.action > Action.ALLOW]
    keys = composed.keys
    mode = Mode(keys["mode"].value) if "mode" in keys else Mode.ENFORCE
    if mode is Mode.MONITOR:  # the self-test's own rule stays enforced
        in_effect = [replace(rule, mode=mode) for rule in in_effect]
    messages = {tag: str(s.value) for tag, s in composed.group("messages").items()}
    locale = str(keys["locale"].value) if "locale" in keys else DEFAULT_LOCALE
    if not messages:
        messages = {DEFAULT_LOCALE: DEFAULT_MESSAGE}
    if locale not in messages:
        problems.append(_no_message(composed, locale, messages))
    policy = CompiledPolicy(
        id=composed.id,
        digest="",
        mode=mode,
        rules=tuple(sorted([*in_effect, _SELFTEST], key=lambda r: r.id)),
        messages=MappingProxyType(dict(sorted(messages.items()))),
        locale=locale,
        tiers=_tiers(composed, in_effect),
        on_tier_failure=keys["on_tier_failure"].value if "on_tier_failure" in keys else "close",
        watermark=keys["watermark"].value if "watermark" in keys else "off",
        unknown_language=str(keys["unknown_language"].value)
        if "unknown_language" in keys
        else "allow",
        token_scores=str(keys["token_scores"].value) if "token_scores" in keys else "on",
    )
    return with_digest(policy), problems


def _tiers(composed: Composed, rules: Sequence[CompiledRule]) -> Mapping[str, str]:
    """Return what is on: what the files say, else what the rules need."""
    said = composed.group("tiers")
    scored = any(rule.thresholds and rule.plain_language is None for rule in rules)
    plain = any(rule.plain_language is not None for rule in rules)
    needed = {"sketch": scored, "encoder": scored, "guard": plain}
    return MappingProxyType(
        {t: str(said[t].value) if t in said else "on" if needed[t] else "off" for t in TIERS}
    )


def _no_message(composed: Composed, locale: str, messages: Mapping[str, str]) -> Problem:
    fix = f"add `messages: {{{locale}: …}}`, or set `locale` to {', '.join(sorted(messages))}"
    message = f"there is no message in the default locale {locale!r}"
    if "locale" in composed.keys:
        return composed.keys["locale"].problem(message, fix)
    return next(iter(composed.group("messages").values())).problem(message, fix)


def _rule(rule: ComposedRule) -> CompiledRule | None:
    """Return ``rule`` frozen; ``None`` where it lacks what only inheritance could have given."""
    if "category" not in rule.keys or "action" not in rule.keys:
        return None
    disguises = rule.get("disguises", [d.value for d in Disguise])
    return CompiledRule(
        id=rule.id,
        category=str(rule.get("category")),
        stages=frozenset(map(Stage, rule.get("stages", ["prompt", "output"]))),
        action=Action.parse(rule.get("action")),
        mode=Mode(rule.get("mode", "enforce")),
        phrases=tuple(sorted(set(rule.get("phrases", [])))),
        boundary=Boundary(rule.get("boundary", "word")),
        disguises=frozenset(map(Disguise, disguises)),
        regexes=_regexes(rule),
        thresholds=_scores(rule),
        plain_language=rule.get("plain_language"),
        pii=_kinds(rule.get("pii", [])),
    )


def _scores(rule: ComposedRule) -> Mapping[Stage, float] | None:
    """Return from which score on ``rule`` fires, at each of its stages.

    Those of a rule in plain language count for the guard's answer to it.
    """
    thresholds: Thresholds | None = rule.get("thresholds")
    plain = rule.get("plain_language") is not None
    if thresholds is None and not plain:
        return None
    said = {} if thresholds is None else thresholds.model_dump(exclude_none=True)
    scores: dict[Stage, float] = {}
    for name in rule.get("stages", ["prompt", "output"]):
        if name in said:
            scores[Stage(name)] = said[name]
        elif plain:
            scores[Stage(name)] = PLAIN_LANGUAGE_THRESHOLD
    return MappingProxyType({stage: scores[stage] for stage in Stage if stage in scores})


def _kinds(names: list[str]) -> tuple[str, ...]:
    if not names:
        return ()
    from prism.match.pii.kinds import expand  # late, as below

    return expand(names)


def _regexes(rule: ComposedRule) -> tuple[CompiledRegex, ...]:
    entries: list[RegexEntry] = rule.get("regexes", [])
    if not entries:
        return ()
    # Imported late: the matcher takes numba along, and `prism --help` needs neither.
    from prism.match.regexes import check_regex

    compiled = {CompiledRegex(e.pattern, e.ignore_case, check_regex(e.pattern)) for e in entries}
    return tuple(sorted(compiled, key=lambda r: (r.pattern, r.ignore_case)))
