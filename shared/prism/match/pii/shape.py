"""What one kind of personal data looks like: where it may begin, its form, and when it counts.

A shape is tried at every place where it may begin, one place at a time. ``regex``'s partial
matching says whether more text could still change what is found there; until it can't, the place
is open.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import regex

CONTEXT = 48
"""Characters before a candidate in which a word for it may stand."""

Accept = Callable[[str], tuple[int, int] | None]
"""What of a candidate's text counts, as offsets in it; ``None``: nothing."""

WORD_END = r"(?![^\W_])"
"""No letter or digit stands behind."""


def starts(first: str, rest: str = "", before: str = r"[^\W_]") -> str:
    """Return an expression for a place where something may begin.

    A character of ``first`` stands there and ``rest`` follows, which must allow for the end of the
    text at any point; none of ``before`` stands before it. Python's ``re`` skips to a character of
    a class much faster than it tries look-behind everywhere, so the class comes first.
    """
    return f"{first}(?<!{before}(?s:.))" + (f"(?={rest})" if rest else "")


@dataclass(frozen=True, slots=True)
class Shape:
    """One form of one kind. All patterns are bounded in width; ``after`` looks one character ahead.

    ``begin`` must match wherever ``pattern`` might, also where the text is cut off behind the
    place; shapes with an equal ``begin`` are looked for together.
    """

    kind: str
    begin: str
    pattern: str
    accept: Accept
    context: str = ""  # words, one of which must stand before; "": none needed
    after: str = WORD_END
    ignore_case: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """A shape, ready to be tried."""

    kind: str
    full: Any
    unsettled: Any
    accept: Accept
    context: re.Pattern[str] | None

    def announced(self, buffer: str, at: int) -> bool:
        """Return whether a word for this kind stands close before ``at``, if one must."""
        context = self.context
        return context is None or context.search(buffer[max(0, at - CONTEXT) : at]) is not None

    def is_open(self, buffer: str, at: int) -> bool:
        """Return whether more text could change what is found at ``at``."""
        if self.unsettled.match(buffer, at, partial=True) is not None:
            return True
        found = self.full.match(buffer, at)
        return found is not None and found.end() == len(buffer)

    def find(self, buffer: str, at: int) -> tuple[int, int] | None:
        """Return the span that counts at ``at``, if any."""
        found = self.full.match(buffer, at)
        if found is None or (span := self.accept(found.group())) is None:
            return None
        return at + span[0], at + span[1]


@lru_cache(maxsize=256)
def compile_shape(shape: Shape) -> Compiled:
    """Compile ``shape``, once per process."""
    flags = regex.IGNORECASE if shape.ignore_case else 0
    return Compiled(
        shape.kind,
        regex.compile(f"(?:{shape.pattern}){shape.after}", flags),
        # A branch that can't match never matches in full, so all it can be is partial: some path
        # through the pattern wants more text.
        regex.compile(f"(?:{shape.pattern})(?!)", flags),
        shape.accept,
        re.compile(rf"(?:{shape.context})", re.IGNORECASE) if shape.context else None,
    )


def prefixes(*words: str) -> str:
    """Return an expression for one of ``words``, or what is left of one that the text's end cuts.

    ``words`` are literal and not empty.
    """
    tails: dict[str, list[str]] = {}
    for word in words:
        tails.setdefault(word[0], []).append(word[1:])
    return "|".join(
        re.escape(head) if "" in rest else rf"{re.escape(head)}(?:\Z|{prefixes(*rest)})"
        for head, rest in tails.items()
    )


def whole(check: Callable[[str], bool]) -> Accept:
    """Accept the whole candidate where ``check`` does."""

    def accept(text: str) -> tuple[int, int] | None:
        return (0, len(text)) if check(text) else None

    return accept


def anything(text: str) -> tuple[int, int] | None:
    """Accept every candidate: its form says enough."""
    return 0, len(text)
