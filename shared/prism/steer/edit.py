# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202
"""Compiled loops that write a whole batch's masks and refusals into its logits, in place.

``logits`` float32 ``[requests, vocabulary]``, strided views included; ``places`` int64 ``[rows]``
says which of the requests each row is.
"""

from __future__ import annotations

import numpy as np

from prism.jit import njit
from prism.steer.kernel import ANY_OTHER, VALID_ONES

_STRETCH = 64
"""Logits that are looked at before it is asked whether one of them was likelier."""


@njit(cache=True, nogil=True)
def mask(logits, places, ids, bounds, only, done):
    """Mask the rows in which some token is likelier than every banned one.

    Row ``i`` has the banned tokens ``ids[bounds[i]:bounds[i + 1]]``, or, by ``only`` uint8
    ``[rows]``, the only ones allowed (``prism.steer.state.Masks``). ``done`` bool ``[rows]`` is
    filled: false where a banned token is the likeliest, or equals it, or nothing would be left;
    those stay as they are.
    """
    lowest = np.float32(-np.inf)
    for i in range(len(places)):
        row = logits[places[i]]
        first, last = bounds[i], bounds[i + 1]
        best = lowest
        for k in range(first, last):
            if row[ids[k]] > best:
                best = row[ids[k]]
        if only[i] != ANY_OTHER:
            done[i] = only[i] == VALID_ONES and best > lowest
            if done[i]:
                kept = row[ids[first:last]]
                row[:] = lowest
                for k in range(first, last):
                    row[ids[k]] = kept[k - first]
            continue
        usual = first == last or _likelier(row, best)
        if usual:
            for k in range(first, last):
                row[ids[k]] = lowest
        done[i] = usual


@njit(cache=True, nogil=True)
def _likelier(row, value):
    """Return whether a logit is above ``value``; nearly always one of the first is."""
    size = len(row)
    whole = size - size % _STRETCH
    for begin in range(0, whole, _STRETCH):
        above = 0
        for k in range(begin, begin + _STRETCH):
            above |= row[k] > value
        if above:
            return True
    above = 0
    for k in range(whole, size):
        above |= row[k] > value
    return above != 0


@njit(cache=True, nogil=True)
def force(logits, places, tokens):
    """Leave row ``i`` nothing but ``tokens[i]``."""
    for i in range(len(places)):
        row = logits[places[i]]
        row[:] = np.float32(-np.inf)
        row[tokens[i]] = 0.0
