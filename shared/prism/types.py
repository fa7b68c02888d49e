"""The nouns every room of the house shares. No logic lives here.

Offsets are counted in Unicode code points of the text that was handed in, half-open ``[start,
end)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from types import MappingProxyType


class Action(IntEnum):
    """What a rule does, ordered from loosest to strictest."""

    ALLOW = 0
    FLAG = 1
    REDACT = 2
    STEER = 3
    BLOCK = 4

    @classmethod
    def parse(cls, name: str) -> Action:
        """Return the action called ``name`` (lower case, as policies spell it)."""
        return cls[name.upper()]

    def __str__(self) -> str:
        return self.name.lower()


class Word(StrEnum):
    """Names that hash as the words they equal, which is also much faster than ``Enum``'s own."""

    __hash__ = str.__hash__


class Stage(Word):
    """Which of the two modular functions of the paper a rule belongs to: p(x) or q(Y)."""

    PROMPT = "prompt"
    OUTPUT = "output"


class Mode(Word):
    """``monitor`` records what ``enforce`` would have done and changes nothing."""

    MONITOR = "monitor"
    ENFORCE = "enforce"


class Boundary(Word):
    """Where a phrase may begin and end: at word boundaries, or anywhere."""

    NONE = "none"
    WORD = "word"


class Disguise(Word):
    """A way of hiding a phrase that a rule sees through."""

    SPACING = "spacing"  # z e p h y r, z.e.p.h.y.r, zephyrlantern
    LEET = "leet"  # z3phyr
    REPEATS = "repeats"  # zephyyyr
    ROT13 = "rot13"
    REVERSED = "reversed"
    BASE64 = "base64"
    HEX = "hex"
    ESCAPES = "escapes"  # %7a, &#122;, \u007a, \x7a


class TierState(Word):
    """What became of a tier in one check. ``not_run`` is never ``passed``."""

    RAN = "ran"
    SETTLED = "settled_by_cheaper_tier"
    FAILED = "failed"
    NOT_RUN = "not_run"


@dataclass(frozen=True, slots=True)
class Match:
    """One hit of one rule. ``via`` names the disguises that were undone to see it."""

    rule: str
    start: int
    end: int
    via: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What p(x) or q(Y) found in one text: matches of rules, scores per category, tiers run.

    ``answers`` are a guard's scores per plain-language rule; ``language`` is a code of
    ``prism.classify.languages``, ``None`` where nobody looked.
    """

    matches: tuple[Match, ...] = ()
    scores: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    tiers: Mapping[str, TierState] = field(default_factory=lambda: MappingProxyType({}))
    answers: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that fired, with what it asks for and whether that is enforced."""

    rule: str
    category: str
    stage: Stage
    action: Action
    enforced: bool
    start: int | None = None
    end: int | None = None
    via: tuple[str, ...] = ()
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict. ``action`` is what is done; ``would`` is what monitor-mode rules ask for too.

    ``scores`` are the higher of both stages, ``tiers`` have keys such as ``prompt.sketch``, and
    ``languages`` has one per stage that was looked at.
    """

    action: Action
    would: Action
    policy: str  # digest of the compiled policy
    findings: tuple[Finding, ...] = ()
    scores: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    tiers: Mapping[str, TierState] = field(default_factory=lambda: MappingProxyType({}))
    message: str | None = None  # for the user; set when blocked
    languages: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def blocked(self) -> bool:
        """Whether the text must not pass."""
        return self.action is Action.BLOCK

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories that fired, sorted, each once."""
        return tuple(sorted({f.category for f in self.findings}))


@dataclass(frozen=True, slots=True)
class Released:
    """What may go to the client now. After ``blocked`` nothing more of the stream ever will."""

    text: str
    blocked: bool
    decision: Decision
