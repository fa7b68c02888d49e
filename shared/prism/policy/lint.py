"""Everything that is wrong with a policy file, and what is legal but hardly meant.

Errors are what loading refuses; warnings are for the author. The other data files (tests, taxonomy,
register of marginal risk, configuration) are recognised by their keys and checked likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from prism.documents import Document, Problem, ProblemsError, read, validate
from prism.policy.compiled import SELFTEST_RULE, CompiledPolicy
from prism.policy.compiler import compile_policy, compose_policy, load_policy
from prism.policy.compose import Composed, ComposedRule, compose, dominates
from prism.policy.store import display, locate
from prism.policy.testing import SUFFIX, TestsFile, check_tests
from prism.taxonomy import check_register, check_taxonomy
from prism.types import Mode

_TIERS_OF = {
    "thresholds": (("sketch", "encoder", "guard"), "no score tier is on in this policy"),
    "plain_language": (("guard",), "the guard tier is off in this policy"),
}
MIN_LETTERS = 3
_OF_A_CONFIGURATION = frozenset({"policy", "floor", "tenants", "anonymous", "audit", "guard"})
"""Keys that tell a ``prism.yaml`` from a policy whose ``prism: 1`` was forgotten."""


def lint(ref: str | Path, *, floor: str | Path | None = None) -> tuple[Problem, ...]:
    """Return all problems of the file ``ref``, errors and warnings, in the order of the lines."""
    try:
        problems = list(_lint(ref, floor))
    except ProblemsError as error:
        problems = list(error.problems)
    return tuple(sorted(set(problems), key=lambda p: (p.file, p.line, p.column, p.message)))


def _lint(ref: str | Path, floor: str | Path | None) -> Iterator[Problem]:
    path = locate(ref)
    if other := _other_kind(path):
        document = read(path, name=display(path))
        yield from other(document)
        return
    composed = compose_policy(ref)
    policy = own = compile_policy(composed)
    if floor is not None:
        floor_policy = load_policy(floor)
        policy = load_policy(ref, floor=floor)
        if floor_policy.mode is Mode.MONITOR:
            message = "as a floor, a policy in monitor mode holds nobody to anything"
            yield Problem(str(floor), 0, 0, "mode", message, "write `mode: enforce`", "warning")
    for rule in composed.rules.values():
        yield from _off(rule, composed, policy)
        yield from _unscored_stages(rule)
        yield from _unscored(rule, policy)
        yield from _out_of_reach(rule)
        yield from _doubtful_phrases(rule)
    yield from _no_rules(composed, policy)
    yield from _loosened(composed, own)
    yield from _own_messages(composed, policy)


def _other_kind(path: Path) -> Callable[[Document], list[Problem]] | None:
    """Return the check of a data file that isn't a policy; ``None`` for everything else."""
    if path.name.endswith(SUFFIX):
        return _lint_tests
    try:
        root = read(path).root.value
    except ProblemsError:
        return None  # reported where the policy is read
    if "tenant" in root and "id" not in root:
        return _lint_tenant
    if "prism" in root:
        return None
    if not {"id", "rules"} & root.keys() and root.keys() & _OF_A_CONFIGURATION:
        return lambda document: _lint_configuration(path)
    if "taxonomy" in root:
        return lambda document: check_taxonomy(document)[1]
    return (lambda document: check_register(document)[1]) if "risk_register" in root else None


def _lint_tests(document: Document) -> list[Problem]:
    return check_tests(document, validate(document, TestsFile))


def _lint_tenant(document: Document) -> list[Problem]:
    """A tenant's policy depends on the server's: by itself the file says little."""
    message = "is a tenant's file, not a policy"
    fix = "lint the configuration that names its folder, as in `prism policy lint prism.yaml`"
    return [Problem(document.file, 0, 0, "", message, fix)]


def _lint_configuration(path: Path) -> list[Problem]:
    from prism.config import ConfigError, Settings  # late: it takes this package along

    try:
        Settings.load(path)
    except ConfigError as error:
        return list(error.problems)
    return []


def _warn(problem: Problem) -> Problem:
    return replace(problem, severity="warning")


def _off(rule: ComposedRule, composed: Composed, policy: CompiledPolicy) -> Iterator[Problem]:
    """Warn of a key of this file that waits for a tier which is switched off."""
    for key, (tiers, why) in _TIERS_OF.items():
        if rule.get("action") == "allow" or not rule.get(key):
            continue
        here = rule.keys[key].document is composed.layers[-1].document
        said = any(f"tiers.{tier}" in composed.keys for tier in tiers)
        if here and said and all(policy.tiers[tier] == "off" for tier in tiers):
            fix = f"write `tiers: {{{tiers[0]}: on}}`, or remove the key"
            yield _warn(rule.keys[key].problem(f"{why}, so this key does nothing", fix))


def _unscored_stages(rule: ComposedRule) -> Iterator[Problem]:
    """Warn of thresholds that are all for stages at which the rule doesn't look."""
    thresholds = rule.get("thresholds")
    if thresholds is None or rule.get("action") == "allow":
        return
    said = set(thresholds.model_dump(exclude_none=True))
    stages = rule.get("stages", ["prompt", "output"])
    if not said & set(stages):
        message = "names no stage at which the rule looks, so it does nothing"
        yield _warn(rule.keys["thresholds"].problem(message, f"give one for {' or '.join(stages)}"))


def _unscored(rule: ComposedRule, policy: CompiledPolicy) -> Iterator[Problem]:
    """Warn of thresholds on a category that no shipped model has a score of."""
    category = rule.get("category")
    scored = rule.get("thresholds") and not rule.get("plain_language")
    if not scored or rule.get("action") == "allow" or policy.tiers["guard"] == "on":
        return
    from prism.classify.models import Models  # late: it takes the models along

    models = Models.shared()
    try:
        known = category in models.sketch.categories or category in models.encoder.categories
    except ProblemsError:  # the file is not to blame
        return
    if not known:
        message = f"no score model of this version knows the category {category!r}"
        fix = "add phrases or regexes, or a guard model that knows it"
        yield _warn(rule.keys["thresholds"].problem(message, fix))


def _out_of_reach(rule: ComposedRule) -> Iterator[Problem]:
    """Warn of an action that does less than it says where the rule looks."""
    action = rule.get("action")
    if action not in ("redact", "steer"):
        return
    source = rule.keys["action"]
    if "prompt" in rule.get("stages", ["prompt"]):
        message = f"`{action}` changes outputs only: at the prompt stage it is recorded, no more"
        yield _warn(source.problem(message, "write `stages: [output]`, or `block` prompts"))
    if rule.get("thresholds") and "output" in rule.get("stages", ["output"]):
        message = f"a score has no place in the text to {action}: where it fires, the output ends"
        yield _warn(rule.keys["thresholds"].problem(message, "use `action: block`, or `flag`"))
    if action == "steer" and rule.get("regexes"):
        message = "only phrases can be steered: where a regex matches, the output is blocked"
        yield _warn(rule.keys["regexes"].problem(message, "use phrases, or `action: block`"))
    if action == "steer" and rule.get("pii"):
        message = "only phrases can be steered: where personal data is, the output is blocked"
        yield _warn(rule.keys["pii"].problem(message, "write `action: redact` or `action: block`"))


def _doubtful_phrases(rule: ComposedRule) -> Iterator[Problem]:
    from prism.text import normalise_phrase

    if "phrases" not in rule.keys or rule.get("action") == "allow":
        return
    source = rule.keys["phrases"]

    def warning(index: int, message: str, fix: str) -> Problem:
        # Those of `phrases_from` come behind the ones written here.
        place = (index,) if source.document.has((*source.path, index)) else ()
        return _warn(source.problem(message, fix, *place))

    seen: dict[str, str] = {}
    for index, phrase in enumerate(source.value):
        plain = normalise_phrase(phrase)
        if plain in seen:
            message = f"{phrase!r} is the same as {seen[plain]!r} to the matcher"
            yield warning(index, message, "remove one of them")
        seen.setdefault(plain, phrase)
        if len(plain.replace(" ", "")) < MIN_LETTERS:
            message = f"{phrase!r} is so short that it will match by chance"
            yield warning(index, message, "add words that tell it apart")


def _no_rules(composed: Composed, policy: CompiledPolicy) -> Iterator[Problem]:
    """Warn of a policy under which everything passes."""
    if all(rule.id == SELFTEST_RULE for rule in policy.rules):
        message = "looks for nothing, so every text passes"
        document = composed.layers[-1].document
        yield _warn(document.problem(("id",), message, "add `rules`, or `extends: default`"))


def _loosened(composed: Composed, policy: CompiledPolicy) -> Iterator[Problem]:
    """Warn of an inherited rule that the file loosens without saying why."""
    if len(composed.layers) < 2:
        return
    parent, problems = compose(composed.layers[:-1])
    if problems:
        return
    before = {rule.id: rule for rule in compile_policy(parent).rules}
    after = {rule.id: rule for rule in policy.rules}
    for index, entry in enumerate(composed.layers[-1].file.rules):
        old, new = before.get(entry.id), after.get(entry.id)
        if old is None or "rationale" in entry.model_fields_set:
            continue
        if new is None or not dominates(new, old):
            message = f"changes the inherited rule {entry.id!r} so that it catches or does less"
            document = composed.layers[-1].document
            fix = "add `rationale: …` that says why"
            yield _warn(document.problem(("rules", index), message, fix))


def _own_messages(composed: Composed, policy: CompiledPolicy) -> Iterator[Problem]:
    """A refusal that the policy itself would block could never be shown."""
    from prism.moderator import Moderator  # late: it takes the compiled matcher along

    # The patterns alone: whoever lints a policy need not have its guard model at hand.
    moderator = Moderator(replace(policy, tiers={}, unknown_language="allow"))
    written = composed.group("messages")
    for tag, text in policy.messages.items():
        decision = moderator.check_output(text)
        if decision.findings:
            fired = ", ".join(dict.fromkeys(f.rule for f in decision.findings))
            message = f"the message in {tag!r} is caught by the policy's own rule {fired}"
            fix = "word the message without what the rule looks for"
            if tag in written:
                yield written[tag].problem(message, fix)
            else:
                yield Problem(display(composed.layers[-1].path), 0, 0, "messages", message, fix)
