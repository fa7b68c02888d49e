"""What stands in JSON beside a conversation (tools, documents, fields of messages), as engines
write it.

A template may leave the keys out, order them its own way, write one field of every item in a row,
and put all that in front of what is said or behind it. A phrase that is cut where one field ends
and the next begins is whole to the model then; so those texts are judged, too, each by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prism.conversation import APART, ASIDE

EDGE = 256
"""Characters of a text that count as standing right beside another."""

SEAM = "\nThe same in another order:\n"
"""Between two readings, lest the end of one and the beginning of another make a phrase."""

_RANKS = {
    key: rank
    for rank, key in enumerate(
        ("type", "function", "id", "role", "name", "title", "url", "description", "summary",
         "text", "content", "snippet", "data", "value", "parameters", "arguments")
    )
}  # fmt: skip
"""The order in which APIs document fields, and in which engines that know them write them."""

_BODIES = frozenset({"text", "content", "snippet", "data", "documents"})
"""Fields of documents, between which a template may put nothing."""

_Order = Callable[[str], int] | None

_DEEPEST = 128
"""Levels of nesting that are read: more than a body may have, and the arguments of a call are read
as the text that they are, too."""


def written(fields: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the texts that the strings of JSON fields come to, keys left out, and their ends.

    All in the order that the client wrote them in, that of the alphabet and that of the APIs; those
    in the same place of every item, and under one key anywhere, by themselves; and the keys of each
    object, which name things in schemas. The ends are what may stand beside another text: each
    field, in the client's order, and the first and last text of its documents.
    """
    walk = _Walk()
    ends: list[str] = []
    for key, value in fields.items():
        begin = len(walk.texts)
        walk.add(value, walk.place(0, key), key)
        if len(walk.texts) > begin:
            ends.append("\n".join(walk.texts[begin:]))
            bodies = [n for n in range(begin, len(walk.texts)) if walk.keys[n] in _BODIES]
            ends += [walk.texts[n] for n in (*bodies[:1], *bodies[-1:])]
    texts = walk.texts
    found = ["\n".join(texts), *walk.names]
    if len(texts) > 1:
        found += ["\n".join(_ordered(fields, order)) for order in (None, _rank)]
        rows: dict[int | str, list[str]] = {}
        for place, key, text in zip(walk.places, walk.keys, texts, strict=True):
            rows.setdefault(place, []).append(text)
            rows.setdefault(key, []).append(text)
        found += ["\n".join(several) for several in rows.values() if len(several) > 1]
        found += ["".join(rows[key]) for key in _BODIES if len(rows.get(key, ())) > 1]
    return _distinct(found), _distinct(ends)


def strings(value: Any) -> Iterator[str]:
    """Yield every string in a JSON value, keys included, in reading order."""
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            if node:
                yield node
        elif isinstance(node, list):
            stack.extend(reversed(node))
        elif isinstance(node, dict):
            for key, below in reversed(node.items()):
                stack.append(below)
                stack.append(key)


def loaded(key: str, value: Any) -> Any:
    """Return a field's value with the JSON in calls' arguments read."""
    if key == "arguments" and isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    if isinstance(value, list):
        return [loaded("", item) for item in value]
    if isinstance(value, dict):
        return {name: loaded(name, below) for name, below in value.items()}
    return value


def apart(texts: Iterable[str]) -> list[dict[str, str]]:
    """Return texts as one message that is judged apart from the conversation, or none."""
    distinct = _distinct(texts)
    return [{"role": ASIDE, "content": "", APART: SEAM.join(distinct)}] if distinct else []


def seams(texts: Sequence[str], beside: Iterable[str]) -> Iterator[str]:
    """Yield how each of ``texts`` meets each text that it may be written in front of or behind."""
    around = _distinct(beside)
    for text in texts:
        for other in around:
            yield f"{other[-EDGE:]}\n{text[:EDGE]}"
            yield f"{text[-EDGE:]}\n{other[:EDGE]}"


def neighbours(said: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the messages that templates put tools and documents beside: the outermost ones."""
    spoken = [message for message in said if message["content"] and message["role"] != ASIDE]
    users = [message for message in spoken if message["role"] == "user"]
    ends = (*spoken[:1], *users[:1], *users[-1:], *spoken[-1:])
    return list(dict.fromkeys(message["content"] for message in ends))


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, texts)))


class _Walk:
    """Every string that is a value, in order; and where it is: the keys above it, and the last."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.places: list[int] = []
        self.keys: list[str] = []
        self.names: list[str] = []  # the keys of each object
        self._numbers: dict[tuple[int, str], int] = {}

    def place(self, above: int, key: str) -> int:
        """Return the number of what is called ``key`` in every object at the place ``above``."""
        return self._numbers.setdefault((above, key), len(self._numbers) + 1)

    def add(self, node: Any, place: int, key: str, depth: int = 0) -> None:
        """Read a value."""
        kind = type(node)
        if kind is str:
            if node:
                self.texts.append(node)
                self.places.append(place)
                self.keys.append(key)
        elif depth > _DEEPEST:
            return
        elif kind is list:
            for item in node:
                self.add(item, place, key, depth + 1)
        elif kind is dict:
            if len(node) > 1 and not _RANKS.keys() >= node.keys():
                self.names.append("\n".join(node))
            for name, below in node.items():
                self.add(below, self.place(place, name), name, depth + 1)


def _ordered(fields: Mapping[str, Any], order: _Order) -> list[str]:
    texts: list[str] = []
    for key in sorted(fields, key=order):
        _walk_in(fields[key], texts, order)
    return texts


def _walk_in(node: Any, texts: list[str], order: _Order, depth: int = 0) -> None:
    """Collect the strings with each object's keys in an order: by ``order``, or the alphabet's."""
    kind = type(node)
    if kind is str:
        if node:
            texts.append(node)
    elif depth > _DEEPEST:
        return
    elif kind is list:
        for item in node:
            _walk_in(item, texts, order, depth + 1)
    elif kind is dict:
        for key in sorted(node, key=order):
            _walk_in(node[key], texts, order, depth + 1)


def _rank(key: str) -> int:
    return _RANKS.get(key, _LAST)


_LAST = len(_RANKS)
