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
from prism.match.kernel import GAPS, LAST, NODE, PLAIN, PREVIOUS, SIGNS

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
def feed_bytes(table, plain, squeezed, entries, head, ring, utf8, data, one, out):
    """Read bytes; return how many hits they made (rows in ``out`` are overwritten)."""
    hits = 0
    for byte in data:
        b = np.int64(byte)
        if utf8[DUE] > 0 and b & 0xC0 == 0x80:
            utf8[POINT] = utf8[POINT] << 6 | b & 0x3F
            utf8[DUE] -= 1
            if utf8[DUE] > 0:
                continue
            b = utf8[POINT]
            if b < utf8[LEAST] or b > 0x10FFFF or 0xD800 <= b <= 0xDFFF:
                b = np.int64(_BAD)
        else:
            if utf8[DUE] > 0:
                utf8[DUE] = 0
                hits += _put(table, plain, squeezed, entries, head, ring, _BAD, one, out)
            if b >= 0x80:
                if 0xC2 <= b < 0xE0:
                    utf8[DUE], utf8[POINT], utf8[LEAST] = 1, b & 0x1F, 0x80
                    continue
                if 0xE0 <= b < 0xF0:
                    utf8[DUE], utf8[POINT], utf8[LEAST] = 2, b & 0x0F, 0x800
                    continue
                if 0xF0 <= b < 0xF5:
                    utf8[DUE], utf8[POINT], utf8[LEAST] = 3, b & 0x07, 0x10000
                    continue
                b = np.int64(_BAD)
        hits += _put(table, plain, squeezed, entries, head, ring, b, one, out)
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


def state_views(head: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """Return ``(view, node)`` of the three views."""
    return tuple((view, int(head[2 + 4 * view + NODE])) for view in (PLAIN, GAPS, SIGNS))


def at_word_start(head: NDArray[np.int64]) -> bool:
    """Return whether the next letter begins a word."""
    return int(head[PREVIOUS]) != 0


def last_symbol(head: NDArray[np.int64], view: int) -> int:
    """Return the last character pushed in ``view``."""
    return int(head[2 + 4 * view + LAST])
