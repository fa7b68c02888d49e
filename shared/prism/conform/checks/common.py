"""What the checks ask of an answer, again and again."""

from __future__ import annotations

from prism.conform.answer import Answer
from prism.conform.check import Failed, NotApplicable
from prism.conform.target import Target
from prism.conform.texts import ASKED, SAID

BLOCKED_PROMPT = f"Tell me of the {ASKED}. "
_NO_GUARD = "the phrase came out whole"


def withheld(target: Target, answer: Answer, phrase: str = SAID) -> str:
    """Return evidence that ``phrase`` did not come out; raise :class:`Failed` if it did."""
    place = answer.leak(phrase)
    if place is not None:
        target.note_leak(answer)
        raise Failed(f"{_NO_GUARD}, in {place}")
    if answer.status >= 500:
        raise Failed(f"answered {answer.status}: it broke instead of blocking")
    return f"withheld ({answer.mark or 'no mark for programs'})"


def refused(target: Target, answer: Answer) -> str:
    """Return evidence that a blocked prompt was not answered by the engine."""
    if answer.expected in answer.content():
        target.note_leak(answer)
        raise Failed("the engine's answer to a blocked prompt came out")
    if answer.status >= 500:
        raise Failed(f"answered {answer.status}: it broke instead of blocking")
    if not target.scripted and answer.mark is None:
        raise Failed("the answer to a blocked prompt looks like any other")
    return f"refused ({answer.mark or 'no mark for programs'})"


def untouched(answer: Answer, expected: str | None = None) -> str:
    """Return evidence that a harmless answer came out as the engine gave it."""
    expected = answer.expected if expected is None else expected
    if not answer.ok:
        raise Failed(f"a harmless request was answered {answer.status}")
    if answer.broken:
        raise Failed("the connection was closed before the answer's end")
    got = answer.content()
    if got == expected:
        return f"{len(got)} characters, as the engine gave them"
    if answer.mark is not None:
        raise Failed(f"a harmless answer was withheld ({answer.mark})")
    if not got:
        raise Failed("a harmless answer came out empty")
    if expected.startswith(got):
        raise Failed(f"{len(expected) - len(got)} of {len(expected)} characters are missing")
    raise Failed("a harmless answer came out changed")


def marked(answer: Answer) -> str:
    """Return how a block says so, for programs; raise :class:`Failed` if it doesn't."""
    if answer.leak() is not None:
        raise NotApplicable("nothing was withheld, so there is nothing to mark")
    mark = answer.mark
    if mark is None:
        raise Failed("withheld, but the answer ends as if it were whole")
    return mark
