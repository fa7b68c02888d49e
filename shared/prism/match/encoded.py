"""Runs of base64 and hex in a layer, each decoded into a layer of its own.

A finder reads what the compiled pass could not settle: it takes over where a run begins that lives
long enough to mean something, and gives the text back once no run is alive.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

from prism.text.decode import MIN_DECODED, BytesReader, Decoded, base64_value, may_be_base64
from prism.types import Disguise, Match

if TYPE_CHECKING:
    from prism.match.layers import Budget, Layer

MIN_RUN = 6
_MOST_RUNS = 4
_BASE64_RUN = re.compile(r"[A-Za-z0-9+/_-]+")
_HEX_RUN = re.compile(r"(?<![0-9A-Za-z])[0-9A-Fa-f][0-9A-Fa-fxX\s,:;\\-]*")
_HEX_CHARS = frozenset("0123456789abcdefABCDEFxX,:;\\-")
_SIDE_DOORS = frozenset("/+-_")
"""Base64 characters that also end a word, as in ``path/…``: a run may begin behind each."""


class _Run:
    """One reader, and the layer that its text feeds once it is long enough to mean something."""

    __slots__ = ("decoded", "layer", "reader")

    def __init__(self, reader: BytesReader) -> None:
        self.reader = reader
        self.decoded = Decoded()
        self.layer: Layer | None = None

    def clone(self, budget: Budget) -> _Run:
        twin = _Run(self.reader.clone())
        twin.decoded = Decoded(self.decoded.text[:], self.decoded.starts[:], self.decoded.ends[:])
        if self.layer is not None:
            twin.layer = self.layer.clone(budget, self.layer.depth + 1, self.layer.via)
        return twin

    def flush(self, parent: Layer, via: Disguise) -> list[Match]:
        if self.layer is None and len(self.decoded.text) < MIN_DECODED:
            return []
        if self.layer is None:
            self.layer = parent.nested(via)
        decoded, self.decoded = self.decoded, Decoded()
        return self.layer.feed_decoded(decoded, parent)

    def end(self) -> list[Match]:
        return self.layer.finish() if self.layer is not None else []

    def open_from(self, parent: Layer) -> int | None:
        places = [parent.start_of(self.decoded.starts[0])] if self.decoded.text else []
        if (pending := self.reader.pending_from) is not None:
            places.append(parent.start_of(pending))
        if self.layer is not None and (place := self.layer.open_from()) is not None:
            places.append(place)
        return min(places, default=None)


class Finder(ABC):
    """Keeps the runs of one encoding that are alive at the end of what was read."""

    via: Disguise
    _piece: re.Pattern[str]

    def __init__(self, layer: Layer, previous: str = " ", *, inside: bool = False) -> None:
        self._layer = layer
        self._runs: list[_Run] = []
        self._open = inside  # what was read so far ends inside a run of the encoding's characters
        self._previous = previous  # the last character read

    @property
    def idle(self) -> bool:
        """Whether no run is alive."""
        return not self._runs

    @property
    def inside(self) -> bool:
        """Whether what was read so far ends inside a run of the encoding's characters."""
        return self._open

    def clone(self, layer: Layer) -> Self:
        """Return an independent finder for ``layer`` in the same state."""
        twin = type(self)(layer, self._previous, inside=self._open)
        twin._runs = [run.clone(layer.budget) for run in self._runs]
        return twin

    @abstractmethod
    def feed(self, text: str, at: int) -> list[Match]:
        """Read more of the layer; ``at`` is the offset of ``text`` in it."""

    def piece(self, text: str, at: int) -> str:
        """Return what of ``text`` to read from ``at`` on before asking whether a run is alive."""
        found = self._piece.match(text, at)
        return text[at : found.end()] if found else text[at:]

    def finish(self) -> list[Match]:
        """Read the end of the layer."""
        return self._drop(self._runs)

    def open_from(self) -> int | None:
        """Return where in the source an unfinished match may begin."""
        places = [run.open_from(self._layer) for run in self._runs]
        return min((p for p in places if p is not None), default=None)

    def _drop(self, runs: list[_Run]) -> list[Match]:
        if not runs:
            return []
        ended = list(runs)
        self._runs = [run for run in self._runs if run not in ended]
        matches = [m for run in ended for m in run.flush(self._layer, self.via)]
        return matches + [m for run in ended for m in run.end()]

    def _flush(self) -> list[Match]:
        return [m for run in self._runs for m in run.flush(self._layer, self.via)]


class Base64Finder(Finder):
    """Runs of base64 and base64url, also when wrapped over lines."""

    via = Disguise.BASE64
    _piece = re.compile(r"[A-Za-z0-9+/_-]*[^A-Za-z0-9+/_-]*")

    def feed(self, text: str, at: int) -> list[Match]:
        """Read more of the layer; ``at`` is the offset of ``text`` in it."""
        matches: list[Match] = []
        behind = 0
        for found in _BASE64_RUN.finditer(text):
            first, last = found.span()
            if first > behind:
                matches += self._gap(text[behind:first])
            behind = last
            fresh = not (first == 0 and self._open)
            if fresh and not self._runs:
                word = found.group()
                done = last < len(text) and len(word) < MIN_RUN
                if done or (word.isalnum() and not may_be_base64(word)):
                    continue  # an ordinary word: nothing to decode, whatever follows
            matches += self._word(text[first:last], at + first, fresh)
        if behind < len(text):
            matches += self._gap(text[behind:])
        if text:
            self._open = behind == len(text)
            self._previous = text[-1]
        return matches

    def _word(self, word: str, at: int, fresh: bool) -> list[Match]:
        matches: list[Match] = []
        for i, char in enumerate(word):
            before = word[i - 1] if i else self._previous
            if i == 0 and fresh:
                # A paused run may go on here, and another may begin here: both are read.
                matches += self._begin()
            elif before in _SIDE_DOORS and all(run.reader.leftover for run in self._runs):
                matches += self._begin()
            if not self._runs:
                continue
            value = base64_value(char) or 0
            for run in self._runs:
                run.reader.put(value, at + i, run.decoded)
            matches += self._drop([run for run in self._runs if run.reader.dead])
        return matches + self._flush()

    def _begin(self) -> list[Match]:
        # The oldest run is the one that a wrapped text belongs to, the newest the one that stands
        # alone; those between add nothing but work.
        crowded = self._runs[1:2] if len(self._runs) >= _MOST_RUNS else []
        matches = self._drop(crowded)
        self._runs.append(_Run(BytesReader(6)))
        return matches

    def _gap(self, gap: str) -> list[Match]:
        if not gap.isspace():
            return self._drop(self._runs)
        # Base64 may be wrapped, but only between whole groups, and where it has proved readable. It
        # may as well have ended here: both readings count.
        matches = self._flush()
        matches += self._drop(
            [run for run in self._runs if run.layer is None or run.reader.leftover]
        )
        for run in self._runs:
            matches += run.clone(self._layer.budget).end()
        return matches


class HexFinder(Finder):
    """Pairs of hex digits, together or apart, with or without ``0x``."""

    via = Disguise.HEX
    _piece = re.compile(r"[0-9A-Fa-fxX\s,:;\\-]*[^0-9A-Fa-fxX\s,:;\\-]*")

    def feed(self, text: str, at: int) -> list[Match]:
        """Read more of the layer; ``at`` is the offset of ``text`` in it."""
        matches: list[Match] = []
        position = 0
        while position < len(text):
            if not self._open:
                found = _HEX_RUN.search(text, position)
                letter = self._previous.isascii() and self._previous.isalnum()
                if found and found.start() == 0 and letter:
                    position = max(position, 1)
                    found = _HEX_RUN.search(text, position)
                if found is None:
                    break
                if found.end() < len(text) and found.end() - found.start() < MIN_RUN:
                    position = found.end()
                    continue
                position = found.start()
                self._open = True
            char = text[position]
            if char in _HEX_CHARS or char.isspace():
                before = text[position - 1] if position else self._previous
                matches += self._read(char, at + position, before)
                position += 1
            else:
                self._open = False
                matches += self._drop(self._runs)
        if text:
            self._previous = text[-1]
        return matches + self._flush()

    def _read(self, char: str, at: int, before: str) -> list[Match]:
        dead: list[_Run] = []
        if char in "xX":
            dead = [run for run in self._runs if not run.reader.forget_zero()]
        elif not char.isalnum():
            dead = [run for run in self._runs if run.reader.leftover]
        else:
            aligned = any(run.reader.leftover == 0 for run in self._runs)
            if not aligned and (not before.isalnum() or before in "xX"):
                self._runs.append(_Run(BytesReader(4)))
            value = int(char, 16)
            for run in self._runs:
                run.reader.put(value, at, run.decoded)
        dead += [run for run in self._runs if run.reader.dead and run not in dead]
        return self._drop(dead)
