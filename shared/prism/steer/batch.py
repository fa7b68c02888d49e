"""Rows that decode together: one step of all of them costs three compiled calls.

The per-row object is for requests, not for steps. Python looks at a row only where the kernels say
that something is to be done: a phrase nearly complete, a score too high, a refusal being forced.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prism.steer.guard import TokenGuard
from prism.steer.row import TokenRow
from prism.steer.state import Masks, States

_FIRST = 16


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
        states, n = self._states, len(rows)
        slots = np.fromiter((row.state.slot for row in rows), np.int64, n)
        lengths = np.fromiter(map(len, outputs), np.int64, n)
        tokens = np.fromiter((o[-1] if o else -1 for o in outputs), np.int64, n)
        before = np.fromiter((o[-2] if len(o) > 1 else -1 for o in outputs), np.int64, n)
        usual = (lengths == states.counts[slots] + 1) & (before == states.lasts[slots])
        usual &= ~states.refusing[slots]
        usual &= (tokens >= 0) & (tokens < self.guard.vocabulary.size)
        for i in np.flatnonzero(~usual).tolist():
            rows[i].advance(outputs[i])
        try:
            self._read(rows, outputs, slots, tokens, lengths, np.flatnonzero(usual))
        except BaseException:
            for row in rows:
                row.state.restart()  # who had been read is not known: all are read anew
            raise
        return self._mask(slots)

    def _read(
        self,
        rows: Sequence[TokenRow],
        outputs: Sequence[Sequence[int]],
        slots: NDArray[np.int64],
        tokens: NDArray[np.int64],
        lengths: NDArray[np.int64],
        usual: NDArray[np.int64],
    ) -> None:
        """Read one more token into each of the rows ``usual``."""
        states, at = self._states, slots[usual]
        hits = states.feed(self.guard.vocabulary, at, tokens[usual])
        states.counts[at] = states.lengths[at] = lengths[usual]
        states.lasts[at] = tokens[usual]
        for i in usual[hits].tolist():
            rows[i].refuse()
        for i in usual[states.circles_due(at)].tolist():
            rows[i].stop_circles(outputs[i])

    def _mask(self, slots: NDArray[np.int64]) -> Masks:
        live = ~self._states.refusing[slots]
        if live.all():
            return self.guard.banned(self._states, slots)
        some = self.guard.banned(self._states, slots[live])
        sizes = np.zeros(len(slots), np.int64)
        sizes[live] = np.diff(some.bounds)
        return Masks(some.ids, np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]))

    def _grow(self) -> None:
        self._states = self._states.doubled()
        for slot, row in enumerate(self._rows):
            if row is not None:
                row.state.bind(self._states, slot)
        self._rows += [None] * len(self._rows)
