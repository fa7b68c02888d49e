"""Judging JSON values that come whole, such as a tool's arguments as an object."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count, islice
from typing import Any

from prism.http.judge import Judge
from prism.http.prompts import strings


def judged(judge: Judge, choice: int, channel: str, value: Any) -> Any:
    """Return ``value`` as it may go out; ``None`` where the choice is blocked.

    All its strings are judged as one text, keys and numbers included; where something of that is
    redacted, each by itself. ``channel`` is the first part of a name that no other value has.
    """
    joined = _text(value)
    released = judge.scan(choice, f"{channel}.arguments", joined)
    if choice in judge.blocked:
        return None
    if released == joined:
        return value
    numbers = count()
    made = _each(value, lambda text: judge.scan(choice, f"{channel}.{next(numbers)}.value", text))
    if choice in judge.blocked or not judge.passes(_text(made)):
        # What is to be redacted spans several strings: no part of it can be told apart.
        judge.block(choice)
        return None
    return made


def judged_lines(judge: Judge, choice: int, channel: str, texts: list[str]) -> list[str] | None:
    """Return pieces of one text as they may go out, judged as the whole that they are.

    ``None`` where the choice is blocked, and where what is redacted spans several pieces, so that
    none of them can be told apart from the others.
    """
    joined = "\n".join(texts)
    released = judge.scan(choice, channel, joined)
    if choice in judge.blocked or released.count("\n") != joined.count("\n"):
        return None
    lines = iter(released.split("\n"))
    return ["\n".join(islice(lines, text.count("\n") + 1)) for text in texts]


def _text(value: Any) -> str:
    return "\n".join(strings(_numbers_told(value)))


def _numbers_told(value: Any) -> Any:
    """Return ``value`` with its numbers as the text that a client reads: they may be a card's."""
    if isinstance(value, list):
        return [_numbers_told(item) for item in value]
    if isinstance(value, dict):
        return {key: _numbers_told(below) for key, below in value.items()}
    return json.dumps(value) if _is_number(value) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _each(value: Any, work: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return work(value)
    if _is_number(value):
        told = json.dumps(value)
        released = work(told)
        return value if released == told else released
    if isinstance(value, list):
        return [_each(item, work) for item in value]
    if isinstance(value, dict):
        return {work(key): _each(below, work) for key, below in value.items()}
    return value
