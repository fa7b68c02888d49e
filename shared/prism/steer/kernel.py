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
from prism.match.kernel import (
    COUNT,
    GAPS,
    LETTER_CLASS,
    NODE,
    PLAIN,
    PREVIOUS,
    SIGN_LETTER,
    SIGNS,
    VIEWS,
)
from prism.steer.completions import ANY, FAIL_LINK, HIGH, LOW, START

if TYPE_CHECKING:
    pass

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
        token = ids[i]
        piece = data[offsets[token] : offsets[token + 1]]
        verdict[i] = _unsafe(
            table, plain, squeezed, entries, head, ring, utf8, h, r, u, piece, one, out
        )


@njit(cache=True)
def _unsafe(table, plain, squeezed, entries, head, ring, utf8, h, r, u, piece, one, out):
    """Try one token on ``h``, ``r`` and ``u``, which equal the state before and afterwards."""
    hits = feed_bytes(table, plain, squeezed, entries, h, r, u, piece, one, out)
    if hits == 0:
        hits = end_hits(table, plain, squeezed, entries, h, r, u, out)
    # Only the last symbol and those behind it were written to.
    size = ring.shape[1]
    for view in range(VIEWS):
        at = 2 + 4 * view + COUNT
        begin = max(head[at] - 1, 0, h[at] - size)
        for i in range(begin, h[at]):
            r[view, i & (size - 1)] = ring[view, i & (size - 1)]
    h[:] = head
    u[:] = utf8
    return hits > 0


@njit(cache=True)
def feed_rows(
    table, plain, squeezed, entries, heads, rings, utf8s, slots, tokens, data, offsets, out, hits
):
    """Read one token per row: ``tokens[i]`` into the state at ``slots[i]``.

    ``hits`` uint8 ``[len(slots)]`` says where that made a hit.
    """
    one = np.zeros(1, np.int32)
    for i in range(len(slots)):
        k = slots[i]
        piece = data[offsets[tokens[i]] : offsets[tokens[i] + 1]]
        found = feed_bytes(
            table, plain, squeezed, entries, heads[k], rings[k], utf8s[k], piece, one, out
        )
        hits[i] = found > 0


@njit(cache=True)
def _collect(completions, node, certain, codes, count):
    """Append the tokens that complete a phrase from ``node`` as codes; return their number.

    A code is the token's id times two, plus one where it has yet to be tried. Beyond the room in
    ``codes`` they are counted only.
    """
    fail, any_ = completions[FAIL_LINK], completions[ANY]
    start, low, high = completions[START], completions[LOW], completions[HIGH]
    while node != 0 and completions[any_ + node] != 0:
        for i in range(completions[start + node], completions[start + node + 1]):
            for j in range(completions[low + i], completions[high + i]):
                if count < len(codes):
                    codes[count] = np.int64(completions[j]) << 1 | (0 if certain else 1)
                count += 1
        node = completions[fail + node]
    return count


@njit(cache=True)
def _collect_all(tokens, certain, codes, count):
    for token in tokens:
        if count < len(codes):
            codes[count] = np.int64(token) << 1 | (0 if certain else 1)
        count += 1
    return count


@njit(cache=True)
def mask_rows(
    table, plain, squeezed, entries, of_plain, of_gaps, of_signs, heads, rings, utf8s, slots,
    data, offsets, partial, at_start, out, codes, ids, bounds,
):  # fmt: skip
    """List the tokens that complete a phrase, for the states at ``slots``, each row's ascending.

    Row ``i`` gets ``ids[bounds[i]:bounds[i + 1]]``. Returns 0, or how much room is needed where
    ``codes`` and ``ids`` (equally long) are too small; nothing has changed then. A token of the
    plain view's ranges completes a phrase for certain; whatever else is likely is tried.
    """
    one = np.zeros(1, np.int32)
    h, r, u = heads[0].copy(), np.zeros_like(rings[0]), utf8s[0].copy()
    count = 0
    for i in range(len(slots)):
        bounds[i] = count
        head, ring, utf8 = heads[slots[i]], rings[slots[i]], utf8s[slots[i]]
        whole = utf8[DUE] == 0
        found = _collect(of_plain, head[2 + 4 * PLAIN + NODE], whole, codes, 0)
        found = _collect(of_gaps, head[2 + 4 * GAPS + NODE], False, codes, found)
        found = _collect(of_signs, head[2 + 4 * SIGNS + NODE], False, codes, found)
        if head[PREVIOUS] != 0:
            found = _collect_all(at_start, whole, codes, found)
        if found == 0 and whole:
            continue
        h[:] = head
        r[:] = ring
        u[:] = utf8
        if not whole:
            # The next token finishes the character, or leaves it broken, which separates words. (A
            # token that begins a character can't complete a phrase: broken off, it is the text's
            # end.)
            found = _collect_all(partial, False, codes, found)
            u[:] = 0
            _put(table, plain, squeezed, entries, h, r, np.int64(32), one, out)
            found = _collect(of_plain, h[2 + 4 * PLAIN + NODE], False, codes, found)
            found = _collect(of_gaps, h[2 + 4 * GAPS + NODE], False, codes, found)
            found = _collect(of_signs, h[2 + 4 * SIGNS + NODE], False, codes, found)
            found = _collect_all(at_start, False, codes, found)
            h[:] = head
            r[:] = ring
            u[:] = utf8
        if found > len(codes) or count + found > len(ids):
            return count + found
        sorted_codes = np.sort(codes[:found])
        last = np.int64(-1)
        for code in sorted_codes:
            token = code >> 1
            if token == last:
                continue
            last = token
            if code & 1:
                piece = data[offsets[token] : offsets[token + 1]]
                if not _unsafe(
                    table, plain, squeezed, entries, head, ring, utf8, h, r, u, piece, one, out
                ):
                    continue
            ids[count] = token
            count += 1
    bounds[len(slots)] = count
    return 0


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
            count = _decode(data[i], utf8, points, count)
        if utf8[DUE] > 0:
            points[count] = _BAD
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
