"""Phrases of a policy, compiled once; and a scanner that holds the state of one stream."""

from __future__ import annotations

import codecs
import hashlib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from string import ascii_lowercase
from typing import ClassVar, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from prism.match import automaton as ac
from prism.match import disk, entries, kernel, scratch, spelling
from prism.match.owners import Owners
from prism.match.spelling import TRANSFORM_MIN_LETTERS
from prism.text.normalise import (
    code_points,
    fold_block,
    fold_code_point,
    fold_digest,
    longest_expansion,
    normalise_phrase,
)
from prism.types import Boundary, Disguise, Match

HITS = 1024
_REPORTS = 3
"""How often one character looks for squeezed hits (``kernel._fold_one``): both views where a word
ends, and the view of signs where the separator is a letter too."""
WORTH_KEEPING = 2_000
"""From so many phrases on, reading the compiled form from a file is quicker than compiling."""
_MADE_BY = tuple(
    f"prism.match.{name}"
    for name in ("automaton", "entries", "kernel", "owners", "spelling", "phrases")
)
_WAYS = 3
_BITS = {
    Disguise.SPACING: entries.SPACING,
    Disguise.LEET: entries.LEET,
    Disguise.REPEATS: entries.REPEATS,
}
_ASKED = {
    **_BITS, Disguise.ROT13: spelling.TO_ROTATE, Disguise.REVERSED: spelling.TO_REVERSE,
}  # fmt: skip


class Phrase(NamedTuple):
    """A phrase of a rule. ``held``: whether a match is kept from the client (redact and above)."""

    rule: str
    text: str
    boundary: Boundary
    disguises: frozenset[Disguise]
    held: bool


@cache
def _ascii_has_no_case() -> bool:
    """Whether every ASCII letter is read as its capital is."""
    return all(fold_code_point(ord(c)) == fold_code_point(ord(c.upper())) for c in ascii_lowercase)


def _ways(text: str) -> tuple[str, str, str]:
    # Cased scripts whose capitals look like other letters than their small ones need both
    # spellings.
    if text.isascii() and _ascii_has_no_case():
        return text, "", ""
    return text, text.upper(), text.title()


def spellings(phrase: Phrase) -> Iterable[tuple[str, tuple[str, ...]]]:
    """Yield the phrase as the automaton must see it: written, in ROT13, reversed, both.

    ``prism.match.spelling`` does the same to many at once.
    """
    plain = {normalise_phrase(text) for text in _ways(phrase.text)}
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


_PARTS = ("plain", "squeezed", "entries", "plain_bounds", "plain_codes", "entry_bounds",
          "entry_codes")  # fmt: skip


class PhraseSet:
    """Compiled phrases, immutable and shared by every stream that uses the policy.

    ``block`` is all there is to them: the places of its parts and of its end, the two automata, the
    entries behind the squeezed one, and the owners of plain patterns and of entries. Several sets
    may have the same block and differ in whose hits count (:meth:`only`).
    """

    _shared: ClassVar[WeakValueDictionary[str, PhraseSet]] = WeakValueDictionary()

    def __init__(self, phrases: Sequence[Phrase]) -> None:
        rules = tuple(dict.fromkeys(phrase.rule for phrase in phrases))
        self._adopt(rules, _compile(phrases, rules))

    @classmethod
    def compile(cls, phrases: Sequence[Phrase]) -> PhraseSet:
        """Return the set of ``phrases``: one in this process, and many also kept in a file."""
        digest = _digest(phrases)
        known = cls._shared.get(digest)
        if known is not None:
            return known
        found = disk.load("phrases", digest) if len(phrases) >= WORTH_KEEPING else None
        if found is None:
            made = cls(phrases)
            if len(phrases) >= WORTH_KEEPING:
                disk.save("phrases", digest, {"rules": list(made.rules)}, {"block": made.block})
                # From now on as every other process has it: one copy for all, in the file's pages.
                found = disk.load("phrases", digest)
                scratch.trim()
        if found is not None:
            made = cls.__new__(cls)
            made._adopt(tuple(found.meta["rules"]), found.arrays["block"])
        made.digest = digest
        return cls._shared.setdefault(digest, made)

    def only(self, rules: Iterable[str]) -> PhraseSet:
        """Return the same phrases with those of ``rules`` as the only ones whose hits count.

        What of a stream is held stays as it is.
        """
        chosen = frozenset(rules).intersection(self.rules)
        if chosen.issuperset(self.rules):
            return self
        twin = copy(self)
        twin._whole = self._whole or self  # who asks for the others finds them in this process
        twin.rules = tuple(rule for rule in self.rules if rule in chosen)
        if self.digest is not None:
            terms = json.dumps([self.digest, sorted(chosen)])
            twin.digest = hashlib.sha256(terms.encode()).hexdigest()
        twin.plain_owners = self.plain_owners.only(chosen)
        twin.entry_owners = self.entry_owners.only(chosen)
        twin.active = _active(twin)
        twin.empty = not twin.active.any()
        return twin if twin.digest is None else self._shared.setdefault(twin.digest, twin)

    def _adopt(self, rules: tuple[str, ...], block: NDArray[np.int32]) -> None:
        self.digest: str | None = None
        self._whole: PhraseSet | None = None
        self.rules = rules
        self.block = block
        bounds = block[: len(_PARTS) + 1].tolist()
        parts = {
            name: block[a:b] for name, a, b in zip(_PARTS, bounds[:-1], bounds[1:], strict=True)
        }
        self.table = fold_block()
        self.plain, self.squeezed, self.entries = (parts[name] for name in _PARTS[:3])
        self.plain_owners = Owners(rules, parts["plain_bounds"], parts["plain_codes"])
        self.entry_owners = Owners(rules, parts["entry_bounds"], parts["entry_codes"])
        longest = max(1, ac.longest(self.plain), ac.longest(self.squeezed))
        self.ring_size = 1 << (longest + 2).bit_length()
        self.active = _active(self)
        """Of each plain pattern, then of each entry, whether its hits count; uint8."""
        self.empty = not int(self.plain[ac.PATTERNS])
        # No hit may be dropped for want of room: it could be the one that blocks.
        plain = np.ones(int(self.plain[ac.PATTERNS]), np.int64)
        at = int(self.entries[entries.OF_PATTERN])
        of_pattern = self.entries[at : at + int(self.squeezed[ac.PATTERNS]) + 1]
        squeezed = np.diff(of_pattern).astype(np.int64)
        most = ac.most_at_once(self.plain, plain)
        most += _REPORTS * ac.most_at_once(self.squeezed, squeezed)
        self.room = 2 * longest_expansion() * max(1, most)
        """Rows that ``kernel.feed`` must have for one character's hits always to find a place."""

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
        out = np.empty((max(HITS, s.room), 5), np.int64)
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
        out = np.empty((max(HITS, s.room), 5), np.int64)
        found = kernel.finish(s.plain, s.squeezed, s.entries, self._head, self._ring, out)
        return self.matches(out[:found])

    def open_from(self) -> int:
        """Return the offset from which an unfinished, held match may begin (or what was read)."""
        s = self._set
        return int(kernel.open_from(s.plain, s.squeezed, self._head, self._ring))

    def matches(self, rows: NDArray[np.int64]) -> list[Match]:
        """Return the matches that rows of the kernel's stand for."""
        result: dict[Match, None] = {}
        for kind, index, start, end, bits in rows.tolist():
            owners = self._set.entry_owners[index] if kind else self._set.plain_owners[index]
            undone = tuple(d.value for d, bit in _BITS.items() if bits & bit)
            for rule, via in owners:
                result[Match(rule, start, end, undone + via)] = None
        return list(result)


def _active(phrases: PhraseSet) -> NDArray[np.uint8]:
    owners = phrases.plain_owners, phrases.entry_owners
    active = np.concatenate([each.among(phrases.rules) for each in owners]).view(np.uint8)
    active.flags.writeable = False
    return active


def _digest(phrases: Sequence[Phrase]) -> str:
    """Return what tells the compiled form of ``phrases`` from any other."""
    made_by = [disk.code_digest(*_MADE_BY), unicodedata.unidata_version, fold_digest()]
    digest = hashlib.sha256(json.dumps(made_by).encode())
    for same, group in groupby(phrases, lambda p: (p.rule, p.boundary, p.disguises, p.held)):
        rule, boundary, disguises, held = same
        terms = [rule, boundary.value, sorted(d.value for d in disguises), held]
        digest.update(json.dumps([*terms, [p.text for p in group]]).encode())
    return digest.hexdigest()


def _compile(phrases: Sequence[Phrase], rules: tuple[str, ...]) -> NDArray[np.int32]:
    numbers = {rule: i for i, rule in enumerate(rules)}
    asked: dict[frozenset[Disguise], int] = {}
    for phrase in phrases:
        if phrase.disguises not in asked:
            asked[phrase.disguises] = sum(b for d, b in _ASKED.items() if d in phrase.disguises)
    flags = np.array([asked[p.disguises] for p in phrases], np.int64)
    flags |= entries.BOUNDED * np.array([p.boundary is Boundary.WORD for p in phrases], np.int64)
    held = np.array([p.held for p in phrases], np.bool_)
    rule = np.array([numbers[p.rule] for p in phrases], np.int64)

    written = [way for p in phrases for way in _ways(p.text)]
    bounds = np.cumsum([0, *map(len, written)], dtype=np.int64)
    cps, table = code_points("".join(written)), fold_block()
    del written
    ends = np.zeros(len(bounds), np.int64)
    symbols = np.empty(0, np.int32)
    symbols = np.empty(spelling.normalise(table, cps, bounds, symbols, ends), np.int32)
    spelling.normalise(table, cps, bounds, symbols, ends)
    chosen = np.zeros(len(bounds) - 1, np.int64)
    chosen = chosen[: spelling.variants(symbols, ends, _WAYS, chosen)]
    texts, vias = (np.zeros(4 * len(chosen), np.int32) for _ in range(2))
    count = spelling.records(symbols, ends, _WAYS, chosen, flags, texts, vias)
    made = _Made(symbols, ends, chosen, flags, held, rule, texts[:count], vias[:count])
    with ThreadPoolExecutor(1) as pool:  # the compiled loops hold no lock
        other = pool.submit(_plain, made)
        squeezed = _squeezed(made)
        plain = other.result()
    parts = [plain[0], *squeezed[:2], *plain[1:], *squeezed[2:]]
    starts = np.cumsum([len(_PARTS) + 1, *map(len, parts)])
    parts.insert(0, starts.astype(np.int32))
    del made, other, plain, squeezed
    block: NDArray[np.int32] = scratch.joined(parts)
    block.flags.writeable = False
    return block


@dataclass(frozen=True, slots=True)
class _Made:
    """Texts and records on their way (``prism.match.spelling``)."""

    symbols: NDArray[np.int32]
    ends: NDArray[np.int64]
    chosen: NDArray[np.int64]
    flags: NDArray[np.int64]  # [phrases]
    held: NDArray[np.bool_]  # [phrases]
    rule: NDArray[np.int64]  # [phrases]
    texts: NDArray[np.int32]  # [records]
    vias: NDArray[np.int32]  # [records]

    @property
    def phrase(self) -> NDArray[np.int64]:
        """Of which phrase each record is."""
        return self.chosen[self.texts] // _WAYS

    def owners(self, record: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the owners' codes of some records."""
        via = self.vias[record]
        code = (via & entries.ROTATED > 0) + 2 * (via & entries.REVERSED > 0)
        codes: NDArray[np.int32] = (self.rule[self.phrase[record]] * 4 + code).astype(np.int32)
        return codes


def _patterns(
    keys: NDArray[np.int32], bounds: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """Sort keys: their order, the pattern of each in it, and the patterns' symbols and bounds."""
    order = np.arange(len(bounds) - 1, dtype=np.int64)
    spelling.sort_keys(keys, bounds, order)
    groups = np.zeros(len(order), np.int64)
    count = int(spelling.group(keys, bounds, order, groups))
    firsts = order[spelling.runs(groups, count)[:-1]]
    out_bounds = np.zeros(count + 1, np.int64)
    symbols = scratch.zeros(int(np.diff(bounds)[firsts].sum()), np.int32)
    spelling.gather(keys, bounds, firsts, symbols, out_bounds)
    return order, groups, symbols, out_bounds


def _plain(made: _Made) -> list[NDArray[np.int32]]:
    """Return the automaton of the plain view, and its owners: bounds and codes."""
    bounds = np.zeros(len(made.texts) + 1, np.int64)
    keys = np.zeros(0, np.int32)
    for _ in range(2):
        spelling.plain_keys(
            made.symbols, made.ends, _WAYS, made.chosen, made.flags, made.texts, made.vias,
            bounds, keys,
        )  # fmt: skip
        keys = scratch.zeros(int(bounds[-1]), np.int32) if not len(keys) else keys
    order, groups, symbols, pattern_bounds = _patterns(keys, bounds)
    del keys
    held = np.zeros(len(pattern_bounds) - 1, np.bool_)
    held[groups[made.held[made.phrase[order]]]] = True
    owner_bounds = spelling.runs(groups, len(held))
    return [ac.assemble(symbols, pattern_bounds, held), owner_bounds, made.owners(order)]


def _squeezed(made: _Made) -> list[NDArray[np.int32]]:
    """Return the squeezed views' automaton, its entries, and their owners: bounds and codes."""
    count = len(made.chosen)
    whole, letters = np.ones(count, np.bool_), np.zeros(count, np.int64)
    bounds = np.zeros(2 * count + 1, np.int32)
    texts = scratch.zeros(2 * int(np.diff(made.ends)[made.chosen].sum()), np.int32)
    size = spelling.squeeze(made.symbols, made.ends, made.chosen, bounds, texts, whole, letters)
    texts = texts[:size].copy()
    # Of each record that sees through a disguise one row, or two where a letter is doubled.
    sees = made.flags[made.phrase] & (entries.SPACING | entries.LEET | entries.REPEATS) != 0
    record = np.flatnonzero(sees & (letters[made.texts] >= spelling.SQUEEZE_MIN_LETTERS))
    record = np.repeat(record, 2 - whole[made.texts[record]])
    second = np.concatenate([np.zeros(1, np.bool_), record[1:] == record[:-1]])[: len(record)]
    rows = 2 * made.texts[record] + second
    vias, phrase = made.vias[record], made.phrase[record]
    seen = entries.SPACING | entries.LEET | entries.REPEATS | entries.BOUNDED
    flags = made.flags[phrase] & seen | vias
    key_bounds = np.zeros(len(rows) + 1, np.int64)
    keys = np.zeros(0, np.int32)
    for _ in range(2):
        spelling.squeezed_keys(texts, bounds, rows, vias, key_bounds, keys)
        keys = scratch.zeros(int(key_bounds[-1]), np.int32) if not len(keys) else keys
    order, groups, symbols, pattern_bounds = _patterns(keys, key_bounds)
    del keys
    owners = made.owners(record)
    told = owners.astype(np.int64) * 2 + made.held[phrase]
    found, firsts, inside = (np.zeros(len(rows), np.int64) for _ in range(3))
    total = int(
        spelling.entries(
            texts, bounds, rows, vias, flags, told, order, groups, found, firsts, inside
        )
    )
    firsts, inside = firsts[:total], inside[:total]
    of_pattern = spelling.runs(inside, len(pattern_bounds) - 1)
    entry_flags = flags[firsts].astype(np.int32)
    packed = entries.pack_entries(
        of_pattern, rows[firsts].astype(np.int32), entry_flags, bounds, texts
    )
    kept = np.flatnonzero(found >= 0)
    kept = kept[np.argsort(found[kept], kind="stable")]
    keep = np.zeros(total, np.bool_)
    keep[found[kept][made.held[phrase[order[kept]]]]] = True
    unbounded = entry_flags & entries.BOUNDED == 0
    held, loose, free = (np.zeros(len(pattern_bounds) - 1, np.bool_) for _ in range(3))
    held[inside[keep]] = loose[inside[keep & unbounded]] = free[inside[unbounded]] = True
    block = ac.assemble(symbols, pattern_bounds, held, loose, free)
    return [block, packed, spelling.runs(found[kept], total), owners[order[kept]]]
