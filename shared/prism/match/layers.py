"""A text and everything that is hidden in it: a tree of layers, each decoded from the one above.

The root layer is the text as it came. Escapes are undone in a child layer that starts as a copy of
its parent's state at the first escape, so a phrase may begin before and end behind it. Runs that
decode from base64 or hex to readable text become layers of their own. Depth and total work are
bounded.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prism.match import kernel, onepass, quiet, runs, skim
from prism.match.encoded import Base64Finder, Finder, HexFinder
from prism.match.phrases import HITS, PhraseScanner, PhraseSet
from prism.match.regexes import RegexScanner, RegexSet, plain_characters
from prism.match.runs import BASE64, HEX, RUN, SHARED
from prism.match.tables import Asked, Tables
from prism.match.token import LONGEST, Block, open_ends
from prism.text.decode import Decoded, Unescaper
from prism.text.normalise import code_points, fold_block
from prism.types import Disguise, Match

MAX_DEPTH = 3
WORK_PER_CHARACTER, WORK_FREE = 16, 20_000
_LONGEST_TAIL = 256
_TOKEN = 64
_NOTHING = np.empty(0, np.int32)
_FINDERS: tuple[type[Finder], ...] = (Base64Finder, HexFinder)


class DecodeBudgetError(RuntimeError):
    """The text decodes to far more than itself; the check fails closed."""


@cache
def _shared() -> NDArray[np.int32]:
    fixed = runs.fixed_tables(plain_characters())
    return np.concatenate([fold_block(), fixed])


@dataclass(frozen=True, slots=True)
class Patterns:
    """What is looked for: phrases and regexes of one policy and stage, and which disguises
    count."""

    phrases: PhraseSet
    regexes: RegexSet
    disguises: dict[str, frozenset[Disguise]]  # rule -> encodings that it sees through
    decoders: frozenset[Disguise]  # union of the above
    # For the compiled pass: tables of every policy, this one's, and a layer's state at its start.
    shared: NDArray[np.int32] = field(init=False, repr=False, compare=False)
    const: NDArray[np.int32] = field(init=False, repr=False, compare=False)
    begins: NDArray[np.int32] = field(init=False, repr=False, compare=False)
    start: NDArray[np.int64] = field(init=False, repr=False, compare=False)
    escapes: bool = field(init=False)  # whether any rule sees through them
    regexed: bool = field(init=False)  # whether there are regexes
    tables: Tables = field(init=False, repr=False, compare=False)  # the same, by address

    def __post_init__(self) -> None:
        p = self.phrases
        head, ring = p.state()
        start = np.concatenate([np.zeros(onepass.HEAD, np.int64), head, ring.reshape(-1)])
        start[runs.PREVIOUS] = ord(" ")
        for kind, finder in enumerate(_FINDERS):
            if finder.via not in self.decoders:
                start[SHARED + kind * RUN + runs.READER] = runs.NOWHERE
        shared = _shared()
        asked = Asked(
            Disguise.ESCAPES in self.decoders, self.regexes.patterns != (),
            Disguise.BASE64 in self.decoders, Disguise.HEX in self.decoders,
        )  # fmt: skip
        opens = skim.openings(shared, p.plain, p.squeezed)
        begins = np.concatenate([self.regexes.begins, opens])
        tables = Tables(shared, p.block, begins, len(start), p.room, asked)
        made = {"shared": shared, "const": p.block, "begins": begins, "start": start}
        made |= {"escapes": asked.escapes, "regexed": asked.regexes, "tables": tables}
        for name, value in made.items():
            object.__setattr__(self, name, value)

    def surely_absent(self, text: str) -> bool:
        """Return whether nothing is in a whole text, where that can be said soon.

        ``False``: a layer has to read it. Raises ``TimeoutError`` as that would.
        """
        data = text.encode() if text.isascii() else text.encode("utf-8", "surrogatepass")
        said = quiet.holds(self.tables.address, data)
        if said != quiet.BEGINS:
            return bool(said == quiet.NOTHING)
        scanner = self.regexes.scanner()
        return not (scanner.feed(text) or scanner.finish())


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
        "_block", "_ends", "_escaped", "_finders", "_held", "_last", "_patterns", "_read",
        "_regexes", "_same", "_starts", "_state", "_tail", "_unescaper", "budget", "depth", "via",
    )  # fmt: skip

    def __init__(
        self, patterns: Patterns, budget: Budget, depth: int = 0, via: tuple[str, ...] = ()
    ) -> None:
        self._patterns = patterns
        self.budget = budget
        self.depth = depth
        self.via = via
        self._state = patterns.start.copy()
        self._block: Block | None = None  # where the state is, once tokens are read
        self._read = 0
        self._last = ""
        self._held = 0  # an unfinished phrase or run may begin here
        self._tail = ""  # what was read of a run that is alive
        # Where characters begin and end in the source, from the first one that differs on.
        self._same = 0
        self._starts: array[int] | None = None if depth == 0 else array("q")
        self._ends: array[int] | None = None if depth == 0 else array("q")
        self._unescaper: Unescaper | None = None
        self._escaped: Layer | None = None
        self._regexes: RegexScanner | None = None  # None: all that was read is settled
        self._finders: dict[int, Finder] = {}  # those that have taken over
        if depth >= MAX_DEPTH:
            self._blind()

    def _blind(self) -> None:
        for kind in (BASE64, HEX):
            self._state[SHARED + kind * RUN + runs.READER] = runs.NOWHERE
        self._finders = {}

    def clone(self, budget: Budget, depth: int, via: tuple[str, ...]) -> Layer:
        """Return an independent layer in the same state."""
        twin = object.__new__(Layer)
        twin._patterns, twin.budget, twin.depth, twin.via = self._patterns, budget, depth, via
        twin._state = self._state.copy()
        twin._block = None
        twin._read, twin._last = self._read, self._last
        twin._held, twin._tail = self._held, self._tail
        twin._regexes = self._regexes.clone() if self._regexes else None
        if self._starts is None or self._ends is None:
            twin._same, twin._starts, twin._ends = self._read, array("q"), array("q")
        else:
            # The arrays already hold places of characters that are still to be read.
            count = self._read - self._same
            twin._same = self._same
            twin._starts, twin._ends = self._starts[:count], self._ends[:count]
        twin._unescaper = self._unescaper.clone() if self._unescaper else None
        twin._escaped = self._escaped.clone(budget, depth + 1, self._escaped.via) if (
            self._escaped
        ) else None  # fmt: skip
        if depth < MAX_DEPTH:
            twin._finders = {kind: finder.clone(twin) for kind, finder in self._finders.items()}
        else:
            twin._blind()
            twin._held = twin._phrases.open_from()
        return twin

    @property
    def _phrases(self) -> PhraseScanner:
        state, phrases = self._state, self._patterns.phrases
        ring = state[onepass.RING :].reshape(kernel.VIEWS, -1, kernel.FIELDS)
        return PhraseScanner(phrases, (state[onepass.HEAD : onepass.RING], ring))

    def start_of(self, index: int) -> int:
        """Return where character ``index`` of this layer begins in the source."""
        if self._starts is None or index < self._same:
            return index
        return self._starts[index - self._same]

    def end_of(self, index: int) -> int:
        """Return where character ``index`` of this layer ends in the source."""
        if self._ends is None or index < self._same:
            return index + 1
        return self._ends[index - self._same]

    def nested(self, via: Disguise) -> Layer:
        """Return an empty layer for what was decoded from this one."""
        return Layer(self._patterns, self.budget, self.depth + 1, (*self.via, via.value))

    def feed(self, text: str) -> list[Match]:
        """Read more of the source (root layer only)."""
        self.budget.earn(len(text))
        if self._unescaper is None:  # nearly always; as ``_feed`` does, with one call less
            found = self._feed_here(text, watch=self._patterns.escapes)
            if found is not None:
                return found
        return self._feed(text)

    def token(self, data: bytes) -> list[Match] | Literal[True] | None:
        """Read more of the source as ``feed`` does, if it is a few characters of ASCII.

        Returns ``None`` where it has to be read by ``feed``, and is unread; ``True`` where there
        are no matches and nothing is held. Root layer only.
        """
        size = len(data)
        if self._regexes is not None or self._unescaper is not None or self._finders:
            return None
        if not 0 < size <= LONGEST:
            return None
        block = self._block
        if block is None:
            block = self._block = Block(self._patterns.tables, self._state)
            self._state = block.state
        left = block.read(data)
        if left == 0:
            self.budget.left += size * WORK_PER_CHARACTER
            self._held = self._read = self._read + size
            self._last, self._tail = chr(data[-1]), ""
            return True
        if left > 0:
            self.budget.earn(size)
            self._read += size
            self._last = chr(data[-1])
            held, alive = open_ends(left)
            self._held = self._read - held
            return self._keep(data.decode("ascii"), self._read - alive)
        (said, position, found, held, alive), rows = block.said()
        if said == onepass.ESCAPE:
            return None
        self.budget.earn(size)
        text = data.decode("ascii")
        cps = code_points(text) if said or found else _NOTHING
        return self._follow(text, cps, rows, said, position, found, held, alive)

    def feed_decoded(self, decoded: Decoded, parent: Layer) -> list[Match]:
        """Read characters decoded from ``parent``."""
        if not decoded.text or self._starts is None or self._ends is None:
            return []
        self.budget.spend(len(decoded.text))
        if parent.depth == 0:
            self._starts.extend(decoded.starts)
            self._ends.extend(decoded.ends)
        else:
            self._starts.extend(parent.start_of(i) for i in decoded.starts)
            self._ends.extend(parent.end_of(i - 1) for i in decoded.ends)
        return self._feed("".join(decoded.text))

    def _feed(self, text: str) -> list[Match]:
        matches: list[Match] = []
        if self._unescaper is None:
            watch = self._patterns.escapes and self.depth < MAX_DEPTH
            found = self._feed_here(text, watch=watch)
            if found is not None:
                return found
            at = Unescaper.first_trigger(text)
            if at is not None:
                matches += self._feed_here(text[:at]) or []
                self._fork()
                text = text[at:]
        matches += self._feed_here(text) or []
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
        self._escaped = self.clone(self.budget, self.depth + 1, via)
        self._escaped._unescaper = self._escaped._escaped = None

    def _feed_here(self, text: str, *, watch: bool = False) -> list[Match] | None:
        """Read more of this layer; ``None``, and nothing read, if an escape may be in it."""
        if not text:
            return []
        p = self._patterns
        cps = code_points(text)
        room = p.phrases.room
        out = np.empty((room if len(text) <= _TOKEN else max(HITS, room), 5), np.int64)
        idle = p.regexed and self._regexes is None
        said, position, found, held, alive = onepass.look(
            p.shared, p.const, p.begins, self._state, cps, out, watch, p.regexed, idle
        )
        if said == onepass.ESCAPE:
            return None
        return self._follow(text, cps, out[:found], said, position, found, held, alive)

    def _follow(
        self,
        text: str,
        cps: NDArray[np.int32],
        rows: NDArray[np.int64],
        said: int,
        position: int,
        found: int,
        held: int,
        alive: int,
    ) -> list[Match]:
        """Do what the compiled pass, which has read ``text``, leaves to be done."""
        p, start = self._patterns, self._read
        self._read = start + len(text)
        self._held = held
        before, self._last = self._last, text[-1]
        if not said and not found and not self._finders and self._regexes is None:
            return self._keep(text, alive) if alive < self._read or self._tail else []
        matches = self._phrases_found(cps, position, rows)
        if said & onepass.BEGINS:
            self._regexes = p.regexes.resume(start, before)
        if self._regexes is not None:
            matches += self._located(self._regexes.feed(text))
            if self._regexes.idle:
                self._regexes = None
        for kind in (BASE64, HEX):
            if said & onepass.ENCODED << kind or kind in self._finders:
                found_here, alive = self._encoded(kind, text, cps, alive)
                matches += found_here
        return matches + self._keep(text, alive)

    def _phrases_found(
        self, cps: NDArray[np.int32], position: int, rows: NDArray[np.int64]
    ) -> list[Match]:
        if position == len(cps) and not len(rows):
            return []
        phrases = self._phrases
        found = phrases.matches(rows)
        if position < len(cps):  # more rows than there was room for
            found += phrases.feed_points(cps, position)
            self._held = min(self._held, phrases.open_from())
        return self._located(found)

    def _encoded(
        self, kind: int, text: str, cps: NDArray[np.int32], alive: int
    ) -> tuple[list[Match], int]:
        """Let a finder read the runs that need it, and the compiled pass all that is between them.

        ``text``, which ``cps`` are of, is what was read last. ``alive`` is where the first run that
        is alive begins; it is returned as it is then, behind the matches.
        """
        p, state, run = self._patterns, self._state, SHARED + kind * RUN
        end, start = self._read, self._read - len(text)
        source, base = self._tail + text, start - len(self._tail)
        matches: list[Match] = []
        at, finder = start, self._finders.get(kind)
        while True:
            if finder is None:
                before, inside = chr(state[run + runs.BEFORE]), bool(state[run + runs.INSIDE])
                finder = self._finders[kind] = _FINDERS[kind](self, before, inside=inside)
                at = int(state[run + runs.FIRST])
            while at < end:
                piece = finder.piece(source, at - base)
                matches += finder.feed(piece, at)
                at += len(piece)
                if finder.idle and at > start:
                    break
            if not finder.idle:
                return matches, alive
            state[run + runs.READER] = runs.HERE
            state[run + runs.OPEN] = finder.inside
            state[run + runs.ALIVE] = 0
            del self._finders[kind]
            if at >= end:
                return matches, alive
            needed, held, alive = onepass.follow(
                p.shared, p.const, p.begins, state, cps, kind, at - start, end, p.regexed
            )
            if not needed:
                self._held = min(self._held, held)
                return matches, alive
            finder = None

    def _keep(self, text: str, alive: int) -> list[Match]:
        """Keep the text of runs that are alive, should a finder have to take over."""
        count = self._read - alive
        self._tail = (self._tail + text)[-count:] if count else ""
        matches: list[Match] = []
        if count > _LONGEST_TAIL:
            for kind in (BASE64, HEX):
                run = SHARED + kind * RUN
                if self._state[run + runs.ALIVE] and not self._state[run + runs.READER]:
                    self._state[run + runs.READER] = runs.ELSEWHERE
                    matches += self._encoded(kind, "", _NOTHING, alive)[0]
            self._tail = ""
        return matches

    def finish(self) -> list[Match]:
        """Read the end of the text."""
        p = self._patterns
        out = np.empty((p.phrases.room, 5), np.int64)
        found = onepass.finish(p.const, self._state, out)
        matches = self._located(self._phrases.matches(out[:found])) if found else []
        if self._regexes is not None:
            matches += self._located(self._regexes.finish())
        for kind in (BASE64, HEX):
            if kind in self._finders:
                matches += self._finders[kind].finish()
        if self._unescaper is not None and self._escaped is not None:
            matches += self._escaped.feed_decoded(self._unescaper.finish(), self)
            matches += self._escaped.finish()
        return matches

    def open_from(self) -> int | None:
        """Return where in the source an unfinished, held match may begin; ``None``: nowhere."""
        here = self.start_of(self._held) if self._held < self._read else None
        if self._regexes is None and not self._finders and self._unescaper is None:
            return here
        places = [] if here is None else [here]
        if self._regexes is not None and (index := self._regexes.open_from()) < self._read:
            places.append(self.start_of(index))
        for finder in self._finders.values():
            if (place := finder.open_from()) is not None:
                places.append(place)
        if self._unescaper is not None and self._escaped is not None:
            if (pending := self._unescaper.pending_from) is not None:
                places.append(self.start_of(pending))
            if (place := self._escaped.open_from()) is not None:
                places.append(place)
        return min(places, default=None)

    def _located(self, matches: Iterable[Match]) -> list[Match]:
        if self._starts is None:
            return list(matches)
        return [
            Match(m.rule, self.start_of(m.start), self.end_of(m.end - 1), self.via + m.via)
            for m in matches
            if self._allowed(m.rule)
        ]

    def _allowed(self, rule: str) -> bool:
        return self._patterns.disguises[rule].issuperset(self.via)
