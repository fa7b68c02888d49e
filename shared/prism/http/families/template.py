"""Events of a stream that differ from an earlier one in their text alone.

Nearly all of an answer is such events: the same JSON around the next token. Reading and writing
them as JSON again and again costs more than judging them. So the first is taken apart: what comes
before its text, what comes after, and what both became on the way out. An event that begins and
ends with exactly that, and has nothing but the inside of a JSON string in between, can't mean
anything else. Every other event is read in full.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass, field
from json.decoder import JSONDecodeError
from json.encoder import encode_basestring
from typing import Any

_DECODER = json.JSONDecoder()
_AS_IT_IS = re.compile(r'[^"\\\x00-\x1f]*')
_PLAIN = re.compile(rb'[^"\\\x00-\x1f\x80-\xff]+')
_PROBE = "prism-hole-0f1e2d3c"
"""Stands where the text was, to see that a text is all there is in that place."""


@dataclass(frozen=True, slots=True)
class Template:
    """What is around the text of one channel of one choice, coming in and going out."""

    index: int
    channel: str
    prefix: str
    suffix: str
    head: str
    tail: str
    # The same as bytes, in the frame of a server-sent event.
    _before: bytes = field(init=False, repr=False, compare=False)
    _behind: bytes = field(init=False, repr=False, compare=False)
    _head: bytes = field(init=False, repr=False, compare=False)
    _tail: bytes = field(init=False, repr=False, compare=False)
    _from: int = field(init=False, repr=False, compare=False)
    _upto: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        framed = {"_before": f"data: {self.prefix}", "_behind": f"{self.suffix}\n\n"}
        for name, text in {**framed, "_head": self.head, "_tail": self.tail}.items():
            object.__setattr__(self, name, text.encode())
        object.__setattr__(self, "_from", len(self._before))
        object.__setattr__(self, "_upto", -len(self._behind))

    def inside(self, chunk: bytes) -> bytes | None:
        """Return the text of a chunk that is one of these events and no more, if it is ASCII.

        It is then written inside JSON as it is.
        """
        if not (chunk.startswith(self._before) and chunk.endswith(self._behind)):
            return None
        inside = chunk[self._from : self._upto]
        # Nothing left, as where the two ends overlap, is no match.
        return inside if _PLAIN.fullmatch(inside) else None

    def around(self, inside: bytes) -> bytes:
        """Return the event that goes out with all of such a text."""
        return b"".join((self._head, inside, self._tail))

    def text(self, data: str) -> str | None:
        """Return the text of an event, or ``None`` if it is not one of these."""
        if not (data.startswith(self.prefix) and data.endswith(self.suffix)):
            return None
        inside = data[len(self.prefix) : len(data) - len(self.suffix)]
        if _AS_IT_IS.fullmatch(inside):
            # The two ends must not overlap; an empty text is for those who read in full.
            return inside if len(data) > len(self.prefix) + len(self.suffix) else None
        if "\\u" in inside:  # perhaps half a surrogate pair
            return None
        try:
            text, end = _DECODER.raw_decode(f'"{inside}"')
        except JSONDecodeError:
            return None
        return text if end == len(inside) + 2 and isinstance(text, str) else None

    def event(self, text: str) -> str:
        """Return the event that goes out with all of ``text``, as a server-sent event."""
        return f"{self.head}{_inside(text)}{self.tail}"

    def filled(self, text: str) -> str:
        """Return the data of an event of the engine's with that text."""
        return f"{self.prefix}{_inside(text)}{self.suffix}"


def _inside(text: str) -> str:
    """Return the inside of a JSON string, written as ``errors.dumps`` would."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # half a surrogate pair, held from an event read in full
            return json.dumps(text)[1:-1]
    return text if _AS_IT_IS.fullmatch(text) else encode_basestring(text)[1:-1]


def learn(
    data: str, body: dict[str, Any], made: str, path: tuple[str, ...], index: int
) -> Template | None:
    """Return the template of an event, or ``None`` if it can't be told safely.

    ``data`` is what came, ``body`` what it means, ``made`` what went out for it; ``path`` leads to
    the text in the only choice.
    """
    if "\n" in data:  # several lines of an event, which a chunk would not hold as they are here
        return None
    came, went = _hole(data, path[-1]), _hole(made, path[-1])
    if came is None or went is None:
        return None
    prefix, text, suffix = came
    # A probe that comes back in its place, with all else as it was, shows that the place is the
    # inside of one string: what is put there can't change what is around it.
    tried = json.loads(f"{prefix}{_PROBE}{suffix}")
    if _replaced(body, path, text, _PROBE) != tried or _PROBE in data:
        return None
    # What goes out was written here, of fields known here, and has the key once: no probe needed.
    head, said, tail = went
    if said != text:
        return None
    return Template(index, path[-1], prefix, suffix, f"data: {head}", f"{tail}\n\n")


def _hole(data: str, key: str) -> tuple[str, str, str] | None:
    """Return what is before, in, and after the one string that is called ``key``, if it is one."""
    found = list(_opening(key).finditer(data))
    if len(found) != 1:
        return None
    start = found[0].end()
    try:
        text, end = _DECODER.raw_decode(data, start - 1)
    except JSONDecodeError:
        return None
    return data[:start], text, data[end - 1 :]


@functools.cache
def _opening(key: str) -> re.Pattern[str]:
    return re.compile(f'{re.escape(json.dumps(key))}[ \t]*:[ \t]*"')


def _replaced(body: Any, path: tuple[str, ...], old: str, new: str) -> Any:
    """Return a copy of ``body`` with ``new`` for the text ``old`` of its choice, or ``None``."""
    choices = body.get("choices")
    if not isinstance(choices, list) or len(choices) != 1:
        return None
    made: dict[str, Any] = {**body, "choices": [dict(choices[0])]}
    place = made["choices"][0]
    for key in path[:-1]:
        if not isinstance(place.get(key), dict):
            return None
        place[key] = dict(place[key])
        place = place[key]
    if place.get(path[-1]) != old:
        return None
    place[path[-1]] = new
    return made
