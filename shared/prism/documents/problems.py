"""What is wrong with a file, where, and what would be right.

The hierarchy of what a configuration can raise, in full::

    ProblemsError
    ├── PolicyError     (prism.policy)     a policy or its tests
    │   └── NamesUnavailableError  (prism.match.pii)  it looks for names without the extra for it
    ├── TaxonomyError   (prism.taxonomy)   the shipped taxonomy or register of marginal risk
    └── ConfigError     (prism.config)     the file that PRISM_CONFIG names, or the environment
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. ``line`` and ``column`` count from 1; 0 means the whole file."""

    file: str
    line: int
    column: int
    key: str
    message: str
    fix: str
    severity: Severity = "error"

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        parts = [where, self.key, self.message] if self.key else [where, self.message]
        prefix = "" if self.severity == "error" else "warning: "
        return prefix + ": ".join(parts) + (f"; {self.fix}" if self.fix else "")

    def to_json(self) -> dict[str, Any]:
        """Return the problem as plain data."""
        return asdict(self)


class ProblemsError(Exception):
    """Everything that is wrong with what was read, all at once; ``str()`` is one line each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(
            sorted(set(problems), key=lambda p: (p.file, p.line, p.column, p.key, p.message))
        )
        super().__init__("\n".join(map(str, self.problems)))


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return the fix for a misspelt ``word``: the nearest known one, or all of them."""
    choices = list(known)
    near = difflib.get_close_matches(word.lower(), choices, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return otherwise or f"use {one_of(choices)}"


def one_of(choices: Iterable[str]) -> str:
    """Return ``"one of a, b, c"``, or the only choice."""
    names = list(choices)
    return repr(names[0]) if len(names) == 1 else "one of " + ", ".join(names)
