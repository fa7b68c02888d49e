"""Everything that is wrong with a policy file, and what is legal but hardly meant.

Errors are what loading refuses; warnings are for the author. The other data files (tests, taxonomy,
register of marginal risk) are recognised by their first key and checked likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from prism.documents import Document, Problem, ProblemsError, read, validate
from prism.policy.compiled import CompiledPolicy
from prism.policy.compiler import compile_policy, compose_policy, load_policy
from prism.policy.compose import Composed, ComposedRule, compose, dominates
from prism.policy.model import AVAILABLE_TIERS
from prism.policy.store import display, locate
from prism.policy.testing import SUFFIX, TestsFile, check_tests
from prism.taxonomy import check_register, check_taxonomy
from prism.types import Mode

INERT = {
    "thresholds": ("the score models (sketch, encoder)", {"sketch", "encoder"}),
    "plain_language": ("guard models", {"guard"}),
    "pii": ("the detectors of personal data", {"pii"}),
}
MIN_LETTERS = 3


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
    policy = compile_policy(composed)
    if floor is not None:
        floor_policy = load_policy(floor)
        policy = load_policy(ref, floor=floor)
        if floor_policy.mode is Mode.MONITOR:
            message = "as a floor, a policy in monitor mode holds nobody to anything"
            yield Problem(str(floor), 0, 0, "mode", message, "write `mode: enforce`", "warning")
    for rule in composed.rules.values():
        yield from _inert(rule)
        yield from _out_of_reach(rule)
        yield from _doubtful_phrases(rule)
    yield from _loosened(composed)
    yield from _own_messages(composed, policy)


def _other_kind(path: Path) -> Callable[[Document], list[Problem]] | None:
    """Return the check of a data file that isn't a policy; ``None`` for everything else."""
    if path.name.endswith(SUFFIX):
        return _lint_tests
    try:
        root = read(path).root.value
    except ProblemsError:
        return None  # reported where the policy is read
    if "prism" in root:
        return None
    if "taxonomy" in root:
        return lambda document: check_taxonomy(document)[1]
    return (lambda document: check_register(document)[1]) if "risk_register" in root else None


def _lint_tests(document: Document) -> list[Problem]:
    return check_tests(document, validate(document, TestsFile))


def _warn(problem: Problem) -> Problem:
    return replace(problem, severity="warning")


def _inert(rule: ComposedRule) -> Iterator[Problem]:
    live = any(rule.get(key) for key in ("phrases", "regexes"))
    for key, (needs, tiers) in INERT.items():
        if key in rule.keys and rule.get(key) and not tiers & AVAILABLE_TIERS:
            effect = "this key does nothing" if live else f"the rule {rule.id!r} does nothing"
            yield _warn(
                rule.keys[key].problem(
                    f"{needs} are not part of this version, so {effect}",
                    "add phrases or regexes, or remove the key",
                )
            )


def _out_of_reach(rule: ComposedRule) -> Iterator[Problem]:
    """Warn of an action that does less than it says where the rule looks."""
    action = rule.get("action")
    if action not in ("redact", "steer"):
        return
    source = rule.keys["action"]
    if "prompt" in rule.get("stages", ["prompt"]):
        message = f"`{action}` changes outputs only: at the prompt stage it is recorded, no more"
        yield _warn(source.problem(message, "write `stages: [output]`, or `block` prompts"))
    if action == "steer" and rule.get("regexes"):
        message = "only phrases can be steered: where a regex matches, the output is blocked"
        yield _warn(rule.keys["regexes"].problem(message, "use phrases, or `action: block`"))


def _doubtful_phrases(rule: ComposedRule) -> Iterator[Problem]:
    from prism.text import normalise_phrase

    if "phrases" not in rule.keys or rule.get("action") == "allow":
        return
    source = rule.keys["phrases"]
    seen: dict[str, str] = {}
    for index, phrase in enumerate(source.value):
        plain = normalise_phrase(phrase)
        if plain in seen:
            message = f"{phrase!r} is the same as {seen[plain]!r} to the matcher"
            yield _warn(source.problem(message, "remove one of them", index))
        seen.setdefault(plain, phrase)
        if len(plain.replace(" ", "")) < MIN_LETTERS:
            message = f"{phrase!r} is so short that it will match by chance"
            yield _warn(source.problem(message, "add words that tell it apart", index))


def _loosened(composed: Composed) -> Iterator[Problem]:
    """Warn of an inherited rule that the file loosens without saying why."""
    if len(composed.layers) < 2:
        return
    parent, problems = compose(composed.layers[:-1])
    if problems:
        return
    before = {rule.id: rule for rule in compile_policy(parent).rules}
    after = {rule.id: rule for rule in compile_policy(composed).rules}
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

    moderator = Moderator(policy)
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
