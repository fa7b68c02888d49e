"""Regular expressions over a stream, with exactly what must be held back.

The ``regex`` library can say whether the end of the text may still become a match (partial
matching). A pattern followed by an impossible assertion never matches in full, so a partial match
of *that* is the earliest place from which some path still wants more text. Everything before it is
settled, whatever comes later, which makes the result independent of how the text was cut.

Supported is what keeps that argument sound and the hold-back bounded: no look-around,
back-references or anchors, word boundaries at the pattern's ends alone, and a bounded width.
"""

from __future__ import annotations

import importlib
import unicodedata
from array import array
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from prism.match import onepass
from prism.types import Match

MAX_WIDTH = 1000
"""Most characters one match may span: the most that a regex rule can hold back."""
TIMEOUT_S = 0.25
"""Per search; a pattern that backtracks without end fails closed instead of stalling the server."""
_PIECE = 8192  # characters searched at a time
_MOST_PREFIXES = 4096

_parser: Any = importlib.import_module("re._parser")
_const: Any = importlib.import_module("re._constants")


class RegexError(ValueError):
    """A pattern that can't be used on a stream. ``fix`` says what to write instead."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


def check_regex(pattern: str) -> int:
    """Return the most characters ``pattern`` can match. Raises ``RegexError``."""
    try:
        parsed = _parser.parse(pattern)
        regex.compile(pattern)
    except (_const.error, regex.error, OverflowError, RecursionError) as error:
        raise RegexError(f"not a regular expression: {error}", "correct the pattern") from None
    if parsed.state.flags & ~int(_const.SRE_FLAG_UNICODE):
        raise RegexError("inline flags aren't supported", "use the rule's ignore_case")
    items = list(parsed)
    for i, (code, value) in enumerate(items):
        edge = i in (0, len(items) - 1)
        if code is _const.AT and value is _const.AT_BOUNDARY and edge:
            continue
        _check_node(code, value)
    low, high = parsed.getwidth()
    if low == 0:
        raise RegexError("the pattern matches the empty text", "require at least one character")
    if high > MAX_WIDTH:
        raise RegexError(
            "the pattern has no bound on its width, so a stream could be held back for ever"
            if high >= int(_const.MAXREPEAT)
            else f"the pattern can match {high} characters; at most {MAX_WIDTH} can be held back",
            "bound every repeat, as in {0,80} instead of * or +",
        )
    return int(high)


def _check_node(code: Any, value: Any) -> None:
    if code in (_const.ASSERT, _const.ASSERT_NOT):
        raise RegexError("look-around isn't supported on streams", "match the text itself")
    if code in (_const.GROUPREF, _const.GROUPREF_EXISTS):
        raise RegexError("back-references aren't supported", "spell the alternatives out")
    if code is _const.AT:
        raise RegexError(
            "anchors (^ $ \\A \\Z \\B) and inner word boundaries aren't supported on streams",
            "use \\b at the pattern's very start or end only",
        )
    if code in (_const.ATOMIC_GROUP, _const.POSSESSIVE_REPEAT):
        raise RegexError("atomic groups and possessive repeats aren't supported", "use plain ones")
    if code is _const.BRANCH:
        for branch in value[1]:
            for inner in branch:
                _check_node(*inner)
    elif code is _const.SUBPATTERN:
        if value[1] or value[2]:
            raise RegexError("inline flags aren't supported", "use the rule's ignore_case")
        for inner in value[-1]:
            _check_node(*inner)
    elif code in (_const.MAX_REPEAT, _const.MIN_REPEAT):
        for inner in value[2]:
            _check_node(*inner)


@lru_cache(maxsize=65536)
def _clean_character(char: str) -> str:
    if unicodedata.category(char) == "Cf":
        return ""
    return unicodedata.normalize("NFKC", char)


@dataclass(frozen=True, slots=True)
class Regex:
    """A compiled pattern of a rule. ``held``: whether a match is kept from the client."""

    rule: str
    full: Any
    unsettled: Any
    trailing_boundary: bool
    held: bool

    @classmethod
    def compile(cls, rule: str, pattern: str, *, ignore_case: bool, held: bool) -> Regex:
        """Compile a pattern that ``check_regex`` accepts."""
        flags = regex.IGNORECASE if ignore_case else 0
        last = list(_parser.parse(pattern))[-1]
        boundary = last[0] is _const.AT
        return cls(
            rule,
            regex.compile(pattern, flags),
            regex.compile(f"(?:{pattern})(?!)", flags),
            boundary,
            held,
        )


def _beginning(pattern: Regex) -> tuple[bool, set[str]] | None:
    """Return with which texts of at most two characters ``pattern`` may begin.

    Behind a shorter one anything may follow. The first value says whether a word boundary has to
    come before. ``None``: it may begin with any character.
    """
    items = list(_parser.parse(pattern.full.pattern))
    bounded = items[0][0] is _const.AT
    found = set().union(*_prefixes(items[1:] if bounded else items))
    if len(found) > _MOST_PREFIXES:
        found = {text[:1] for text in found}
    if "" in found:
        return None
    if pattern.full.flags & regex.IGNORECASE:
        # Case pairs outside ASCII are many and odd (ſ, K): leave those to the full search.
        if not all(text[0].isascii() and text[0] not in "kKsS" for text in found):
            return None
        found = {text if text.isascii() else text[0] for text in found}
        found = {
            first + second
            for text in found
            for first in (text[0].lower(), text[0].upper())
            for second in {text[1:].lower(), text[1:].upper()}
        }
    return bounded, found


_Prefixes = tuple[set[str], set[str]]
# Texts that are whole, shorter than two characters; and the beginnings of all longer ones.


def _prefixes(items: list[Any]) -> _Prefixes:
    whole, cut = {""}, set[str]()
    for code, value in items:
        whole, cut = _joined((whole, cut), _prefixes_of(code, value))
        if not whole:
            break
    return whole, cut


def _joined(first: _Prefixes, second: _Prefixes) -> _Prefixes:
    texts = {head + tail for head in first[0] for tail in second[0]}
    cut = first[1] | {(head + tail)[:2] for head in first[0] for tail in second[1]}
    return {t for t in texts if len(t) < 2}, cut | {t[:2] for t in texts if len(t) >= 2}


def _prefixes_of(code: Any, value: Any) -> _Prefixes:
    anything: _Prefixes = (set(), {""})
    if code is _const.LITERAL:
        return {chr(value)}, set()
    if code is _const.AT:
        return {""}, set()
    if code is _const.IN:
        found: set[str] = set()
        for kind, part in value:
            if kind is _const.LITERAL:
                found.add(chr(part))
            elif kind is _const.RANGE and part[1] - part[0] < 128:
                found |= {chr(c) for c in range(part[0], part[1] + 1)}
            else:
                return anything
        return found, set()
    if code is _const.SUBPATTERN:
        return _prefixes(list(value[-1]))
    if code is _const.BRANCH:
        parts = [_prefixes(list(branch)) for branch in value[1]]
        return set().union(*(p[0] for p in parts)), set().union(*(p[1] for p in parts))
    if code in (_const.MAX_REPEAT, _const.MIN_REPEAT):
        least, most, below = value
        each = _prefixes(list(below))
        whole, cut = ({""} if least == 0 else set()), set[str]()
        so_far: _Prefixes = ({""}, set())
        for _ in range(min(int(most), 2)):
            so_far = _joined(so_far, each)
            whole, cut = whole | so_far[0], cut | so_far[1]
        return whole, cut
    return anything


def beginnings(patterns: tuple[Regex, ...]) -> NDArray[np.int32]:
    """Return what one of ``patterns`` may begin with, for the compiled pass.

    int32 ``[onepass.FIRSTS + 129]``: a bit for each pair of ASCII characters; then, for each of
    them as the first, whether anywhere or at a word boundary; then whether another character may.
    """
    pairs = np.zeros((128, 128), np.bool_)
    firsts = np.zeros(129, np.int32)
    for pattern in patterns:
        begin = _beginning(pattern)
        if begin is None:
            pairs[:], firsts[:] = True, onepass.ANYWHERE
            continue
        bounded, texts = begin
        for text in texts:
            first = min(ord(text[0]), 128)
            firsts[first] |= onepass.AT_BOUNDARY if bounded else onepass.ANYWHERE
            if first < 128:
                pairs[first, ord(text[1]) if text[1:].isascii() and text[1:] else slice(None)] = (
                    True
                )
    bits = np.packbits(pairs.reshape(-1), bitorder="little").view(np.int32)
    return np.concatenate([bits, firsts])


@cache
def plain_characters() -> bytes:
    """Return, for each of the first 65536 characters, 1 where a regex sees it as it is."""
    return bytes(_clean_character.__wrapped__(char) == char for char in map(chr, range(0x10000)))


@dataclass(frozen=True, slots=True)
class RegexSet:
    """All patterns of a policy and stage; ``any_full``/``any_unsettled`` try them all at once.

    ``begins`` says where one of them may begin at all (see :func:`beginnings`).
    """

    patterns: tuple[Regex, ...]
    any_full: Any
    any_unsettled: Any
    begins: NDArray[np.int32] = field(repr=False, compare=False)

    @classmethod
    def compile(cls, patterns: tuple[Regex, ...]) -> RegexSet:
        """Join the patterns, so that a chunk in which nothing begins costs two searches in all."""
        each = [
            f"(?{'i' if p.full.flags & regex.IGNORECASE else ''}:{p.full.pattern})"
            for p in patterns
        ]
        joined = "|".join(each)
        full, unsettled = regex.compile(joined), regex.compile(f"(?:{joined})(?!)")
        return cls(patterns, full, unsettled, beginnings(patterns))

    def resume(self, read: int, last: str) -> RegexScanner:
        """Return a scanner that has settled all ``read`` characters, of which ``last`` is the
        last."""
        before = last if last.isascii() else _clean_character(last)[-1:]
        source = array("q", [read - 1] * len(before))
        return RegexScanner(self, before, 0, source, read, [len(before)] * len(self.patterns))

    def scanner(self) -> RegexScanner:
        """Return a scanner at the start of a text."""
        return RegexScanner(self)


@dataclass(slots=True)
class RegexScanner:
    """Reads one text, in any chunks, with the invisible characters removed and NFKC per
    character."""

    rules: RegexSet
    _buffer: str = ""
    _base: int = 0  # clean characters dropped from the buffer's front
    _source: array[int] = field(default_factory=lambda: array("q"))  # source offset per character
    _read: int = 0
    _settled: list[int] = field(default_factory=list)  # per pattern, in clean characters

    def __post_init__(self) -> None:
        if not self._settled:
            self._settled = [0] * len(self.rules.patterns)

    def clone(self) -> RegexScanner:
        """Return an independent scanner in the same state."""
        return RegexScanner(
            self.rules, self._buffer, self._base, self._source[:], self._read, self._settled[:]
        )

    @property
    def idle(self) -> bool:
        """Whether all is settled and :meth:`RegexSet.resume` would make a scanner that is equal."""
        whole = bool(self._source) and self._source[-1] == self._read - 1
        return whole and min(self._settled) == self._base + len(self._buffer)

    def feed(self, text: str) -> list[Match]:
        """Read more text; return the matches that became certain. Raises ``TimeoutError``."""
        if not self.rules.patterns:
            self._read += len(text)
            return []
        # In pieces, so that the time allowed is for a piece and a long text isn't a slow pattern.
        pieces = (text[i : i + _PIECE] for i in range(0, len(text), _PIECE))
        return [match for piece in pieces for match in self._feed(piece)]

    def _feed(self, text: str) -> list[Match]:
        if text.isascii():
            self._buffer += text
            self._source.extend(range(self._read, self._read + len(text)))
        else:
            for i, char in enumerate(text):
                clean = char if char.isascii() else _clean_character(char)
                self._buffer += clean
                self._source.extend([self._read + i] * len(clean))
        self._read += len(text)
        if self._nothing_begins():
            self._settled = [self._base + len(self._buffer)] * len(self._settled)
            matches = []
        else:
            matches = [m for i in range(len(self.rules.patterns)) for m in self._scan(i)]
        self._trim()
        return matches

    def finish(self) -> list[Match]:
        """Read the end of the text; return the matches that it makes certain."""
        matches = []
        for i, pattern in enumerate(self.rules.patterns):
            at = self._settled[i] - self._base
            for found in pattern.full.finditer(self._buffer, at, timeout=TIMEOUT_S):
                matches.append(self._match(pattern, found))
            self._settled[i] = self._base + len(self._buffer)
        return matches

    def open_from(self) -> int:
        """Return the offset from which an unfinished, held match may begin (or what was read)."""
        held = [s for s, p in zip(self._settled, self.rules.patterns, strict=True) if p.held]
        first = min(held, default=self._base + len(self._buffer)) - self._base
        return self._source[first] if first < len(self._source) else self._read

    def _nothing_begins(self) -> bool:
        at = min(self._settled) - self._base
        pending = self.rules.any_unsettled.search(self._buffer, at, partial=True, timeout=TIMEOUT_S)
        # Every pattern may begin with what comes next: a partial match of nothing is no match.
        if pending is not None and pending.start() < len(self._buffer):
            return False
        return self.rules.any_full.search(self._buffer, at, timeout=TIMEOUT_S) is None

    def _scan(self, index: int) -> list[Match]:
        pattern = self.rules.patterns[index]
        at = self._settled[index] - self._base
        matches: list[Match] = []
        end = len(self._buffer)
        pending = pattern.unsettled.search(self._buffer, at, partial=True, timeout=TIMEOUT_S)
        limit = pending.start() if pending else end
        while at < limit:
            found = pattern.full.search(self._buffer, at, timeout=TIMEOUT_S)
            if found is None or found.start() >= limit:
                break
            if found.end() == end and pattern.trailing_boundary:
                limit = found.start()
                break
            matches.append(self._match(pattern, found))
            at = found.end()
        # A match may reach into what another path left open; that path began inside it and is void.
        if at > limit:
            pending = pattern.unsettled.search(self._buffer, at, partial=True, timeout=TIMEOUT_S)
            limit = pending.start() if pending else end
        self._settled[index] = self._base + max(at, limit)
        return matches

    def _match(self, pattern: Regex, found: Any) -> Match:
        return Match(pattern.rule, self._source[found.start()], self._source[found.end() - 1] + 1)

    def _trim(self) -> None:
        # One settled character stays: a leading \b looks back at it.
        keep = min(self._settled) - 1 - self._base
        if keep > 0:
            self._buffer = self._buffer[keep:]
            del self._source[:keep]
            self._base += keep
