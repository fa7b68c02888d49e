"""Categories of harm, how other taxonomies and use policies name them, and their marginal risk.

The hub is MLCommons AILuminate's twelve hazards; what they lack are extensions. All of it is data:
``policies/taxonomy.yaml`` and ``policies/marginal_risk.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field

from prism.documents import (
    Document,
    Model,
    Problem,
    ProblemsError,
    did_you_mean,
    read,
    shipped_dir,
    validate,
)

SELFTEST_CATEGORY = "tst"
"""The category of the built-in self-test rule; no policy may use it."""

HARM = "harm"
"""Not a category: the score models' overall probability of harm, injection apart."""


class TaxonomyError(ProblemsError):
    """The shipped taxonomy or register is damaged; see ``problems``."""


Key = Annotated[str, Field(pattern=r"^[a-z]{3}$")]
Detectable = Literal["text", "context", "deployment"]
Relation = Literal["exact", "broader", "narrower", "none"]


class Category(Model):
    """A category. ``hub``: whose it is."""

    title: str = Field(min_length=1)
    description: str = Field(min_length=1)
    hub: Literal["ailuminate", "extension"]


class Heading(Model):
    """A heading of another taxonomy or use policy, and the categories it touches.

    ``relation`` is the heading's to the categories named: ``exact`` the same, ``broader`` the
    heading covers more, ``narrower`` less, ``none`` no category of ours. ``detectable``: whether it
    can be seen in the text, needs the context of the request, or is about how a model is deployed.
    """

    heading: str = Field(min_length=1)
    categories: list[Key]
    detectable: Detectable
    relation: Relation


class Framework(Model):
    """Another taxonomy or use policy, with the page its headings were read from."""

    title: str = Field(min_length=1)
    version: str = Field(min_length=1)
    source_url: str = Field(pattern=r"^https://")
    retrieved: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    note: str | None = None
    headings: list[Heading] = Field(min_length=1)


class RiskEntry(Model):
    """The six steps of a marginal-risk assessment against a named baseline.

    Every field is a text; "unknown" is a legal one, nothing is not.
    """

    baseline: str = Field(min_length=1, examples=["baseline: web search without a language model"])
    threat: str = Field(min_length=1, examples=["threat: vector, method, actor and resources"])
    existing_risk: str = Field(min_length=1, examples=["existing_risk: unknown"])
    existing_defences: str = Field(min_length=1, examples=["existing_defences: unknown"])
    evidence: str = Field(min_length=1, examples=["evidence: unknown"])
    ease_of_defending: str = Field(min_length=1, examples=["ease_of_defending: unknown"])
    uncertainty: str = Field(min_length=1, examples=["uncertainty: unknown"])


class TaxonomyFile(Model):
    """``taxonomy.yaml``."""

    taxonomy: Literal[1]
    categories: dict[Key, Category]
    frameworks: dict[str, Framework]


class RegisterFile(Model):
    """``marginal_risk.yaml``."""

    risk_register: Literal[1]
    marginal_risk: dict[Key, RiskEntry]


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """The categories in order, and the frameworks mapped to them."""

    categories: Mapping[str, Category]
    frameworks: Mapping[str, Framework]

    def from_llama_guard(self, code: str) -> str:
        """Return the category of a Llama Guard 3 or 4 code (``"S9"``). Raises ``KeyError``."""
        for heading in self.frameworks["llama_guard"].headings:
            if heading.heading.split(" ", 1)[0] == code:
                return heading.categories[0]
        raise KeyError(code)


@cache
def taxonomy() -> Taxonomy:
    """Return the shipped taxonomy. Raises ``TaxonomyError`` where the file is damaged."""
    document = _shipped("taxonomy.yaml")
    file, problems = check_taxonomy(document)
    if file is None or problems:
        raise TaxonomyError(problems)
    return Taxonomy(MappingProxyType(file.categories), MappingProxyType(file.frameworks))


@cache
def marginal_risk() -> Mapping[str, RiskEntry]:
    """Return the shipped register of marginal risk: one block for every category."""
    document = _shipped("marginal_risk.yaml")
    file, problems = check_register(document)
    if file is None or problems:
        raise TaxonomyError(problems)
    return MappingProxyType(file.marginal_risk)


def _shipped(name: str) -> Document:
    try:
        return read(shipped_dir() / name, name=f"policies/{name}")
    except ProblemsError as error:
        raise TaxonomyError(error.problems) from None


def check_taxonomy(document: Document) -> tuple[TaxonomyFile | None, list[Problem]]:
    """Return the taxonomy in ``document``, or what is wrong with it."""
    try:
        file = validate(document, TaxonomyFile)
    except ProblemsError as error:
        return None, list(error.problems)
    problems: list[Problem] = []
    for name, framework in file.frameworks.items():
        for index, heading in enumerate(framework.headings):
            path = ("frameworks", name, "headings", index, "categories")
            for number, key in enumerate(heading.categories):
                if key not in file.categories:
                    fix = did_you_mean(key, file.categories)
                    message = f"{key!r} is not a category"
                    problems.append(document.problem((*path, number), message, fix))
            if (heading.relation == "none") != (not heading.categories):
                message = "relation `none` and an empty list of categories belong together"
                problems.append(document.problem(path, message, "correct either"))
    return file, problems


def check_register(document: Document) -> tuple[RegisterFile | None, list[Problem]]:
    """Return the register in ``document``, or what is wrong with it; every category must be in."""
    try:
        file = validate(document, RegisterFile)
    except ProblemsError as error:
        return None, list(error.problems)
    known = taxonomy().categories
    path = ("marginal_risk",)
    problems = [
        document.problem((*path, key), f"{key!r} is not a category", did_you_mean(key, known))
        for key in file.marginal_risk
        if key not in known
    ]
    problems += [
        document.problem(
            path, f"the category {key!r} has no block", f'add `{key}:`; "unknown" is legal in it'
        )
        for key in known
        if key not in file.marginal_risk
    ]
    return file, problems
