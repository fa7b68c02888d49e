# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201
"""What a policy's patterns are read by, named to compiled code by one address.

A call that is handed five arrays spends more on that than on reading a few words; here it takes an
integer. An address is that of an array which its owner keeps: :class:`Tables` of one policy and
stage.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prism.jit import carray, njit, pointer

# Where three arrays are and how long; the length of a state; rows for hits; whether escapes are of
# interest, whether there are regexes, whether base64 and hex are of interest.
_SHARED, _CONST, _BEGINS, _STATE, _ROOM, _WATCH, _REGEXES, _BASE64, _HEX = 0, 2, 4, *range(6, 12)
_FIELDS = 12


class Asked(NamedTuple):
    """What is looked for besides phrases."""

    escapes: bool
    regexes: bool
    base64: bool
    hexes: bool


@njit(cache=True, inline="always")
def arrays_at(tables_at):
    """Return ``shared``, ``const`` and ``begins``."""
    tables = carray(pointer(tables_at), (_FIELDS,), np.int64)
    return (
        carray(pointer(tables[_SHARED]), (tables[_SHARED + 1],), np.int32),
        carray(pointer(tables[_CONST]), (tables[_CONST + 1],), np.int32),
        carray(pointer(tables[_BEGINS]), (tables[_BEGINS + 1],), np.int32),
    )


@njit(cache=True, inline="always")
def sizes_at(tables_at):
    """Return the length of a state, and rows for hits."""
    tables = carray(pointer(tables_at), (_FIELDS,), np.int64)
    return tables[_STATE], tables[_ROOM]


@njit(cache=True, inline="always")
def asked_at(tables_at):
    """Return whether escapes, regexes, base64 and hex are looked for."""
    tables = carray(pointer(tables_at), (_FIELDS,), np.int64)
    return tables[_WATCH] != 0, tables[_REGEXES] != 0, tables[_BASE64] != 0, tables[_HEX] != 0


class Tables:
    """The arrays of one policy and stage, kept where they are.

    ``shared``, ``const`` and ``begins`` int32, as ``onepass.look`` takes them; ``size`` of a
    layer's state; ``room`` rows for hits.
    """

    __slots__ = ("_fields", "_kept", "address", "room", "size")

    def __init__(
        self,
        shared: NDArray[np.int32],
        const: NDArray[np.int32],
        begins: NDArray[np.int32],
        size: int,
        room: int,
        asked: Asked,
    ) -> None:
        self._kept = shared, const, begins
        self.size, self.room = size, room
        places = [value for array in self._kept for value in (address(array), len(array))]
        self._fields = np.array([*places, size, room, *asked], np.int64)
        self.address = address(self._fields)


def address(array: NDArray[np.int32] | NDArray[np.int64]) -> int:
    """Return where the first element is."""
    assert array.flags.c_contiguous
    place: int = array.__array_interface__["data"][0]
    return place
