"""Personal data in a stream: the spans found are those of the whole text, however it is cut."""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from prism.match.pii.kinds import NAMED, Wanted
from prism.match.pii.names import Names, NamesScanner
from prism.match.pii.shape import CONTEXT, Compiled, compile_shape
from prism.types import Match

_PIECE = 8192  # characters read at a time


@dataclass(frozen=True, slots=True)
class _Group:
    """Shapes that begin alike, and the rules to which each one's findings belong."""

    begin: re.Pattern[str]
    shapes: tuple[tuple[Compiled, tuple[str, ...]], ...]
    held: bool


class PiiSet:
    """All kinds that a policy looks for at one stage.

    Raises ``NamesUnavailableError`` where they need what isn't installed.
    """

    def __init__(self, wanted: Sequence[Wanted]) -> None:
        from prism.match.pii.shapes import SHAPES  # late: the validators load tables

        groups: dict[tuple[str, bool], list[tuple[Compiled, tuple[str, ...]]]] = {}
        for held in (False, True):
            for shape in SHAPES:
                rules = tuple(w.rule for w in wanted if w.held is held and shape.kind in w.kinds)
                if rules:
                    key = (shape.begin, held)
                    groups.setdefault(key, []).append((compile_shape(shape), rules))
        self.groups = tuple(
            _Group(_begin(begin), tuple(shapes), held) for (begin, held), shapes in groups.items()
        )
        begins = dict.fromkeys(group.begin.pattern for group in self.groups)
        self.any_begin = re.compile("|".join(begins))
        self.named = tuple(w for w in wanted if not NAMED.keys().isdisjoint(w.kinds))
        self.names = Names.shipped() if self.named else None

    def __bool__(self) -> bool:
        return bool(self.groups or self.named)

    def scanner(self) -> PiiScanner | NamesScanner | BothScanner:
        """Return a scanner at the start of a text."""
        if self.names is None:
            return PiiScanner(self)
        names = NamesScanner(self.names, self.named)
        return BothScanner(PiiScanner(self), names) if self.groups else names


@lru_cache(maxsize=64)
def _begin(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


class _Clean(dict[int, str]):
    """What each character counts as: all digits as ASCII's, invisible ones as nothing.

    Filled as characters are met; ``odd`` are those that don't become exactly one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.odd: set[str] = set()

    def __missing__(self, code: int) -> str:
        char = chr(code)
        digit = unicodedata.decimal(char, None)
        if unicodedata.category(char) == "Cf":
            clean = ""
        else:
            clean = unicodedata.normalize("NFKC", char) if digit is None else str(digit)
        if len(clean) != 1:
            self.odd.add(char)
        self[code] = clean
        return clean


_CLEAN = _Clean()


class PiiScanner:
    """Reads one text in any chunks. Offsets are in code points of that text."""

    __slots__ = ("_base", "_buffer", "_covered", "_read", "_set", "_settled", "_source")

    def __init__(self, kinds: PiiSet) -> None:
        self._set = kinds
        self._buffer = ""
        self._base = 0  # clean characters dropped from the buffer's front
        self._source = array("q")  # offset in the text, per character of the buffer
        self._read = 0
        self._settled = [0] * len(kinds.groups)  # per group, in clean characters
        self._covered = [[0] * len(group.shapes) for group in kinds.groups]

    def feed(self, text: str) -> list[Match]:
        """Read more text; return the matches that became certain."""
        pieces = (text[i : i + _PIECE] for i in range(0, len(text), _PIECE))
        return [match for piece in pieces for match in self._feed(piece)]

    def finish(self) -> list[Match]:
        """Read the end of the text; return the matches that it makes certain."""
        return self._advance(final=True)

    def open_from(self) -> int:
        """Return the offset from which an unfinished, held match may begin (or what was read)."""
        held = [s for s, g in zip(self._settled, self._set.groups, strict=True) if g.held]
        first = min(held, default=self._base + len(self._buffer)) - self._base
        return self._source[first] if first < len(self._source) else self._read

    def _feed(self, text: str) -> list[Match]:
        clean = text if text.isascii() else text.translate(_CLEAN)
        self._buffer += clean
        if clean is text or _CLEAN.odd.isdisjoint(text):
            self._source.extend(range(self._read, self._read + len(text)))
        else:
            for i, char in enumerate(text, self._read):
                self._source.extend([i] * len(_CLEAN[ord(char)]))
        self._read += len(text)
        return self._advance(final=False)

    def _advance(self, *, final: bool) -> list[Match]:
        end = self._base + len(self._buffer)
        matches: list[Match] = []
        if self._set.any_begin.search(self._buffer, min(self._settled) - self._base) is None:
            self._settled = [end] * len(self._settled)
        else:
            for index, group in enumerate(self._set.groups):
                self._settled[index] = self._group(index, group, matches, final=final)
        keep = min(self._settled) - CONTEXT - 1 - self._base
        if keep > _PIECE // 8 or keep > len(self._buffer) // 2 > 0:
            self._buffer = self._buffer[keep:]
            del self._source[:keep]
            self._base += keep
        return matches

    def _group(self, index: int, group: _Group, matches: list[Match], *, final: bool) -> int:
        """Try a group's shapes wherever they may begin; return up to where that is settled."""
        buffer, base, covered = self._buffer, self._base, self._covered[index]
        for begin in group.begin.finditer(buffer, self._settled[index] - base):
            at = begin.start()
            tried = [
                i
                for i, (shape, _) in enumerate(group.shapes)
                if base + at >= covered[i] and shape.announced(buffer, at)
            ]
            if not final and any(group.shapes[i][0].is_open(buffer, at) for i in tried):
                return base + at
            for i in tried:
                shape, rules = group.shapes[i]
                if (span := shape.find(buffer, at)) is not None:
                    covered[i] = base + span[1]
                    start, stop = self._source[span[0]], self._source[span[1] - 1] + 1
                    matches += [Match(rule, start, stop) for rule in rules]
        return base + len(buffer)


class BothScanner:
    """Looks for what has a form and for names, in the same text."""

    __slots__ = ("_checked", "_names")

    def __init__(self, checked: PiiScanner, names: NamesScanner) -> None:
        self._checked, self._names = checked, names

    def feed(self, text: str) -> list[Match]:
        """Read more text; return the matches that became certain."""
        return self._checked.feed(text) + self._names.feed(text)

    def finish(self) -> list[Match]:
        """Read the end of the text; return the matches that it makes certain."""
        return self._checked.finish() + self._names.finish()

    def open_from(self) -> int:
        """Return the offset from which an unfinished, held match may begin (or what was read)."""
        return min(self._checked.open_from(), self._names.open_from())
