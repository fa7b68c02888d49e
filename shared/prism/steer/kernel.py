# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202
"""Compiled loops over token ids: feed tokens into the phrase state, and try candidate tokens out.

A token is its bytes. Bytes of a character that is not yet complete are part of the state, so
byte-level vocabularies and byte fallback are read like any other spelling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from prism.match import kernel as match_kernel
from prism.match.automaton import advance
from prism.match.kernel import (
    GAPS,
    LETTER_CLASS,
    NODE,
    PLAIN,
    PREVIOUS,
    SIGN_LETTER,
    SIGNS,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

# utf8 state: continuation bytes still due, the code point so far, the least it may be
DUE, POINT, LEAST = 0, 1, 2
UTF8 = 3
_BAD = 0xFFFD
_feed = match_kernel.feed
_finish = match_kernel.finish


@njit(cache=True)
def _put(table, plain, squeezed, entries, head, ring, point, one, out):
    one[0] = point
    _, found = _feed(table, plain, squeezed, entries, head, ring, one, 0, out)
    return found


@njit(cache=True)
def _decode(byte, utf8, points, count):
    """Read one byte; append the characters that it completes; return how many there are now."""
    b = np.int64(byte)
    if utf8[DUE] > 0 and b & 0xC0 == 0x80:
        utf8[POINT] = utf8[POINT] << 6 | b & 0x3F
        utf8[DUE] -= 1
        if utf8[DUE] > 0:
            return count
        b = utf8[POINT]
        if b < utf8[LEAST] or b > 0x10FFFF or 0xD800 <= b <= 0xDFFF:
            b = np.int64(_BAD)
    else:
        if utf8[DUE] > 0:
            utf8[DUE] = 0
            points[count] = _BAD
            count += 1
        if b >= 0x80:
            if 0xC2 <= b < 0xE0:
                utf8[DUE], utf8[POINT], utf8[LEAST] = 1, b & 0x1F, 0x80
                return count
            if 0xE0 <= b < 0xF0:
                utf8[DUE], utf8[POINT], utf8[LEAST] = 2, b & 0x0F, 0x800
                return count
            if 0xF0 <= b < 0xF5:
                utf8[DUE], utf8[POINT], utf8[LEAST] = 3, b & 0x07, 0x10000
                return count
            b = np.int64(_BAD)
    points[count] = b
    return count + 1


@njit(cache=True)
def feed_bytes(table, plain, squeezed, entries, head, ring, utf8, data, one, out):
    """Read bytes; return how many hits they made (rows in ``out`` are overwritten)."""
    hits = 0
    points = np.zeros(2, np.int64)
    for byte in data:
        for i in range(_decode(byte, utf8, points, 0)):
            hits += _put(table, plain, squeezed, entries, head, ring, points[i], one, out)
    return hits


@njit(cache=True)
def feed_tokens(table, plain, squeezed, entries, head, ring, utf8, data, offsets, ids, out):
    """Read tokens; return how many hits they made."""
    one = np.zeros(1, np.int32)
    hits = 0
    for token in ids:
        hits += feed_bytes(
            table,
            plain,
            squeezed,
            entries,
            head,
            ring,
            utf8,
            data[offsets[token] : offsets[token + 1]],
            one,
            out,
        )
    return hits


@njit(cache=True)
def end_hits(table, plain, squeezed, entries, head, ring, utf8, out):
    """Read the end of the text; return how many hits it makes. The state is spent afterwards."""
    hits = 0
    if utf8[DUE] > 0:
        one = np.zeros(1, np.int32)
        hits += _put(table, plain, squeezed, entries, head, ring, _BAD, one, out)
    return hits + _finish(plain, squeezed, entries, head, ring, out)


@njit(cache=True)
def try_tokens(table, plain, squeezed, entries, head, ring, utf8, data, offsets, ids, out, verdict):
    """For each candidate: would the text, ending behind it, hold a blocked phrase?

    ``verdict`` uint8 ``[len(ids)]`` is filled. ``head``, ``ring`` and ``utf8`` stay as they are.
    """
    h, r, u = head.copy(), ring.copy(), utf8.copy()
    one = np.zeros(1, np.int32)
    for i in range(len(ids)):
        h[:] = head
        r[:] = ring
        u[:] = utf8
        token = ids[i]
        hits = feed_bytes(
            table,
            plain,
            squeezed,
            entries,
            h,
            r,
            u,
            data[offsets[token] : offsets[token + 1]],
            one,
            out,
        )
        if hits == 0:
            hits = end_hits(table, plain, squeezed, entries, h, r, u, out)
        verdict[i] = hits > 0


@njit(cache=True)
def _compare(symbols, offsets, token, pattern, first, last):
    """Compare a token's key with ``pattern[first:last]`` as far as the latter goes."""
    start, end = offsets[token], offsets[token + 1]
    for i in range(last - first):
        if start + i >= end:
            return -1
        a, b = symbols[start + i], pattern[first + i]
        if a != b:
            return -1 if a < b else 1
    return 0


@njit(cache=True)
def prefix_range(symbols, offsets, order, pattern, first, last):
    """Return the range of ``order`` whose keys begin with ``pattern[first:last]``."""
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) >> 1
        if _compare(symbols, offsets, order[middle], pattern, first, last) < 0:
            low = middle + 1
        else:
            high = middle
    begin = low
    high = len(order)
    while low < high:
        middle = (low + high) >> 1
        if _compare(symbols, offsets, order[middle], pattern, first, last) <= 0:
            low = middle + 1
        else:
            high = middle
    return begin, low


@njit(cache=True)
def completion_ranges(
    block, patterns, bounds, symbols, offsets, order, words, fill, nodes, lows, highs
):
    """List, per pattern and split, the tokens that begin with the remainder; return how many."""
    count = 0
    scratch = np.zeros(4096, np.int32)
    for p in range(len(bounds) - 1):
        first, last = bounds[p], bounds[p + 1]
        node = np.int32(0)
        for i in range(first, last):
            node = advance(block, node, patterns[i])
            size = last - (i + 1)
            # Behind the split; and once more with the split's own symbol before it, which a repeat
            # of a letter, or a second separator, does not push again.
            for again in range(2):
                if again and words and patterns[i] != 32:
                    continue
                if size + again == 0 or (size == 0 and words):
                    continue
                length = 0
                if again:
                    scratch[0] = patterns[i]
                    length = 1
                for j in range(size):
                    scratch[length + j] = patterns[i + 1 + j]
                length += size
                # In the plain view the closing separator may be the text's end.
                ends = words and scratch[length - 1] == 32
                low, high = prefix_range(symbols, offsets, order, scratch, 0, length)
                if high > low:
                    if fill:
                        nodes[count], lows[count], highs[count] = node, low, high
                    count += 1
                if ends and length > 1:
                    low, high = prefix_range(symbols, offsets, order, scratch, 0, length - 1)
                    exact = low
                    while (
                        exact < high
                        and offsets[order[exact] + 1] - offsets[order[exact]] == length - 1
                    ):
                        exact += 1
                    if exact > low:
                        if fill:
                            nodes[count], lows[count], highs[count] = node, low, exact
                        count += 1
    return count


@njit(cache=True)
def token_keys(table, data, offsets, view, symbols, bounds):
    """Write what each token adds to a view: symbols int32, ``bounds`` int64 ``[tokens + 1]``.

    ``symbols`` must hold 20 per byte at most. Bytes that are no characters alone separate words.
    """
    size = 0
    bounds[0] = 0
    utf8 = np.zeros(UTF8, np.int64)
    points = np.zeros(4096, np.int64)
    for token in range(len(offsets) - 1):
        count = 0
        utf8[:] = 0
        for i in range(offsets[token], offsets[token + 1]):
            count = _decode(data[i], utf8, points, count)
        if utf8[DUE] > 0:
            points[count] = _BAD
            count += 1
        start = size
        last = np.int32(0)
        for i in range(count):
            cp = points[i]
            value = table[table[1] + table[table[0] + (cp >> 8)] * 256 + (cp & 255)]
            if value == -1:
                size, last = _key(view, 0, np.int32(cp), symbols, start, size, last)
            elif value == -2:
                size, last = _key(view, 2, np.int32(cp), symbols, start, size, last)
            elif value >> 24 == 4:
                at = table[2] + (value & 0xFFFFFF)
                for k in range(table[at]):
                    code = table[at + 1 + k]
                    kind, char = code >> 24, np.int32(code & 0xFFFFFF)
                    size, last = _key(view, kind, char, symbols, start, size, last)
            elif value >> 24 != 3:
                kind, char = value >> 24, np.int32(value & 0xFFFFFF)
                size, last = _key(view, kind, char, symbols, start, size, last)
        bounds[token + 1] = size
    return size


@njit(cache=True)
def _key(view, kind, char, symbols, start, size, last):
    """Append one folded character to a token's key; return the new size and last character."""
    if view == PLAIN:
        if kind != 0:
            if size > start and symbols[size - 1] == 32:
                return size, last
            char = np.int32(32)
        symbols[size] = char
        return size + 1, char
    if kind != 0 and not (view == SIGNS and char < 128 and SIGN_LETTER[char] != 0):
        return size, last
    if char == last and size > start:
        return size, last
    symbols[size] = LETTER_CLASS[char] if char < 128 else char
    return size + 1, char


def state_views(head: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """Return ``(view, node)`` of the three views."""
    return tuple((view, int(head[2 + 4 * view + NODE])) for view in (PLAIN, GAPS, SIGNS))


def at_word_start(head: NDArray[np.int64]) -> bool:
    """Return whether the next letter begins a word."""
    return int(head[PREVIOUS]) != 0
