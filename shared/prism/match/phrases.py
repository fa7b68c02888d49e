"""Phrases of a policy, compiled once; and a scanner that holds the state of one stream."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prism.match import automaton as ac
from prism.match import kernel
from prism.text.normalise import code_points, fold_block, normalise_phrase
from prism.types import Boundary, Disguise, Match

TRANSFORM_MIN_LETTERS = 6
"""ROT13 and reversal turn short words into other ordinary words ("evil", "live"): only longer
ones."""
SQUEEZE_MIN_LETTERS = 3
HITS = 1024
_BITS = {
    Disguise.SPACING: kernel.SPACING,
    Disguise.LEET: kernel.LEET,
    Disguise.REPEATS: kernel.REPEATS,
}


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase of a rule. ``held``: whether a match is kept from the client (redact and above)."""

    rule: str
    text: str
    boundary: Boundary
    disguises: frozenset[Disguise]
    held: bool


@dataclass(frozen=True, slots=True)
class _Entry:
    symbols: tuple[tuple[int, int, int], ...]  # letter, how many in a row, 1 where a word begins
    flags: int


Owner = tuple[str, tuple[str, ...]]
"""A rule's id, and the disguise (ROT13, reversal) the pattern stands for."""


def spellings(phrase: Phrase) -> Iterable[tuple[str, tuple[str, ...]]]:
    """Yield the phrase as the automaton must see it: written, in ROT13, reversed, both."""
    # Cased scripts whose capitals look like other letters than their small ones need both
    # spellings.
    plain = {normalise_phrase(t) for t in (phrase.text, phrase.text.upper(), phrase.text.title())}
    for text in sorted(plain - {""}):
        yield text, ()
        if sum(c != " " for c in text) < TRANSFORM_MIN_LETTERS:
            continue
        rotated = codecs.encode(text, "rot13") if text.isascii() else text
        if Disguise.ROT13 in phrase.disguises and rotated != text:
            yield rotated, (Disguise.ROT13.value,)
        if Disguise.REVERSED in phrase.disguises and text[::-1] != text:
            yield text[::-1], (Disguise.REVERSED.value,)
            if Disguise.ROT13 in phrase.disguises and rotated != text:
                yield rotated[::-1], (Disguise.ROT13.value, Disguise.REVERSED.value)


def _squeeze(text: str, flags: int, *, collapse: bool) -> tuple[str, _Entry]:
    """Return the class string of ``text`` without spaces (and repeats), and what to verify."""
    symbols: list[tuple[int, int, int]] = []
    new_word = 0
    for char in text:
        if char == " ":
            new_word = 1
        elif collapse and symbols and symbols[-1][0] == ord(char) and not new_word:
            letter, run, word = symbols[-1]
            symbols[-1] = (letter, run + 1, word)
        else:
            symbols.append((ord(char), 1, new_word))
            new_word = 0
    classes = (int(kernel.LETTER_CLASS[c]) if c < 128 else c for c, _, _ in symbols)
    return "".join(map(chr, classes)), _Entry(tuple(symbols), flags)


class PhraseSet:
    """Compiled phrases, immutable and shared by every stream that uses the policy."""

    def __init__(self, phrases: Sequence[Phrase]) -> None:
        plain: dict[str, list[tuple[Owner, bool]]] = {}
        squeezed: dict[str, dict[_Entry, list[tuple[Owner, bool]]]] = {}
        for phrase in phrases:
            bounded = phrase.boundary is Boundary.WORD
            flags = sum(bit for d, bit in _BITS.items() if d in phrase.disguises)
            for text, via in spellings(phrase):
                owner = ((phrase.rule, via), phrase.held)
                plain.setdefault(f" {text} " if bounded else text, []).append(owner)
                if flags and sum(c != " " for c in text) >= SQUEEZE_MIN_LETTERS:
                    # Both ways of writing a double letter: "ll" is one long symbol, "l1" is two.
                    for collapse in (True, False):
                        bits = flags | (kernel.BOUNDED if bounded else 0)
                        key, entry = _squeeze(text, bits, collapse=collapse)
                        owners = squeezed.setdefault(key, {}).setdefault(entry, [])
                        if owner not in owners:
                            owners.append(owner)
        self.table = fold_block()
        self._compile_plain(plain)
        self._compile_squeezed(squeezed)
        longest = max([1, *map(len, plain), *map(len, squeezed)])
        self.ring_size = 1 << (longest + 2).bit_length()
        self.empty = not plain

    def _compile_plain(self, plain: dict[str, list[tuple[Owner, bool]]]) -> None:
        self.plain = ac.build(list(plain))
        ordered = self.plain_keys = sorted(plain)
        self.plain_owners = [[owner for owner, _ in plain[key]] for key in ordered]
        marked = np.array([any(h for _, h in plain[key]) for key in ordered], np.bool_)
        self.plain_held = ac.subtree_any(self.plain, marked).astype(np.uint8) * kernel.OPEN

    def _compile_squeezed(
        self, squeezed: dict[str, dict[_Entry, list[tuple[Owner, bool]]]]
    ) -> None:
        self.squeezed = ac.build(list(squeezed))
        of_pattern, offset = [0], [0]
        flags: list[int] = []
        symbols: list[tuple[int, int, int]] = []
        self.entry_owners: list[list[Owner]] = []
        held, loose = [], []
        self.squeezed_keys = sorted(squeezed)
        for key in self.squeezed_keys:
            pattern_held = pattern_loose = False
            for entry, owners in squeezed[key].items():
                symbols.extend(entry.symbols)
                flags.append(entry.flags)
                offset.append(len(symbols))
                self.entry_owners.append([owner for owner, _ in owners])
                keep = any(h for _, h in owners)
                pattern_held |= keep
                pattern_loose |= keep and not entry.flags & kernel.BOUNDED
            of_pattern.append(len(flags))
            held.append(pattern_held)
            loose.append(pattern_loose)
        self.entries = kernel.pack_entries(of_pattern, offset, flags, symbols)
        self.squeezed_held = self._held_bits(np.array(held, np.bool_), np.array(loose, np.bool_))

    def _held_bits(self, held: NDArray[np.bool_], loose: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return per node of the squeezed automaton what ``kernel.open_from`` asks."""
        output = ac.unpack(self.squeezed).output
        at = output >= 0
        ends = np.zeros(len(output), np.bool_)
        ends[at] = held[output[at]]
        loose_here = ac.subtree_any(self.squeezed, loose)
        loose_here[at] |= loose[output[at]]
        bits = ac.subtree_any(self.squeezed, held).astype(np.uint8) * kernel.OPEN
        bits |= loose_here.astype(np.uint8) * kernel.LOOSE
        bits |= ends.astype(np.uint8) * kernel.ENDS
        return bits

    def state(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the head and the ring of a scanner at the start of a text."""
        head = np.zeros(kernel.HEAD, np.int64)
        ring = np.zeros((kernel.VIEWS, self.ring_size, kernel.FIELDS), np.int64)
        kernel.begin(self.plain, head, ring)
        return head, ring

    def scanner(self) -> PhraseScanner:
        """Return a scanner at the start of a text."""
        return PhraseScanner(self)


class PhraseScanner:
    """Reads one text, in any chunks. Offsets are those of the text read since the start.

    ``state``: the head and the ring of :mod:`prism.match.kernel` to go on from.
    """

    __slots__ = ("_head", "_ring", "_set")

    def __init__(
        self,
        phrases: PhraseSet,
        state: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    ) -> None:
        self._set = phrases
        self._head, self._ring = phrases.state() if state is None else state

    @property
    def read(self) -> int:
        """How many characters were read."""
        return int(self._head[kernel.READ])

    def feed(self, text: str) -> list[Match]:
        """Read more text; return the matches that became certain."""
        return self.feed_points(code_points(text), 0)

    def feed_points(self, cps: NDArray[np.int32], position: int) -> list[Match]:
        """Read ``cps[position:]``; return the matches that became certain."""
        s = self._set
        out = np.empty((HITS, 5), np.int64)
        matches: list[Match] = []
        while position < len(cps):
            position, found = kernel.feed(
                s.table, s.plain, s.squeezed, s.entries, self._head, self._ring, cps, position, out
            )
            if found:
                matches.extend(self.matches(out[:found]))
        return matches

    def finish(self) -> list[Match]:
        """Read the end of the text; return the matches that it makes certain."""
        s = self._set
        out = np.empty((HITS, 5), np.int64)
        found = kernel.finish(s.plain, s.squeezed, s.entries, self._head, self._ring, out)
        return self.matches(out[:found])

    def open_from(self) -> int:
        """Return the offset from which an unfinished, held match may begin (or what was read)."""
        s = self._set
        return int(
            kernel.open_from(
                s.plain, s.squeezed, s.plain_held, s.squeezed_held, self._head, self._ring
            )
        )

    def matches(self, rows: NDArray[np.int64]) -> list[Match]:
        """Return the matches that rows of the kernel's stand for."""
        result: dict[Match, None] = {}
        for kind, index, start, end, bits in rows.tolist():
            owners = self._set.entry_owners[index] if kind else self._set.plain_owners[index]
            undone = tuple(d.value for d, bit in _BITS.items() if bits & bit)
            for rule, via in owners:
                result[Match(rule, start, end, undone + via)] = None
        return list(result)
