# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202
"""What the sketch reads of a text: hashed words, pairs of words and pieces of words.

Characters are folded by ``prism.text`` (context-free, so chunks concatenate). A word is a run of
letters and digits; a character of a script written without spaces is a word of its own. Of each
word come one feature for itself, one for it and the word before, and one for each run of 3, 4 and 5
characters, word boundaries included. Scripts without spaces also give triples of characters.

Every feature depends only on characters read before it, so any chunking gives the same features in
the same order. ``training/`` reads texts with these very functions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prism.jit import njit
from prism.text.normalise import code_points, fold_block

BITS = 18
"""log2 of the number of buckets."""
STATE = 9
"""uint64 fields of a stream's state: five last characters of the word, hashes of the word, of the
one before and of the one before that, and whether the word before was a lone character."""
_C1, _C2, _C3, _C4, _WORD, _BEFORE, _BEFORE2, _LONE, _LENGTH = range(STATE)
_LETTER, _DROP, _EXPAND = 0, 3, 4
_SHIFT = 24
_MASK = (1 << 24) - 1
_BOUNDARY = np.uint64(1)
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_TOP = np.uint64(64 - BITS)
_HALF = np.uint64(31)
# What one folded character can give at most: it ends a word of its own and the word before it.
_MOST = 16
_EXPANSION = 24


@njit(cache=True)
def _step(value, char):
    value = (value ^ char) * _PRIME
    return value ^ (value >> _HALF)


@njit(cache=True)
def _bucket(value):
    value = value * _MIX
    value ^= value >> _HALF
    return np.int32((value * _PRIME) >> _TOP)


@njit(cache=True)
def _pieces(state, char, out, found):
    """Write the runs of 3, 4 and 5 characters that end with ``char``, which joins the window."""
    length = state[_LENGTH]
    value = _step(np.uint64(3), char)
    value = _step(value, state[_C1])
    if length >= 2:
        value = _step(value, state[_C2])
        out[found] = _bucket(value)
        found += 1
    if length >= 3:
        value = _step(value, state[_C3])
        out[found] = _bucket(value)
        found += 1
    if length >= 4:
        value = _step(value, state[_C4])
        out[found] = _bucket(value)
        found += 1
    state[_C4] = state[_C3]
    state[_C3] = state[_C2]
    state[_C2] = state[_C1]
    state[_C1] = char
    state[_LENGTH] += np.uint64(1)
    return found


@njit(cache=True)
def _end_word(state, out, found):
    if state[_LENGTH] == 0:
        return found
    found = _pieces(state, _BOUNDARY, out, found)
    found = _whole(state, state[_WORD], False, out, found)
    state[_LENGTH] = 0
    return found


@njit(cache=True)
def _whole(state, word, lone, out, found):
    """Write a word, the pair with the word before and, of lone characters, the triple."""
    out[found] = _bucket(_step(np.uint64(11), word))
    found += 1
    pair = _step(_step(np.uint64(13), word), state[_BEFORE])
    out[found] = _bucket(pair)
    found += 1
    if lone and state[_LONE] != 0:
        out[found] = _bucket(_step(_step(pair, state[_BEFORE2]), np.uint64(17)))
        found += 1
    state[_BEFORE2] = state[_BEFORE]
    state[_BEFORE] = word
    state[_LONE] = np.uint64(1) if lone else np.uint64(0)
    return found


@njit(cache=True)
def _unspaced(char):
    """Whether the script of ``char`` is written without spaces (Han, kana, Thai, Lao, Khmer …)."""
    return (
        0x2E80 <= char <= 0xA4CF
        or 0xF900 <= char <= 0xFAFF
        or 0x20000 <= char <= 0x3FFFF
        or 0x0E00 <= char <= 0x0EFF
        or 0x1000 <= char <= 0x109F
        or 0x1780 <= char <= 0x17FF
    )


@njit(cache=True)
def _one(state, kind, char, out, found):
    if kind != _LETTER:
        return _end_word(state, out, found)
    symbol = np.uint64(char)
    if _unspaced(char):
        found = _end_word(state, out, found)
        return _whole(state, _step(np.uint64(5), symbol), True, out, found)
    if state[_LENGTH] == 0:
        state[_C1] = _BOUNDARY
        state[_LENGTH] = np.uint64(1)
        state[_WORD] = np.uint64(7)
    state[_WORD] = _step(state[_WORD], symbol)
    return _pieces(state, symbol, out, found)


@njit(cache=True)
def read(table, state, cps, begin, out):
    """Read ``cps[begin:]`` until its end or until ``out`` (int32 ``[m]``) may overflow.

    Returns how far it read and how many buckets it wrote. ``table`` is ``text.fold_block()``.
    """
    found = 0
    i = begin
    room = len(out) - _MOST * _EXPANSION
    while i < len(cps) and found < room:
        cp = cps[i]
        value = table[table[1] + table[table[0] + (cp >> 8)] * 256 + (cp & 255)]
        if value == -1:
            found = _one(state, _LETTER, cp, out, found)
        elif value == -2:
            found = _end_word(state, out, found)
        else:
            kind = value >> _SHIFT
            char = value & _MASK
            if kind == _EXPAND:
                expansion = table[2] + char
                for k in range(table[expansion]):
                    code = table[expansion + 1 + k]
                    found = _one(state, code >> _SHIFT, code & _MASK, out, found)
            elif kind != _DROP:
                found = _one(state, kind, char, out, found)
        i += 1
    return i, found


@njit(cache=True)
def finish(state, out):
    """End an unfinished word; return the number of buckets written to ``out``."""
    return _end_word(state, out, 0)


@njit(cache=True)
def accumulate(embeddings, buckets, count, sums):
    """Add rows ``buckets[:count]`` of int8 ``embeddings [buckets, d]`` to int64 ``sums [d]``."""
    for i in range(count):
        row = embeddings[buckets[i]]
        for k in range(len(sums)):
            sums[k] += row[k]


@njit(cache=True)
def feed(table, embeddings, state, cps, buffer, sums):
    """Read ``cps``, add its features' rows to ``sums``; return the number of features."""
    total = 0
    i = 0
    while i < len(cps):
        i, found = read(table, state, cps, i, buffer)
        accumulate(embeddings, buffer, found, sums)
        total += found
    return total


BUFFER = 4096
"""Buckets of a work buffer; more than one code point can give."""


@njit(cache=True)
def whole(table, embeddings, heads, biases, cps):
    """Read a whole text; return its log odds, float32 ``[categories]``.

    ``heads`` float32 ``[categories, d]`` and ``biases`` ``[categories]`` are those of one stage.
    """
    state = np.zeros(STATE, np.uint64)
    buffer = np.empty(BUFFER, np.int32)
    sums = np.zeros(embeddings.shape[1], np.int64)
    count = feed(table, embeddings, state, cps, buffer, sums)
    found = finish(state, buffer)
    accumulate(embeddings, buffer, found, sums)
    root = np.sqrt(max(count + found, 1))
    out = np.empty(len(biases), np.float32)
    for c in range(len(biases)):
        total = np.float64(biases[c])
        for k in range(len(sums)):
            total += heads[c, k] * (sums[k] / root)
        out[c] = total
    return out


def buckets_of(text: str) -> NDArray[np.int32]:
    """Return the buckets of a whole text in reading order, int32 ``[features]``."""
    state = np.zeros(STATE, np.uint64)
    cps = code_points(text)
    buffer = np.empty(BUFFER, np.int32)
    parts: list[NDArray[np.int32]] = []
    i = 0
    while i < len(cps):
        i, found = read(fold_block(), state, cps, i, buffer)
        parts.append(buffer[:found].copy())
    found = finish(state, buffer)
    parts.append(buffer[:found].copy())
    return np.concatenate(parts)
