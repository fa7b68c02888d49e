# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202
"""Whether a whole text surely holds nothing, in one call that keeps no state.

Most texts that are judged whole, prompts above all, hold nothing and come near to nothing. Here
such a text goes through once, without the records that would place a match or let a stream go on.
The answer is one-sided: what isn't surely nothing is left to a :class:`prism.match.layers.Layer`.
"""

from __future__ import annotations

import numpy as np

from prism.jit import njit
from prism.match import onepass, skim
from prism.match.runs import (
    CLASS,
    DOOR,
    FIXED,
    FOURS,
    HEX_MORE,
    OF_HEX,
    SIXES,
    is_space,
    read_hex,
)
from prism.match.tables import arrays_at, asked_at
from prism.text.decode import MIN_DECODED

NOTHING, BEGINS, UNSURE = 0, 1, 2
"""The text holds nothing; nothing unless a regex finds something; that can't be said."""

_DIGITS = 2 * MIN_DECODED


@njit(cache=True)
def _points(data, out):
    """Write the code points of UTF-8 (surrogates too) to ``out``; return their number."""
    size = len(data)
    high = np.uint8(0)
    for i in range(size):
        high |= data[i]
        out[i] = data[i]
    if high < 128:
        return size
    count, i = 0, 0
    while i < size:
        byte = np.int32(data[i])
        if byte < 0x80:
            more = 0
        elif byte < 0xE0:
            byte, more = byte & 0x1F, 1
        elif byte < 0xF0:
            byte, more = byte & 0x0F, 2
        else:
            byte, more = byte & 0x07, 3
        for k in range(more):
            byte = byte << 6 | np.int32(data[i + 1 + k] & 0x3F)
        out[count] = byte
        count += 1
        i += 1 + more
    return count


@njit(cache=True)
def _digits(fixed, cps, first):
    """Return where a run of hex that begins at ``cps[first]`` ends, and whether it may be text."""
    i, count = first, 0
    while i < len(cps):
        char = cps[i]
        if char >= 128:
            if not is_space(char):
                break
        elif fixed[FOURS + char] != 255:
            count += 1
        elif not fixed[CLASS + char] & HEX_MORE:
            break
        i += 1
    if count < _DIGITS:
        return i, False
    state = np.zeros(onepass.HEAD, np.int64)
    before = cps[first - 1] if first > 0 else np.int32(32)
    for k in range(first, i):
        if read_hex(state, OF_HEX, cps[k], k, before, fixed):
            return i, True
        before = cps[k]
    return i, False


@njit(cache=True)
def _plain_words(shared, const, begins, cps, watch, base64, hexes, regexes):
    """Return whether no word surely begins an escape, or a run of base64 or hex that counts."""
    fixed = shared[len(shared) - FIXED :]
    i, size, digits = 0, len(cps), 0
    while i < size:
        char = cps[i]
        if char >= 128 or fixed[SIXES + char] == 255:
            if watch and onepass.may_escape(fixed, char):
                return False
            i += 1
            continue
        first, kinds = i, 0
        while char < 128 and fixed[SIXES + char] != 255:
            kinds |= fixed[CLASS + char]
            i += 1
            if i == size:
                break
            char = cps[i]
        if (
            base64
            and i - first >= onepass.MATTERS
            and (kinds & DOOR or onepass.may_be_text(fixed, cps, first))
            and not onepass.harmless(shared, const, begins, cps, first, i, regexes)
        ):
            return False
        if hexes:
            for k in range(first, i if kinds & DOOR else first + 1):
                if k < digits or fixed[FOURS + cps[k]] == 255:
                    continue
                if k == first or fixed[CLASS + cps[k - 1]] & DOOR:
                    digits, counts = _digits(fixed, cps, k)
                    if counts:
                        return False
    return True


@njit(cache=True)
def holds(tables_at, data):
    """Return ``NOTHING``, ``BEGINS`` or ``UNSURE`` of a whole text.

    ``tables_at``: the address of :class:`prism.match.tables.Tables`; ``data``: bytes of UTF-8, with
    surrogates as they are.
    """
    shared, const, begins = arrays_at(tables_at)
    watch, regexes, base64, hexes = asked_at(tables_at)
    plain, squeezed = const[const[0] : const[1]], const[const[1] : const[2]]
    if not skim.possible(plain, squeezed):
        return UNSURE
    cps = np.empty(len(data) + 1, np.int32)
    size = _points(data, cps)
    cps[size] = 32
    cps = cps[: size + 1]
    if (watch or base64 or hexes) and not _plain_words(
        shared, const, begins, cps, watch, base64, hexes, regexes
    ):
        return UNSURE
    opens = begins[len(begins) - skim.OPENINGS :]
    if not skim.empty(shared, opens, plain, squeezed, cps):
        return UNSURE
    if regexes:
        fixed = shared[len(shared) - FIXED :]
        before = np.int32(32)
        for i in range(size):
            if onepass.may_begin(cps, i, before, fixed, begins):
                return BEGINS
            before = cps[i]
    return NOTHING
