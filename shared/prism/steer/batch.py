"""Rows that decode together: one step of all of them costs three compiled calls.

The per-row object is for requests, not for steps. Python looks at a row only where the kernels say
that something is to be done: a phrase nearly complete, a score too high, a refusal being forced.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from prism.steer import kernel
from prism.steer.guard import TokenGuard
from prism.steer.row import TokenRow
from prism.steer.state import Masks, States

_FIRST = 16
_NONE = np.zeros(0, np.int64)
_last, _last_but_one = itemgetter(-1), itemgetter(-2)


class Line:
    """Rows of a batch that step together, and their outputs, which are lists that grow.

    Whoever has the same rows again keeps it, so that nothing is looked up per row and step. It
    holds until one of the rows is released.
    """

    __slots__ = ("outputs", "rows", "slots")

    def __init__(self, rows: Sequence[TokenRow], outputs: Sequence[Sequence[int]]) -> None:
        self.rows = rows
        self.outputs = outputs
        self.slots = np.fromiter((row.state.slot for row in rows), np.int64, len(rows))

    def ends(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the outputs' lengths, last ids and last ids but one, -1 where there is none."""
        outputs, n = self.outputs, len(self.rows)
        lengths = np.fromiter(map(len, outputs), np.int64, n)
        if n and lengths.min() > 1:
            lasts = np.fromiter(map(_last, outputs), np.int64, n)
            return lengths, lasts, np.fromiter(map(_last_but_one, outputs), np.int64, n)
        lasts = np.array([o[-1] if o else -1 for o in outputs], np.int64)
        before = np.array([o[-2] if len(o) > 1 else -1 for o in outputs], np.int64)
        return lengths, lasts, before


class Batch:
    """The rows of one guard."""

    def __init__(self, guard: TokenGuard) -> None:
        self.guard = guard
        self._states = States(guard.output, _FIRST, guard.scores)
        self._rows: list[TokenRow | None] = [None] * _FIRST

    def __len__(self) -> int:
        return sum(row is not None for row in self._rows)

    def row(self, prompt_ids: Sequence[int] | None, locale: str | None = None) -> TokenRow:
        """Return a new row, as ``TokenGuard.row`` does; it stays until it is released."""
        if None not in self._rows:
            self._grow()
        slot = self._rows.index(None)
        row = TokenRow(self.guard, prompt_ids, locale, self._states, slot)
        self._rows[slot] = row
        return row

    def release(self, row: TokenRow) -> None:
        """Give a row's slot back."""
        self._rows[row.state.slot] = None

    def step(self, rows: Sequence[TokenRow], outputs: Sequence[Sequence[int]]) -> Masks:
        """Take note of each row's whole output; return what each may not output next.

        Rows that refuse have no mask: ``TokenRow.step`` has their forced token.
        """
        return self.step_line(Line(rows, outputs))

    def step_line(self, line: Line) -> Masks:
        """Do the same for rows that stay together."""
        states, slots, rows = self._states, line.slots, line.rows
        lengths, tokens, before = line.ends()
        usual = np.empty(len(slots), np.bool_)
        count = kernel.usual_rows(
            slots, lengths, tokens, before, self.guard.vocabulary.size,
            states.counts, states.lasts, states.refusing, usual,
        )  # fmt: skip
        which = None if count == len(slots) else np.flatnonzero(usual)
        if which is not None:
            for i in np.flatnonzero(~usual).tolist():
                rows[i].advance(line.outputs[i])
        try:
            self._read(line, tokens, lengths, which)
        except BaseException:
            for row in rows:
                row.state.restart()  # who had been read is not known: all are read anew
            raise
        return self._mask(slots)

    def refusing(self, line: Line) -> NDArray[np.bool_]:
        """Return which rows refuse, ``[rows]``."""
        found: NDArray[np.bool_] = self._states.refusing[line.slots]
        return found

    def _read(
        self,
        line: Line,
        tokens: NDArray[np.int64],
        lengths: NDArray[np.int64],
        which: NDArray[np.int64] | None,
    ) -> None:
        """Read one more token into each of the rows ``which``, all where it is ``None``."""
        states, at = self._states, line.slots
        if which is not None:
            at, tokens, lengths = at[which], tokens[which], lengths[which]
        hits = states.feed(self.guard.vocabulary, at, tokens)
        turned = states.note(at, tokens, lengths)
        stopped = np.flatnonzero(hits)
        for i in (stopped if which is None else which[stopped]).tolist():
            line.rows[i].refuse()
        due = np.flatnonzero(states.circles_due(at)) if turned else _NONE
        for i in (due if which is None else which[due]).tolist():
            line.rows[i].stop_circles(line.outputs[i])

    def _mask(self, slots: NDArray[np.int64]) -> Masks:
        refusing = self._states.refusing[slots]
        if not refusing.any():
            return self.guard.banned(self._states, slots)
        live = ~refusing
        some = self.guard.banned(self._states, slots[live])
        sizes, only = np.zeros(len(slots), np.int64), np.zeros(len(slots), np.uint8)
        sizes[live], only[live] = np.diff(some.bounds), some.only
        return Masks(some.ids, np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]), only)

    def _grow(self) -> None:
        self._states = self._states.doubled()
        for slot, row in enumerate(self._rows):
            if row is not None:
                row.state.bind(self._states, slot)
        self._rows += [None] * len(self._rows)
