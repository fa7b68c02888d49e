"""Where a row stands in the phrases: the automata's nodes, the last symbols, a half-read character.

Rows that are read and masked together lie side by side in one ``States``; a ``State`` is one of its
slots.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prism.match import kernel as match_kernel
from prism.match.kernel import FIELDS, HEAD, VIEWS
from prism.match.phrases import PhraseSet
from prism.steer import kernel
from prism.steer.circles import LOOK, WATCHED
from prism.steer.scores import Scores, ScoreStates
from prism.steer.utf8 import BROKEN
from prism.steer.vocabulary import Vocabulary

_HITS = 64
_ROOM = 1 << 10
"""Banned tokens that there is room for at first; room grows with what is found."""


class Masks(NamedTuple):
    """Banned tokens of some rows: row ``i`` has ``ids[bounds[i]:bounds[i + 1]]``, ascending.

    Within a character they are the only ones that may be sampled (``kernel.ANY_OTHER``,
    ``VALID_ONES``, ``SAFE_ONES``).
    """

    ids: NDArray[np.int64]
    bounds: NDArray[np.int64]  # [rows + 1]
    only: NDArray[np.uint8]  # [rows]

    def row(self, i: int) -> NDArray[np.int64]:
        """Return row ``i``'s."""
        return self.ids[self.bounds[i] : self.bounds[i + 1]]


class States:
    """Slots for rows under one set of phrases, and under ``scores`` where those are watched."""

    def __init__(self, phrases: PhraseSet, slots: int = 1, scores: Scores | None = None) -> None:
        self.phrases = phrases
        self.scores = None if scores is None else ScoreStates(scores, slots)
        self.tables = (
            phrases.table, phrases.plain, phrases.squeezed, phrases.entries, phrases.active,
        )  # fmt: skip
        self.heads = np.zeros((slots, HEAD), np.int64)
        self.rings = np.zeros((slots, VIEWS, phrases.ring_size, FIELDS), np.int64)
        self.utf8s = np.zeros((slots, kernel.UTF8), np.int64)
        self.counts = np.zeros(slots, np.int64)  # output ids read into the state
        self.lengths = np.zeros(slots, np.int64)  # … and known of, those of a refusal too
        self.lasts = np.full(slots, -1, np.int64)  # the last id known of
        self.turned = np.full(slots, -1, np.int64)  # length at which a mask changed the favourite
        self.refusing = np.zeros(slots, np.bool_)
        self.out = np.empty((max(_HITS, phrases.room), 5), np.int64)
        # Where masks are made, again and again: fresh memory would cost more than the masks do.
        self.found = np.empty((2, _ROOM), np.int64)

    def doubled(self) -> States:
        """Return twice as many slots, the first half as they are here."""
        n = len(self.heads)
        twin = States(self.phrases, 2 * n)
        for name in ("heads", "rings", "utf8s", "counts", "lengths", "lasts", "turned", "refusing"):
            getattr(twin, name)[:n] = getattr(self, name)
        twin.scores = None if self.scores is None else self.scores.doubled()
        return twin

    @property
    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Heads, rings and half-read characters, as the kernels take them."""
        return self.heads, self.rings, self.utf8s

    def begin(self, slot: int) -> None:
        """Set a slot to the start of an output."""
        self.counts[slot] = self.lengths[slot] = 0
        self.lasts[slot] = self.turned[slot] = -1
        self.refusing[slot] = False
        self.heads[slot] = 0
        self.rings[slot] = 0
        self.utf8s[slot] = 0
        match_kernel.begin(self.phrases.plain, self.heads[slot], self.rings[slot])
        if self.scores is not None:
            self.scores.begin(slot)

    def note(
        self, slots: NDArray[np.int64], tokens: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> bool:
        """Note that ``tokens`` were read, the outputs being ``lengths`` long, ``[rows]``.

        Return whether a mask has changed the course of any row.
        """
        noted = kernel.note_rows(
            slots, tokens, lengths, self.counts, self.lengths, self.lasts, self.turned
        )
        return bool(noted)

    def circles_due(self, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of ``slots`` are to be looked at for circles now, ``[rows]``."""
        turned = self.turned[slots]
        since = self.lengths[slots] - turned
        watched = (turned >= 0) & (since > 0) & (since <= WATCHED) & ~self.refusing[slots]
        due: NDArray[np.bool_] = watched & (since % LOOK == 0)
        return due

    def feed(
        self, vocabulary: Vocabulary, slots: NDArray[np.int64], tokens: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Read one token into each of ``slots``; return where no more may follow, ``[rows]``.

        That is where a phrase is whole, where a score is too high, and behind bytes that are no
        UTF-8: what a decoder makes of those is not known.
        """
        hits = np.zeros(len(slots), np.uint8)
        kernel.feed_rows(
            *self.tables, *self.arrays, slots, tokens,
            vocabulary.data, vocabulary.offsets, self.out, hits,
        )  # fmt: skip
        found = hits.astype(np.bool_) & (not self.phrases.empty)
        return found if self.scores is None else found | self.scores.feed(slots, tokens)


class State:
    """One row's."""

    __slots__ = ("behind", "head", "ring", "slot", "slots", "states", "utf8")

    def __init__(self, phrases: PhraseSet, states: States | None = None, slot: int = 0) -> None:
        self.behind: State | None = None
        self.bind(states if states is not None else States(phrases), slot)
        self.states.begin(slot)

    def bind(self, states: States, slot: int) -> None:
        """Stand at ``slot``, whatever is there."""
        self.states = states
        self.slot = slot
        self.slots = np.array([slot], np.int64)
        self.head, self.ring, self.utf8 = states.heads[slot], states.rings[slot], states.utf8s[slot]

    def restart(self) -> None:
        """Go back to the start of the output; whether it refuses stays."""
        refusing = self.refusing
        self.states.begin(self.slot)
        self.begin_behind(self.behind)
        self.refusing = refusing

    def begin_behind(self, before: State | None) -> None:
        """Begin, now and whenever it restarts, where ``before`` stands; ``None``: as a text does.

        Set at the start of the output.
        """
        self.behind = before
        if before is not None:
            self._stand_at(before)

    @property
    def count(self) -> int:
        """Output ids read."""
        return int(self.states.counts[self.slot])

    @count.setter
    def count(self, value: int) -> None:
        self.states.counts[self.slot] = value

    @property
    def length(self) -> int:
        """Output ids known of; more than were read while a refusal is forced."""
        return int(self.states.lengths[self.slot])

    @length.setter
    def length(self, value: int) -> None:
        self.states.lengths[self.slot] = value

    @property
    def last(self) -> int:
        """The last output id known of, or -1."""
        return int(self.states.lasts[self.slot])

    @last.setter
    def last(self, value: int) -> None:
        self.states.lasts[self.slot] = value

    def turn(self) -> None:
        """Note that a mask keeps the model from its likeliest token, unless that is on note."""
        turned = int(self.states.turned[self.slot])
        if turned < 0 or not 0 <= self.length - turned <= WATCHED:
            self.states.turned[self.slot] = self.length

    @property
    def refusing(self) -> bool:
        """Whether a refusal is forced."""
        return bool(self.states.refusing[self.slot])

    @refusing.setter
    def refusing(self, value: bool) -> None:
        self.states.refusing[self.slot] = value

    @property
    def broken(self) -> bool:
        """Whether there were bytes that are no UTF-8; it matters where phrases are kept out."""
        return bool(self.utf8[kernel.STATE] == BROKEN) and not self.states.phrases.empty

    def copy(self) -> State:
        """Return an independent copy."""
        twin = State(self.states.phrases)
        twin._stand_at(self)
        return twin

    def _stand_at(self, other: State) -> None:
        self.head[:], self.ring[:], self.utf8[:] = other.head, other.ring, other.utf8

    def feed(self, vocabulary: Vocabulary, ids: NDArray[np.int64]) -> bool:
        """Read tokens; return whether a phrase was found."""
        return bool(
            kernel.feed_tokens(
                *self.states.tables, self.head, self.ring, self.utf8,
                vocabulary.data, vocabulary.offsets, ids, self.states.out,
            )
        )  # fmt: skip

    def feed_scores(self, ids: NDArray[np.int64]) -> int:
        """Read tokens for the scores; return how many made one too high, or -1."""
        scores = self.states.scores
        return -1 if scores is None else scores.feed_one(self.slot, ids)

    def feed_text(self, text: str) -> None:
        """Read characters."""
        cps = np.array([ord(char) for char in text], np.int32)
        tables = self.states.tables[:4]
        match_kernel.feed(*tables, self.head, self.ring, cps, 0, self.states.out)

    def read(self, text: str) -> bool:
        """Read ``text``; return whether a phrase is whole, were it to end here."""
        data = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
        tables, out = self.states.tables, self.states.out
        hits = kernel.feed_bytes(*tables, self.head, self.ring, self.utf8, data, out)
        return bool(hits) or self.copy().end()

    def feed_space(self) -> None:
        """Read a separator, ending an incomplete character."""
        self.utf8[:] = 0
        self.feed_text(" ")

    def end(self) -> bool:
        """Return whether the text, ending here, holds a phrase. The state is spent afterwards."""
        tables = self.states.tables
        return bool(kernel.end_hits(*tables, self.head, self.ring, self.utf8, self.states.out))

    def unsafe(self, vocabulary: Vocabulary, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return, for each token, whether the text ending behind it would hold a phrase."""
        verdict = np.zeros(len(ids), np.uint8)
        kernel.try_tokens(
            *self.states.tables, self.head, self.ring, self.utf8,
            vocabulary.data, vocabulary.offsets, ids, self.states.out, verdict,
        )  # fmt: skip
        return verdict.astype(np.bool_)

    def rules_behind(self, vocabulary: Vocabulary, token: int) -> set[str]:
        """Return the rules that the text ending behind ``token`` would break."""
        twin = self.copy()
        out = twin.states.out
        tables = twin.states.tables
        rules: set[str] = set()
        # Byte by byte, and each byte's characters apart: rows of one call overwrite the last's.
        for byte in vocabulary.bytes_of([token]):
            data = np.array([byte], np.uint8)
            hits = kernel.feed_bytes(*tables, twin.head, twin.ring, twin.utf8, data, out)
            rules |= self._owners(out[:hits])
        hits = kernel.end_hits(*tables, twin.head, twin.ring, twin.utf8, out)
        return rules | self._owners(out[:hits])

    def _owners(self, rows: NDArray[np.int64]) -> set[str]:
        phrases = self.states.phrases
        rules: set[str] = set()
        for kind, index in rows[:, :2].tolist():
            owners = phrases.entry_owners[index] if kind else phrases.plain_owners[index]
            rules |= {rule for rule, _ in owners}
        return rules
