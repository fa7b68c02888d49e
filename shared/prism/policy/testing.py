"""Tests beside a policy: texts, and what the policy shall say of them.

``default.yaml`` has its tests in ``default.tests.yaml``. They run the real engine on the policy as
it is in effect.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from prism.decide import BUILT_IN
from prism.documents import Document, Model, Problem, ProblemsError, did_you_mean, read, validate
from prism.policy.compiled import CompiledPolicy
from prism.policy.compiler import load_policy
from prism.policy.errors import PolicyError
from prism.policy.model import ActionName, RuleCategory, Score, StageName, Text
from prism.policy.store import display, locate
from prism.types import Decision

if TYPE_CHECKING:
    from prism.classify.models import Models

SUFFIX = ".tests.yaml"


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class ScoreBounds(Model):
    """Where a score shall lie: a probability from ``at_least`` on, and ``below`` another."""

    at_least: Score | None = Field(None, examples=["at_least: 0.5"])
    below: Score | None = Field(None, examples=["below: 0.1"])


class TestEntry(Model):
    """Texts at a stage, and what is expected of each of them."""

    __test__ = False  # pytest: not a test class

    name: Text = Field(examples=["name: code names are blocked"])
    stage: StageName = Field(examples=["stage: prompt"])
    text: Text | None = Field(None, examples=["text: tell me about zephyr lantern"])
    texts: list[Text] | None = Field(None, min_length=1, examples=['texts: ["one", "two"]'])
    expect: Annotated[list[ActionName], BeforeValidator(_one_or_more), Field(min_length=1)] = Field(
        examples=["expect: block"]
    )
    would: ActionName | None = Field(None, examples=["would: block"])
    rule: Text | None = Field(None, examples=["rule: code-names"])
    categories: list[RuleCategory] | None = Field(None, examples=["categories: [fra]"])
    scores: dict[RuleCategory, ScoreBounds] | None = Field(
        None, min_length=1, examples=["scores: {harm: {at_least: 0.5}, cyb: {below: 0.1}}"]
    )
    redacted: Text | None = Field(None, examples=['redacted: "card [redacted]"'])


class TestsFile(Model):
    """``NAME.tests.yaml``. ``policy`` and ``floor`` are relative to the file."""

    __test__ = False

    policy: Text | None = Field(None, examples=["policy: example.yaml"])
    floor: Text | None = Field(None, examples=["floor: strict"])
    tests: list[TestEntry] = Field(min_length=1, examples=["tests: [{name: …}]"])


@dataclass(frozen=True, slots=True)
class Suite:
    """A tests file that was read, with its policy."""

    document: Document
    policy: CompiledPolicy
    tests: tuple[TestEntry, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one text. ``why`` is empty when it is as expected."""

    file: str
    line: int
    name: str
    stage: Literal["prompt", "output"]
    text: str
    expected: str
    action: str
    rules: tuple[str, ...]
    why: str

    @property
    def passed(self) -> bool:
        """Whether the policy said what was expected."""
        return not self.why

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as plain data."""
        return {**asdict(self), "passed": self.passed}


def suite_path(ref: str) -> Path:
    """Return the tests file of the policy ``ref`` (a path, a shipped name, or a tests file)."""
    path = locate(ref)
    if path.name.endswith(SUFFIX):
        return path
    return path.with_name(path.name.removesuffix(path.suffix) + SUFFIX)


def load_suite(ref: str) -> Suite:
    """Read the tests of the policy ``ref``. Raises ``PolicyError``."""
    path = suite_path(ref)
    if not path.exists():
        named = locate(ref)
        message, fix = "has no tests", f"write its tests into {display(path)}"
        if not named.exists():
            message, fix = "no such file", "check the path"
        raise PolicyError([Problem(display(named), 0, 0, "", message, fix)])
    try:
        document = read(path, name=display(path))
        file = validate(document, TestsFile)
    except ProblemsError as error:
        raise PolicyError(error.problems) from None
    problems = check_tests(document, file)
    policy_path = path.with_name(path.name.removesuffix(SUFFIX) + ".yaml")
    if file.policy is not None:
        policy_path = locate(file.policy, beside=path.parent)
    floor = None if file.floor is None else locate(file.floor, beside=path.parent)
    try:
        policy = load_policy(policy_path, floor=floor)
    except PolicyError as error:
        raise PolicyError([*problems, *error.problems]) from None
    if not problems:
        problems = _unknown_rules(document, file, policy)
    if problems:
        raise PolicyError(problems)
    return Suite(document, policy, tuple(file.tests))


def check_tests(document: Document, file: TestsFile) -> list[Problem]:
    """Return what is wrong with a tests file apart from its policy."""
    problems = []
    for index, test in enumerate(file.tests):
        path = ("tests", index)
        if (test.text is None) == (test.texts is None):
            message = "a test has either `text` or `texts`"
            problems.append(document.problem(path, message, "give exactly one of them"))
        if test.redacted is not None and (test.stage != "output" or test.texts is not None):
            message = "`redacted` goes with one `text` at stage `output`"
            fix = "remove it, or split the test"
            problems.append(document.problem((*path, "redacted"), message, fix))
    return problems


def _unknown_rules(document: Document, file: TestsFile, policy: CompiledPolicy) -> list[Problem]:
    known = [*(rule.id for rule in policy.rules), *sorted(BUILT_IN)]
    return [
        document.problem(
            ("tests", index, "rule"),
            f"{test.rule!r} is not a rule in effect of the policy",
            did_you_mean(test.rule, known),
        )
        for index, test in enumerate(file.tests)
        if test.rule is not None and test.rule not in known
    ]


def run_suite(suite: Suite, models: Models | None = None) -> list[Outcome]:
    """Run every test of ``suite``, on the process's own models unless others are given.

    Raises ``ModelsError`` where a tier that the policy has on can't be loaded.
    """
    from prism.moderator import Moderator  # late: it takes the compiled matcher along

    moderator = Moderator(suite.policy, models)
    outcomes = []
    for index, test in enumerate(suite.tests):
        for number, text in enumerate(test.texts or [test.text or ""]):
            path = ("tests", index, "texts", number) if test.texts else ("tests", index)
            line = suite.document.position(path)[0]
            check = moderator.check_prompt if test.stage == "prompt" else moderator.check_output
            decision = check(text)
            outcomes.append(
                Outcome(
                    file=suite.document.file,
                    line=line,
                    name=test.name,
                    stage=test.stage,
                    text=text,
                    expected=" or ".join(test.expect),
                    action=str(decision.action),
                    rules=tuple(dict.fromkeys(f.rule for f in decision.findings)),
                    why=_why(test, decision) or _why_redacted(test, moderator, text),
                )
            )
    return outcomes


def _why(test: TestEntry, decision: Decision) -> str:
    if str(decision.action) not in test.expect:
        return f"expected {' or '.join(test.expect)}, got {decision.action}"
    if test.would is not None and str(decision.would) != test.would:
        return f"expected that it would {test.would}, got {decision.would}"
    if test.rule is not None and all(f.rule != test.rule for f in decision.findings):
        return f"the rule {test.rule} did not fire"
    for category in test.categories or ():
        if category not in decision.categories:
            return f"nothing of the category {category} fired"
    for category, bounds in (test.scores or {}).items():
        if why := _why_score(category, bounds, decision.scores.get(category)):
            return why
    return ""


def _why_score(category: str, bounds: ScoreBounds, score: float | None) -> str:
    if score is None:
        return f"no tier scored {category}"
    if bounds.at_least is not None and score < bounds.at_least:
        return f"expected {category} of at least {bounds.at_least:g}, got {score:.3f}"
    if bounds.below is not None and score >= bounds.below:
        return f"expected {category} below {bounds.below:g}, got {score:.3f}"
    return ""


def _why_redacted(test: TestEntry, moderator: Any, text: str) -> str:
    if test.redacted is None:
        return ""
    session = moderator.session()
    released = session.feed(text).text + session.finish().text
    return "" if released == test.redacted else f"expected {test.redacted!r}, got {released!r}"
