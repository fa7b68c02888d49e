"""Judging JSON values that come whole, such as a tool's arguments as an object."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from prism.http.judge import Judge
from prism.http.prompts import strings


def judged(judge: Judge, choice: int, channel: str, value: Any) -> Any:
    """Return ``value`` as it may go out; ``None`` where the choice is blocked.

    All its strings are judged as one text, keys included; where something of that is redacted, each
    by itself. ``channel`` is the first part of a name that no other value has.
    """
    joined = "\n".join(strings(value))
    released = judge.scan(choice, f"{channel}.arguments", joined)
    if choice in judge.blocked:
        return None
    if released == joined:
        return value
    numbers = count()
    made = _each(value, lambda text: judge.scan(choice, f"{channel}.{next(numbers)}.value", text))
    if choice in judge.blocked or not judge.passes("\n".join(strings(made))):
        # What is to be redacted spans several strings: no part of it can be told apart.
        judge.block(choice)
        return None
    return made


def _each(value: Any, work: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return work(value)
    if isinstance(value, list):
        return [_each(item, work) for item in value]
    if isinstance(value, dict):
        return {work(key): _each(below, work) for key, below in value.items()}
    return value
