"""A text and everything that is hidden in it: a tree of layers, each decoded from the one above.

The root layer is the text as it came. Escapes are undone in a child layer that starts as a copy of
its parent's state at the first escape, so a phrase may begin before and end behind it. Runs that
decode from base64 or hex to readable text become layers of their own. Depth and total work are
bounded.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from prism.match.phrases import PhraseScanner, PhraseSet
from prism.match.regexes import RegexScanner, RegexSet
from prism.text.decode import BytesReader, Decoded, Unescaper, base64_value, may_be_base64
from prism.types import Disguise, Match

MAX_DEPTH = 3
WORK_PER_CHARACTER, WORK_FREE = 16, 20_000
MIN_DECODED = 4
"""Characters that must decode before a run gets a layer: shorter runs are ordinary words."""
MIN_RUN = 6
_MOST_RUNS = 4
_BASE64_RUN = re.compile(r"[A-Za-z0-9+/_-]+")
_HEX_RUN = re.compile(r"(?<![0-9A-Za-z])[0-9A-Fa-f][0-9A-Fa-fxX\s,:;\\-]*")
_HEX_CHARS = frozenset("0123456789abcdefABCDEFxX,:;\\-")
_SIDE_DOORS = frozenset("/+-_")
"""Base64 characters that also end a word, as in ``path/…``: a run may begin behind each."""


class DecodeBudgetError(RuntimeError):
    """The text decodes to far more than itself; the check fails closed."""


@dataclass(frozen=True, slots=True)
class Patterns:
    """What is looked for: phrases and regexes of one policy and stage, and which disguises
    count."""

    phrases: PhraseSet
    regexes: RegexSet
    disguises: dict[str, frozenset[Disguise]]  # rule -> encodings that it sees through
    decoders: frozenset[Disguise]  # union of the above


class Budget:
    """Characters that all decoded layers of one text may read together."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = WORK_FREE

    def earn(self, count: int) -> None:
        """Allow more, as more of the text itself was read."""
        self.left += count * WORK_PER_CHARACTER

    def spend(self, count: int) -> None:
        """Pay for decoded characters. Raises ``DecodeBudgetError``."""
        self.left -= count
        if self.left < 0:
            raise DecodeBudgetError("the text decodes to too much text")


class Layer:
    """One text of the tree. Matches and holds are in the source's offsets."""

    __slots__ = (
        "_base64", "_budget", "_ends", "_escaped", "_hex", "_patterns", "_phrases", "_read",
        "_regexes", "_starts", "_unescaper", "depth", "via",
    )  # fmt: skip

    def __init__(
        self, patterns: Patterns, budget: Budget, depth: int = 0, via: tuple[str, ...] = ()
    ) -> None:
        self._patterns = patterns
        self._budget = budget
        self.depth = depth
        self.via = via
        self._phrases: PhraseScanner = patterns.phrases.scanner()
        self._regexes: RegexScanner = patterns.regexes.scanner()
        self._read = 0
        self._starts: array[int] | None = None if depth == 0 else array("q")
        self._ends: array[int] | None = None if depth == 0 else array("q")
        self._unescaper: Unescaper | None = None
        self._escaped: Layer | None = None
        deeper = depth < MAX_DEPTH
        self._base64 = Base64Finder(self) if deeper and self._sees(Disguise.BASE64) else None
        self._hex = HexFinder(self) if deeper and self._sees(Disguise.HEX) else None

    def _sees(self, disguise: Disguise) -> bool:
        return disguise in self._patterns.decoders

    def _clone(self, budget: Budget, depth: int, via: tuple[str, ...]) -> Layer:
        twin = object.__new__(Layer)
        twin._patterns, twin._budget, twin.depth, twin.via = self._patterns, budget, depth, via
        twin._phrases, twin._regexes = self._phrases.clone(), self._regexes.clone()
        twin._read = self._read
        if self._starts is None or self._ends is None:
            twin._starts = array("q", range(self._read))
            twin._ends = array("q", range(1, self._read + 1))
        else:
            # The arrays already hold places of characters that are still to be read.
            twin._starts, twin._ends = self._starts[: self._read], self._ends[: self._read]
        twin._unescaper = self._unescaper.clone() if self._unescaper else None
        twin._escaped = self._escaped._clone(budget, depth + 1, self._escaped.via) if (
            self._escaped
        ) else None  # fmt: skip
        deeper = depth < MAX_DEPTH
        twin._base64 = self._base64.clone(twin) if self._base64 and deeper else None
        twin._hex = self._hex.clone(twin) if self._hex and deeper else None
        return twin

    def start_of(self, index: int) -> int:
        """Return where character ``index`` of this layer begins in the source."""
        return index if self._starts is None else self._starts[index]

    def end_of(self, index: int) -> int:
        """Return where character ``index`` of this layer ends in the source."""
        return index + 1 if self._ends is None else self._ends[index]

    def nested(self, via: Disguise) -> Layer:
        """Return an empty layer for what was decoded from this one."""
        return Layer(self._patterns, self._budget, self.depth + 1, (*self.via, via.value))

    def feed(self, text: str) -> list[Match]:
        """Read more of the source (root layer only)."""
        self._budget.earn(len(text))
        return self._feed(text)

    def feed_decoded(self, decoded: Decoded, parent: Layer) -> list[Match]:
        """Read characters decoded from ``parent``."""
        if not decoded.text or self._starts is None or self._ends is None:
            return []
        self._budget.spend(len(decoded.text))
        if parent.depth == 0:
            self._starts.extend(decoded.starts)
            self._ends.extend(decoded.ends)
        else:
            self._starts.extend(parent.start_of(i) for i in decoded.starts)
            self._ends.extend(parent.end_of(i - 1) for i in decoded.ends)
        return self._feed("".join(decoded.text))

    def _feed(self, text: str) -> list[Match]:
        matches: list[Match] = []
        if self._unescaper is None and self.depth < MAX_DEPTH and self._sees(Disguise.ESCAPES):
            at = Unescaper.first_trigger(text)
            if at is not None:
                matches += self._feed_here(text[:at])
                self._fork()
                text = text[at:]
        matches += self._feed_here(text)
        if self._unescaper is not None and self._escaped is not None:
            decoded = self._unescaper.feed(text)
            matches += self._escaped.feed_decoded(decoded, self)
            if not self._unescaper.decoded_any and self._unescaper.pending_from is None:
                # A lone % or & was just that: the child equals this layer, so it is not needed.
                self._unescaper = self._escaped = None
        return matches

    def _fork(self) -> None:
        via = (*self.via, Disguise.ESCAPES.value)
        self._unescaper = Unescaper(self._read)
        self._escaped = self._clone(self._budget, self.depth + 1, via)
        self._escaped._unescaper = self._escaped._escaped = None

    def _feed_here(self, text: str) -> list[Match]:
        if not text:
            return []
        start = self._read
        self._read += len(text)
        matches = self._located(self._phrases.feed(text)) + self._located(self._regexes.feed(text))
        if self._base64 is not None:
            matches += self._base64.feed(text, start)
        if self._hex is not None:
            matches += self._hex.feed(text, start)
        return matches

    def finish(self) -> list[Match]:
        """Read the end of the text."""
        matches = self._located(self._phrases.finish()) + self._located(self._regexes.finish())
        for finder in (self._base64, self._hex):
            if finder is not None:
                matches += finder.finish()
        if self._unescaper is not None and self._escaped is not None:
            matches += self._escaped.feed_decoded(self._unescaper.finish(), self)
            matches += self._escaped.finish()
        return matches

    def open_from(self) -> int | None:
        """Return where in the source an unfinished, held match may begin; ``None``: nowhere."""
        places: list[int] = []
        for index in (self._phrases.open_from(), self._regexes.open_from()):
            if index < self._read:
                places.append(self.start_of(index))
        for finder in (self._base64, self._hex):
            if finder is not None and (place := finder.open_from()) is not None:
                places.append(place)
        if self._unescaper is not None and self._escaped is not None:
            if (pending := self._unescaper.pending_from) is not None:
                places.append(self.start_of(pending))
            if (place := self._escaped.open_from()) is not None:
                places.append(place)
        return min(places, default=None)

    def _located(self, matches: Iterable[Match]) -> list[Match]:
        if self._starts is None or self._ends is None:
            return list(matches)
        return [
            Match(m.rule, self._starts[m.start], self._ends[m.end - 1], self.via + m.via)
            for m in matches
            if self._allowed(m.rule)
        ]

    def _allowed(self, rule: str) -> bool:
        return self._patterns.disguises[rule].issuperset(self.via)


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
            twin.layer = self.layer._clone(budget, self.layer.depth + 1, self.layer.via)
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


class _Finder(ABC):
    """Keeps the runs of one encoding that are alive at the end of what was read."""

    via: Disguise

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._runs: list[_Run] = []
        self._open = False  # the text read so far ends inside a run of the encoding's characters
        self._previous = " "

    def clone(self, layer: Layer) -> Self:
        """Return an independent finder for ``layer`` in the same state."""
        twin = type(self)(layer)
        twin._runs = [run.clone(layer._budget) for run in self._runs]
        twin._open, twin._previous = self._open, self._previous
        return twin

    @abstractmethod
    def feed(self, text: str, at: int) -> list[Match]:
        """Read more of the layer; ``at`` is the offset of ``text`` in it."""

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


class Base64Finder(_Finder):
    """Runs of base64 and base64url, also when wrapped over lines."""

    via = Disguise.BASE64

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
            matches += run.clone(self._layer._budget).end()
        return matches


class HexFinder(_Finder):
    """Pairs of hex digits, together or apart, with or without ``0x``."""

    via = Disguise.HEX

    def feed(self, text: str, at: int) -> list[Match]:
        """Read more of the layer; ``at`` is the offset of ``text`` in it."""
        matches: list[Match] = []
        position = 0
        while position < len(text):
            if not self._open:
                found = _HEX_RUN.search(text, position)
                if found and found.start() == 0 and self._previous.isalnum():
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
