# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN202
"""An ordinary token of a stream, read in a call that is hardly more than the reading.

:func:`prism.match.onepass.look` takes five arrays and returns a tuple. For the five characters of a
token, handing those over costs more than reading them; and between the tokens of hundreds of other
streams it costs several times as much, since all that it touches has left the processor's caches.
Here the call takes three integers and returns one: the address of the tables
(:mod:`prism.match.tables`), that of the layer's :class:`Block`, and how much there is to read. A
layer's state lies in that block, together with the token's text and with what ``look`` said of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prism.jit import carray, njit, pointer
from prism.match import onepass
from prism.match.tables import Tables, address, arrays_at, asked_at, sizes_at

LONGEST = 64
"""Bytes of the longest token. Numbers of rows that so many characters can lead to fit, too."""

_SAID = 5  # of a block, behind the state: what ``look`` returned
_TEXT = LONGEST // 8
_POINTS = LONGEST // 2
_COLUMNS = 5

_HALF = 32  # bits
_LOW = (1 << _HALF) - 1


@njit(cache=True)
def _read(tables_at, block_at, count):
    """Read ``count`` ASCII characters of a block.

    Returns what is open at their end, as :func:`Block.read` does; -1: the block says what ``look``
    did.
    """
    shared, const, begins = arrays_at(tables_at)
    watch, regexes, _, _ = asked_at(tables_at)
    size, room = sizes_at(tables_at)
    state = carray(pointer(block_at), (size,), np.int64)
    behind = block_at + 8 * size
    said = carray(pointer(behind), (_SAID,), np.int64)
    text = carray(pointer(behind + 8 * _SAID), (count,), np.uint8)
    points = carray(pointer(behind + 8 * (_SAID + _TEXT)), (count,), np.int32)
    rows = behind + 8 * (_SAID + _TEXT + _POINTS)
    out = carray(pointer(rows), (room, _COLUMNS), np.int64)
    for i in range(count):
        points[i] = text[i]
    end = state[onepass.HEAD] + count  # the head's first field is how much was read
    what, position, found, held, alive = onepass.look(
        shared, const, begins, state, points, out, watch, regexes, regexes
    )
    if what == 0 and found == 0:
        return (max(end - held, 0) << _HALF) + max(end - alive, 0)
    said[0], said[1], said[2], said[3], said[4] = what, position, found, held, alive
    return -1


class Block:
    """A layer's state, a token, and what was said of it. For one thread at a time."""

    __slots__ = ("_address", "_all", "_tables", "_text", "state")

    def __init__(self, tables: Tables, state: NDArray[np.int64]) -> None:
        size = tables.size
        behind = size + _SAID + _TEXT + _POINTS
        self._tables = tables
        self._all = np.empty(behind + tables.room * _COLUMNS, np.int64)
        self.state = self._all[:size]
        self.state[:] = state
        begin = size + _SAID
        self._text = memoryview(self._all[begin : begin + _TEXT]).cast("B")  # type: ignore[arg-type]
        self._address = address(self._all)

    def read(self, data: bytes) -> int:
        """Read ``data``, ASCII and 1 to ``LONGEST`` bytes; return what is open at its end.

        0 is nothing: nothing was found, nothing begins, nothing is held. Else how many of the last
        characters are held and how many belong to a run, for :func:`open_ends` to tell. -1: there
        is more to it; see :meth:`said`.
        """
        count = len(data)
        self._text[:count] = data
        left: int = _read(self._tables.address, self._address, count)
        return left

    def said(self) -> tuple[list[int], NDArray[np.int64]]:
        """Return what ``look`` said of the last token that there was more to: see there."""
        begin = self._tables.size
        said: list[int] = self._all[begin : begin + _SAID].tolist()
        rows = self._all[begin + _SAID + _TEXT + _POINTS :].reshape(-1, _COLUMNS)
        return said, rows[: said[2]].copy()


def open_ends(left: int) -> tuple[int, int]:
    """Return how many of the last characters read are held, and how many belong to a run."""
    return left >> _HALF, left & _LOW
