"""An answer as a client gets it, and what can be read out of it in whatever API it comes.

Texts are looked for in every string of every event: the pieces of one field are put together as
a client would, and so are a log's tokens, so that no field is forgotten.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from prism.conform.texts import SAID, STEMS

Json = dict[str, Any]

_PLACES = ("index", "output_index", "content_index")
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\([nrtbf\"\\/])")
_SPACE = re.compile(r"\s+")
_FILTER_WORDS = frozenset({"content_filter", "refusal", "ERROR_TOXIC"})
_REASONS = ("finish_reason", "stop_reason", "done_reason", "stop_type", "reason")


@dataclass(slots=True)
class Answer:
    """What came back for one request.

    ``rows`` are the JSON objects of the answer, with the second after the request was sent in
    which each arrived. ``broken``: the connection was closed before the answer's end.
    """

    status: int
    headers: dict[str, str]
    streamed: bool
    number: str
    expected: str = field(repr=False)
    """What the engine was asked to say."""
    rows: list[tuple[float, Json]] = field(default_factory=list, repr=False)
    other: list[str] = field(default_factory=list, repr=False)
    """What is no JSON."""
    seconds: float = 0.0
    broken: bool = False

    @property
    def ok(self) -> bool:
        return self.status < 400

    @property
    def mark(self) -> str | None:
        """How the answer says that something was withheld, for a program to read; or ``None``."""
        if not self.ok:
            return f"status {self.status}"
        for _, row in self.rows:
            for inner in _objects(row):
                for key in _REASONS:
                    if inner.get(key) in _FILTER_WORDS:
                        return f"{key} {inner[key]}"
            if row.get("error"):
                return "an error event"
        return "the connection was broken off" if self.broken else None

    def leak(self, phrase: str = SAID) -> str | None:
        """Return the field in which ``phrase`` can be read, or ``None``.

        An error that names the operator's own phrase is not what the engine said; one that quotes
        the engine is (see :meth:`named`).
        """
        for name, text in self._texts():
            if phrase in _folded(text) and (not _is_error(name) or self.number in text):
                return name
        return None

    def named(self, phrase: str = SAID) -> str | None:
        """Return the field of an error that names ``phrase``, or ``None``."""
        return next(
            (name for name, text in self._texts() if _is_error(name) and phrase in _folded(text)),
            None,
        )

    def hint(self) -> str | None:
        """Return the field that shows a part of the phrase, or ``None``."""
        for name, text in self._texts():
            if not _is_error(name) and any(stem in _folded(text) for stem in STEMS):
                return name
        return None

    def content(self, index: int = 0) -> str:
        """Return the text of a choice, in whatever API."""
        return "".join(_content(row, index) for _, row in self.rows)

    def first_text(self) -> float | None:
        """Return when the first piece of text arrived, in seconds."""
        return next((at for at, row in self.rows if _content(row, 0)), None)

    def _texts(self) -> Iterator[tuple[str, str]]:
        joined: dict[tuple[str, ...], list[str]] = {}
        for _, row in self.rows:
            for path, text in _leaves(row, ()):
                joined.setdefault(path, []).append(text)
        for path, pieces in joined.items():
            name = ".".join(part for part in path if not part.startswith("="))
            yield name, "".join(pieces)
        for text in self.other:
            yield "what is no JSON", text
        for key, value in self.headers.items():
            yield f"header {key}", value


def _is_error(name: str) -> bool:
    return name.startswith(("error", "detail"))


def _folded(text: str) -> str:
    plain = _ESCAPE.sub(lambda hit: chr(int(hit[1], 16)) if hit[1] else " ", text)
    return _SPACE.sub(" ", plain).casefold()


def _objects(value: Any) -> Iterator[Json]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _objects(inner)


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield every string with the path that it shares with what a client would join it to."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        places = _PLACES if path else (*_PLACES, "type")  # kinds of events, not of their parts
        here = path + tuple(
            f"={k}{value[k]}" for k in places if isinstance(value.get(k), str | int)
        )
        for number, (key, inner) in enumerate(value.items()):
            if "top_logprobs" in path and not isinstance(inner, dict | list | str):
                yield (*path, f"={number}"), key  # the old shape: {token: probability}
            yield from _leaves(inner, (*here, key))
    elif isinstance(value, list):
        # Alternatives to one token are many texts; the same list of the old API is one a token.
        apart = path[-1:] == ("top_logprobs",) and all("token" in one for one in _list(value))
        for number, inner in enumerate(value):
            yield from _leaves(inner, (*path, f"={number}") if apart else path)


def _content(row: Json, index: int) -> str:
    """Return what one object of an answer adds to a choice's text."""
    out = []
    for choice in _list(row.get("choices")):
        if choice.get("index", 0) != index:
            continue
        held = choice.get("delta") or choice.get("message") or choice
        out.append(held.get("content") or choice.get("text") or "")
    if index == 0:
        delta = row.get("delta")
        if row.get("type") == "content_block_delta" and isinstance(delta, dict):
            out.append(delta.get("text") or "")
        elif row.get("type") == "response.output_text.delta":
            out.append(delta or "")
        for block in _list(row.get("content")):
            out.append(block.get("text") or "")
        for item in _list(row.get("output")):
            for part in _list(item.get("content")):
                # Reasoning has a content of its own, which is another channel.
                out.append(part.get("text") or "" if item.get("type") == "message" else "")
    return "".join(piece for piece in out if isinstance(piece, str))


def _list(value: Any) -> list[Json]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def parse(data: str) -> Json | None:
    """Return an event's data as an object, if it is one."""
    try:
        value = json.loads(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
