"""What the guard tier is made of: what goes in, what comes out, and the two halves in between.

A *format* knows one model's prompt template and how to read its answers; a *back end* knows where
the model runs. Neither knows the other: a format yields questions and gets completions.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol, TypeVar

HARM = "harm"
"""The overall probability of harm; prompt injection is never part of it."""

INJECTION = "inj"


class GuardError(Exception):
    """The guard gave no judgement. What happens then is the policy's ``on_tier_failure``.

    The hierarchy in full::

        GuardError
        ├── GuardTimeout      it did not answer within ``deadline_ms``
        ├── GuardUnreachable  the server is not there, or refuses the request
        └── GuardUnreadable   what it answered is not in its format

    No message ever holds text that was judged.
    """


class GuardTimeout(GuardError):
    """The deadline passed."""


class GuardUnreachable(GuardError):
    """The model can't be reached, or refuses the request."""


class GuardUnreadable(GuardError):
    """The answer is not one that the format knows."""


@dataclass(frozen=True, slots=True)
class GuardInput:
    """One thing to judge: the last of ``messages``, or ``response`` if there is one.

    ``messages`` are (role, text) from first to last; what stands before the judged text is context.
    ``rules`` are (rule id, plain-language text) to be judged beside the model's own categories.
    """

    messages: tuple[tuple[str, str], ...]
    response: str | None = None
    rules: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class GuardScores:
    """Probabilities in [0, 1]: by category key (and ``"harm"``), and by rule id.

    ``refusal`` is the probability that the response declines, from formats that say so.
    """

    scores: Mapping[str, float]
    rules: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    refusal: float | None = None


class Guard(Protocol):
    """A judge that may take its time: blocking, thread-safe, bounded by its own deadline."""

    @property
    def name(self) -> str:
        """What receipts and metrics call it."""
        ...

    def judge(self, items: Sequence[GuardInput]) -> list[GuardScores]:
        """Return one judgement per item, in order. Raises ``GuardError``: then there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation as guard models see it: turns of ``"user"`` or ``"agent"``, the last judged.

    What isn't the assistant's is the user's: system and tool messages go into the model, too.
    """

    turns: tuple[tuple[str, str], ...]

    @property
    def judged(self) -> str:
        """Whose the judged turn is."""
        return self.turns[-1][0]

    @property
    def text(self) -> str:
        """The judged text."""
        return self.turns[-1][1]

    @property
    def before(self) -> str:
        """What the user said last before the judged answer, or that it isn't known."""
        for who, text in reversed(self.turns[:-1]):
            if who == "user":
                return text
        return NOT_SHOWN


NOT_SHOWN = "[not shown]"
"""Stands for the prompt of an answer that is judged alone: templates want a user's turn."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One question to the model. ``prompt`` has no begin-of-text token: the back end adds it.

    With ``answers`` the next token decides between them (case and blanks don't count); without,
    up to ``max_tokens`` of text are wanted, ending before any of ``stop``.
    """

    prompt: str
    answers: tuple[str, ...] = ()
    max_tokens: int = 1
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model said: its text, and the next token's most likely texts with log-probability.

    ``top`` is ``None`` where the server gives no log-probabilities.
    """

    text: str
    top: Mapping[str, float] | None = None


class Backend(Protocol):
    """Where a guard model runs. Thread-safe."""

    def complete(self, asks: Sequence[Ask], until: float) -> list[Completion]:
        """Answer every ask, in order. ``until`` is on the clock of ``time.monotonic``.

        Raises ``GuardError``.
        """
        ...

    def close(self) -> None:
        """Let go of connections, threads and memory."""
        ...


T = TypeVar("T")

Steps = Generator[Sequence[Ask], Sequence[Completion], T]
"""A judgement in progress: yields the questions of a round, is sent their completions."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a format read: scores by category key, and the probability of a refusal if it says."""

    scores: Mapping[str, float]
    refusal: float | None = None


class Format(Protocol):
    """One model's published way of being asked and of answering.

    ``categories``: keys that :meth:`scores` may have, ``"harm"`` among them. ``takes_rules``:
    whether :meth:`rule` can be asked.
    """

    @property
    def name(self) -> str:
        """What ``guard.format`` calls it."""
        ...

    @property
    def categories(self) -> tuple[str, ...]:
        """Category keys that it may score."""
        ...

    @property
    def takes_rules(self) -> bool:
        """Whether the model takes a policy of one's own."""
        ...

    def scores(self, talk: Talk) -> Steps[Verdict]:
        """Judge by the model's own categories. Raises ``GuardUnreadable``."""
        ...

    def rule(self, talk: Talk, rule: str) -> Steps[float]:
        """Return the probability that ``talk`` breaks ``rule``. Raises ``GuardUnreadable``."""
        ...
