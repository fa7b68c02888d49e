# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202
"""Compiled loops over a whole vocabulary: what each token adds to a view of the text."""

from __future__ import annotations

import numpy as np

from prism.jit import njit
from prism.match.kernel import LETTER_CLASS, PLAIN, SIGN_LETTER, SIGNS
from prism.steer.kernel import BAD, DUE, STATE, UTF8, decode
from prism.steer.utf8 import BROKEN


@njit(cache=True)
def mixed_tokens(data, offsets, mixed):
    """Mark the tokens that are no UTF-8 where a character may begin, and have characters in them.

    What a decoder drops there would join these characters to what was before them.
    """
    utf8 = np.zeros(UTF8, np.int64)
    points = np.zeros(2, np.int64)
    for token in range(len(offsets) - 1):
        utf8[:] = 0
        some = False
        for i in range(offsets[token], offsets[token + 1]):
            count = decode(data[i], utf8, points, 0)
            for k in range(count):
                some |= points[k] != BAD
        mixed[token] = some and utf8[STATE] == BROKEN


@njit(cache=True)
def token_keys(table, data, offsets, view, alone, symbols, bounds, ends, end_bounds):
    """Write what each token adds to a view: symbols int32, ``bounds`` int64 ``[tokens + 1]``.

    ``ends`` gets, per token, how many of its symbols are there where a word ends, the token's own
    end included. ``alone`` says whether a gap is before tokens that begin without one: a letter
    that stands alone is lengthened over gaps ("b o o k"), another isn't. ``symbols`` and ``ends``
    must hold 20 per byte. Bytes that are no characters alone separate words.
    """
    size, stops = 0, 0
    bounds[0] = 0
    end_bounds[0] = 0
    utf8 = np.zeros(UTF8, np.int64)
    points = np.zeros(4096, np.int64)
    state = np.zeros(3, np.int64)  # last letter, whether it stands alone, whether a gap is open
    for token in range(len(offsets) - 1):
        count = 0
        utf8[:] = 0
        for i in range(offsets[token], offsets[token + 1]):
            count = decode(data[i], utf8, points, count)
        if utf8[DUE] > 0:
            points[count] = BAD
            count += 1
        start = size
        state[0], state[1], state[2] = -1, 0, alone
        for i in range(count):
            cp = points[i]
            value = table[table[1] + table[table[0] + (cp >> 8)] * 256 + (cp & 255)]
            if value == -1:
                size, stops = _key(view, 0, cp, state, symbols, start, size, ends, stops)
            elif value == -2:
                size, stops = _key(view, 2, cp, state, symbols, start, size, ends, stops)
            elif value >> 24 == 4:
                at = table[2] + (value & 0xFFFFFF)
                for k in range(table[at]):
                    code = table[at + 1 + k]
                    kind, char = code >> 24, np.int64(code & 0xFFFFFF)
                    size, stops = _key(view, kind, char, state, symbols, start, size, ends, stops)
            elif value >> 24 != 3:
                kind, char = value >> 24, np.int64(value & 0xFFFFFF)
                size, stops = _key(view, kind, char, state, symbols, start, size, ends, stops)
        if size > start and state[2] == 0:
            ends[stops] = size - start
            stops += 1
        bounds[token + 1] = size
        end_bounds[token + 1] = stops
    return size


@njit(cache=True)
def _key(view, kind, char, state, symbols, start, size, ends, stops):
    """Append one folded character to a token's key, as the view's own step does."""
    if view == PLAIN:
        if kind == 0:
            symbols[size] = char
        elif size > start and symbols[size - 1] == 32:
            return size, stops
        else:
            symbols[size] = 32
        return size + 1, stops
    if kind != 0:
        if size > start and state[2] == 0:
            ends[stops] = size - start
            stops += 1
        if not (view == SIGNS and char < 128 and SIGN_LETTER[char] != 0):
            state[2] = 1
            return size, stops
    if char == state[0] and (state[2] == 0 or state[1] != 0):
        if state[2] == 0:
            state[1] = 0
        state[2] = 0
        return size, stops
    state[0] = char
    state[1] = state[2]
    state[2] = 0
    symbols[size] = LETTER_CLASS[char] if char < 128 else char
    return size + 1, stops
