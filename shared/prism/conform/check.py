"""A check: one question to the server under test, and how it was answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prism.conform.target import Target


class Outcome(StrEnum):
    """What became of a check. What could not be looked at never counts as passed."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"
    ERROR = "error"


class Failed(Exception):
    """The server did what was complained of. ``str()`` is the evidence, never a text."""


class NotApplicable(Exception):
    """The question makes no sense here, or can't be asked. ``str()`` says why."""


@dataclass(frozen=True, slots=True)
class Check:
    """``run`` returns its evidence, or raises :class:`Failed` or :class:`NotApplicable`.

    ``complaints`` are the numbers of the complaints that it replays.
    """

    name: str
    complaints: tuple[int, ...]
    title: str
    run: Callable[[Target], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Result:
    """How a check ended."""

    check: Check
    outcome: Outcome
    evidence: str
    seconds: float


Run = Callable[["Target"], Awaitable[str]]


class Checks(list[Check]):
    """The checks of one module, in the order in which they were written."""

    def add(self, name: str, complaints: int | tuple[int, ...], title: str) -> Callable[[Run], Run]:
        """Return a decorator that adds a check."""
        numbers = (complaints,) if isinstance(complaints, int) else complaints

        def added(run: Run) -> Run:
            self.append(Check(name, numbers, title, run))
            return run

        return added
