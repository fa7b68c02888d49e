# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN202
"""An ordinary token of a stream, read in a call that is hardly more than the reading.

:func:`prism.match.onepass.look` takes five arrays and returns a tuple. For the five characters of a
token, handing those over costs more than reading them; and between the tokens of hundreds of other
streams it costs several times as much, since all that it touches has left the processor's caches.
Here the call takes three integers and returns one. A layer's state lies in one block, together with
the token's text and with what ``look`` said of it; the tables are named by their addresses.

An address is that of an array which its owner keeps: :class:`Tables` of one policy and stage,
:class:`Block` of one layer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prism.jit import carray, njit, pointer
from prism.match import onepass

LONGEST = 64
"""Bytes of the longest token. Numbers of rows that so many characters can lead to fit, too."""

# Of the tables: where three arrays are and how long; the length of a state; rows for hits; whether
# escapes are of interest, whether there are regexes.
_SHARED, _CONST, _BEGINS, _STATE, _ROOM, _WATCH, _REGEXES, _FIELDS = 0, 2, 4, 6, 7, 8, 9, 10

_SAID = 5  # of a block, behind the state: what ``look`` returned
_TEXT = LONGEST // 8
_POINTS = LONGEST // 2
_COLUMNS = 5


@njit(cache=True)
def _read(tables_at, block_at, count):
    """Read ``count`` ASCII characters of a block; return 0 if they mean nothing and hold nothing.

    Else the block says what ``look`` did.
    """
    tables = carray(pointer(tables_at), (_FIELDS,), np.int64)
    shared = carray(pointer(tables[_SHARED]), (tables[_SHARED + 1],), np.int32)
    const = carray(pointer(tables[_CONST]), (tables[_CONST + 1],), np.int32)
    begins = carray(pointer(tables[_BEGINS]), (tables[_BEGINS + 1],), np.int32)
    size = tables[_STATE]
    state = carray(pointer(block_at), (size,), np.int64)
    behind = block_at + 8 * size
    said = carray(pointer(behind), (_SAID,), np.int64)
    text = carray(pointer(behind + 8 * _SAID), (count,), np.uint8)
    points = carray(pointer(behind + 8 * (_SAID + _TEXT)), (count,), np.int32)
    rows = behind + 8 * (_SAID + _TEXT + _POINTS)
    out = carray(pointer(rows), (tables[_ROOM], _COLUMNS), np.int64)
    for i in range(count):
        points[i] = text[i]
    regexes = tables[_REGEXES] != 0
    end = state[onepass.HEAD] + count  # the head's first field is how much was read
    what, position, found, held, alive = onepass.look(
        shared, const, begins, state, points, out, tables[_WATCH] != 0, regexes, regexes
    )
    if what == 0 and found == 0 and held >= end and alive >= end:
        return 0
    said[0], said[1], said[2], said[3], said[4] = what, position, found, held, alive
    return 1


class Tables:
    """What tokens are read by: the arrays of one policy and stage, kept where they are.

    ``shared``, ``const`` and ``begins`` int32, as ``look`` takes them; ``state`` int64, a layer's
    at its start; ``room`` rows for hits.
    """

    __slots__ = ("_fields", "_kept", "address", "room", "size")

    def __init__(
        self,
        shared: NDArray[np.int32],
        const: NDArray[np.int32],
        begins: NDArray[np.int32],
        state: NDArray[np.int64],
        room: int,
        *,
        watch: bool,
        regexes: bool,
    ) -> None:
        self._kept = shared, const, begins
        self.size, self.room = len(state), room
        places = [value for array in self._kept for value in (_address(array), len(array))]
        self._fields = np.array([*places, self.size, room, watch, regexes], np.int64)
        self.address = _address(self._fields)

    def block(self, state: NDArray[np.int64]) -> Block:
        """Return a block with a copy of a layer's ``state``."""
        return Block(self, state)


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
        self._address = _address(self._all)

    def quiet(self, data: bytes) -> bool:
        """Read ``data``, ASCII and 1 to ``LONGEST`` bytes; return whether that was all.

        Then nothing was found, nothing begins, nothing is held. Else see :meth:`said`.
        """
        count = len(data)
        self._text[:count] = data
        return bool(_read(self._tables.address, self._address, count) == 0)

    def said(self) -> tuple[list[int], NDArray[np.int64]]:
        """Return what ``look`` said of the last token that wasn't quiet: see there."""
        begin = self._tables.size
        said: list[int] = self._all[begin : begin + _SAID].tolist()
        rows = self._all[begin + _SAID + _TEXT + _POINTS :].reshape(-1, _COLUMNS)
        return said, rows[: said[2]].copy()


def _address(array: NDArray[np.int32] | NDArray[np.int64]) -> int:
    assert array.flags.c_contiguous
    address: int = array.__array_interface__["data"][0]
    return address
