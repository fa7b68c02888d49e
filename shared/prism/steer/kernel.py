# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202
"""Compiled loops over token ids: feed tokens into the phrase state, and try candidate tokens out.

A token is its bytes. Bytes of a character that is not yet complete are part of the state, so
byte-level vocabularies and byte fallback are read like any other spelling.
"""

from __future__ import annotations

import numpy as np

from prism.jit import njit
from prism.match import automaton as ac
from prism.match import kernel as match_kernel
from prism.match.kernel import (
    COUNT,
    GAPS,
    INITIAL,
    NODE,
    PLAIN,
    PREVIOUS,
    SIGNS,
    VIEWS,
)
from prism.steer.completions import codes_at, has_any, range_of
from prism.steer.utf8 import BROKEN, STEP

# utf8 state: continuation bytes still due, the code point so far, the least it may be, and where
# in UTF-8 the text stands (``prism.steer.utf8``)
DUE, POINT, LEAST, STATE = 0, 1, 2, 3
UTF8 = 4
BAD = 0xFFFD
ANY_OTHER, VALID_ONES, SAFE_ONES = range(3)
"""What a row's tokens are: all but these may be sampled; only these may; only these may, and some
that would be characters would complete a phrase."""
_feed = match_kernel.feed_one
_finish = match_kernel.finish


@njit(cache=True)
def decode(byte, utf8, points, count):
    """Read one byte; append the characters that it completes; return how many there are now."""
    b = np.int64(byte)
    if b < 0x80 and utf8[STATE] == 0:
        points[count] = b
        return count + 1
    utf8[STATE] = STEP[utf8[STATE] * 256 + b]
    if utf8[DUE] > 0 and b & 0xC0 == 0x80:
        utf8[POINT] = utf8[POINT] << 6 | b & 0x3F
        utf8[DUE] -= 1
        if utf8[DUE] > 0:
            return count
        b = utf8[POINT]
        if b < utf8[LEAST] or b > 0x10FFFF or 0xD800 <= b <= 0xDFFF:
            b = np.int64(BAD)
    else:
        if utf8[DUE] > 0:
            utf8[DUE] = 0
            points[count] = BAD
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
            b = np.int64(BAD)
    points[count] = b
    return count + 1


@njit(cache=True)
def _counting(plain, active, out, found):
    """Keep those of the first ``found`` rows of ``out`` that count; return how many they are.

    ``active`` uint8: of each plain pattern, then of each entry, whether its hits count.
    """
    kept = 0
    for i in range(found):
        if active[out[i, 1] + out[i, 0] * plain[ac.PATTERNS]]:
            if kept < i:
                out[kept] = out[i]
            kept += 1
    return kept


@njit(cache=True)
def feed_bytes(table, plain, squeezed, entries, active, head, ring, utf8, data, out):
    """Read bytes; return how many hits they made (rows in ``out`` are overwritten)."""
    points = np.zeros(2, np.int64)
    return _read(table, plain, squeezed, entries, active, head, ring, utf8, data, out, points)


@njit(cache=True)
def _read(table, plain, squeezed, entries, active, head, ring, utf8, data, out, points):
    """Do the same with ``points``, int64 ``[2]``, to write to."""
    hits = 0
    mask = ring.shape[1] - 1
    for byte in data:
        for i in range(decode(byte, utf8, points, 0)):
            point = np.int32(points[i])
            found = _feed(table, plain, squeezed, entries, head, ring, mask, point, out, 0)
            if found:
                hits += _counting(plain, active, out, found)
    return hits


@njit(cache=True)
def feed_tokens(table, plain, squeezed, entries, active, head, ring, utf8, data, offsets, ids, out):
    """Read tokens; return how many hits they made."""
    hits = 0
    for token in ids:
        piece = data[offsets[token] : offsets[token + 1]]
        hits += feed_bytes(
            table, plain, squeezed, entries, active, head, ring, utf8, piece, out
        )  # fmt: skip
    return hits


@njit(cache=True)
def end_hits(table, plain, squeezed, entries, active, head, ring, utf8, out):
    """Read the end of the text; return how many hits it makes. The state is spent afterwards."""
    hits = 0
    if utf8[DUE] > 0:
        mask, bad = ring.shape[1] - 1, np.int32(BAD)
        found = _feed(table, plain, squeezed, entries, head, ring, mask, bad, out, 0)
        hits += _counting(plain, active, out, found)
    found = _finish(plain, squeezed, entries, head, ring, out)
    return hits + _counting(plain, active, out, found)


@njit(cache=True)
def try_tokens(
    table, plain, squeezed, entries, active, head, ring, utf8, data, offsets, ids, out, verdict
):
    """For each candidate: would the text, ending behind it, hold a blocked phrase?

    ``verdict`` uint8 ``[len(ids)]`` is filled. ``head``, ``ring`` and ``utf8`` stay as they are.
    """
    h, r, u = head.copy(), ring.copy(), utf8.copy()
    for i in range(len(ids)):
        token = ids[i]
        piece = data[offsets[token] : offsets[token + 1]]
        verdict[i] = _unsafe(
            table, plain, squeezed, entries, active, head, ring, utf8, h, r, u, piece, out
        )


@njit(cache=True)
def _unsafe(table, plain, squeezed, entries, active, head, ring, utf8, h, r, u, piece, out):
    """Try one token on ``h``, ``r`` and ``u``, which equal the state before and afterwards."""
    hits = feed_bytes(table, plain, squeezed, entries, active, h, r, u, piece, out)
    if hits == 0:
        hits = end_hits(table, plain, squeezed, entries, active, h, r, u, out)
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
def usual_rows(slots, lengths, tokens, before, size, counts, lasts, refusing, usual):
    """Find the rows whose outputs have one more token than was read; return how many they are.

    ``usual`` bool ``[rows]`` is filled. The token must be one of ``size``, and the one before it
    the last one known; rows that refuse are read no more.
    """
    found = 0
    for i in range(len(slots)):
        k = slots[i]
        usual[i] = (
            lengths[i] == counts[k] + 1
            and before[i] == lasts[k]
            and not refusing[k]
            and 0 <= tokens[i] < size
        )
        found += usual[i]
    return found


@njit(cache=True)
def note_rows(slots, tokens, lengths, counts, known, lasts, turned):
    """Note what was read into ``slots``; return whether one's course was changed by a mask."""
    changed = False
    for i in range(len(slots)):
        k = slots[i]
        counts[k] = known[k] = lengths[i]
        lasts[k] = tokens[i]
        changed |= turned[k] >= 0
    return changed


@njit(cache=True)
def feed_rows(
    table, plain, squeezed, entries, active, heads, rings, utf8s, slots, tokens, data, offsets, out,
    hits,
):  # fmt: skip
    """Read one token per row: ``tokens[i]`` into the state at ``slots[i]``.

    ``hits`` uint8 ``[len(slots)]`` says where that made a hit, or broke off from UTF-8.
    """
    points = np.zeros(2, np.int64)
    for i in range(len(slots)):
        k = slots[i]
        piece = data[offsets[tokens[i]] : offsets[tokens[i] + 1]]
        found = _read(
            table, plain, squeezed, entries, active, heads[k], rings[k], utf8s[k], piece, out,
            points,
        )  # fmt: skip
        hits[i] = found > 0 or utf8s[k, STATE] == BROKEN


@njit(cache=True)
def _collect(completions, words, block, head, ring, view, certain, codes, count):
    """Append the tokens that complete a phrase from a view's node; return their number.

    They are appended as codes: the token's id times two, plus one where it has yet to be tried.
    Beyond the room in ``codes`` they are counted only. In the squeezed views what began within a
    word is left out where every phrase must begin with one.
    """
    base = 2 + 4 * view
    mask = ring.shape[1] - 1
    node = np.int32(head[base + NODE])
    while node != 0 and has_any(completions, node):
        at, size = codes_at(completions, node)
        if size and view != PLAIN and not ac.held_at(block, node) & ac.LOOSE:
            first = (head[base + COUNT] - ac.depth_of(block, node)) & mask
            if not ring[view, first, INITIAL]:
                size = 0
        for i in range(at, at + size):
            low, high = range_of(words, completions[i])
            for j in range(low, high):
                if count < len(codes):
                    codes[count] = np.int64(words[j]) << 1 | (0 if certain else 1)
                count += 1
        node = ac.fail_of(block, node)
    return count


@njit(cache=True)
def _collect_all(tokens, certain, codes, count):
    for token in tokens:
        if count < len(codes):
            codes[count] = np.int64(token) << 1 | (0 if certain else 1)
        count += 1
    return count


@njit(cache=True)
def _collect_views(
    of_plain, of_gaps, of_signs, plain_words, gap_words, sign_words, plain, squeezed, head, ring,
    certain, codes, count,
):  # fmt: skip
    count = _collect(of_plain, plain_words, plain, head, ring, PLAIN, certain, codes, count)
    count = _collect(of_gaps, gap_words, squeezed, head, ring, GAPS, False, codes, count)
    return _collect(of_signs, sign_words, squeezed, head, ring, SIGNS, False, codes, count)


@njit(cache=True)
def mask_rows(
    table, plain, squeezed, entries, active, of_plain, of_gaps, of_signs, plain_words, gap_words,
    sign_words, heads, rings, utf8s, slots, data, offsets, follows, continuing, ends, at_start,
    always, out, codes, ids, bounds, only,
):  # fmt: skip
    """List the tokens that complete a phrase, for the states at ``slots``, each row's ascending.

    ``of_*`` are the views' completions, ``*_words`` the tokens they stand for; ``at_start`` hold a
    phrase where a word may begin, ``always`` anywhere. Row ``i`` gets
    ``ids[bounds[i]:bounds[i + 1]]``. Returns 0, or how much room is needed where ``codes`` and
    ``ids`` (equally long) are too small; nothing has changed then. A token of the plain view's
    ranges completes a phrase for certain; whatever else is likely is tried. Phrases that count are
    held.

    Within a character only those go on that keep to UTF-8: these few are listed instead, and
    ``only`` uint8 ``[rows]`` says so. ``follows`` says where tokens lead, ``continuing`` are those
    that begin within a character, ``ends`` the ends of text.
    """
    h, r, u = heads[0].copy(), np.zeros_like(rings[0]), utf8s[0].copy()
    count = 0
    for i in range(len(slots)):
        bounds[i] = count
        only[i] = ANY_OTHER
        head, ring, utf8 = heads[slots[i]], rings[slots[i]], utf8s[slots[i]]
        within = utf8[STATE]
        if within != 0:
            found = len(continuing) + len(ends)
            if count + found > len(ids):
                return count + found
            h[:] = head
            r[:] = ring
            u[:] = utf8
            only[i] = VALID_ONES
            for token in continuing:
                if within == BROKEN or follows[within, token] == BROKEN:
                    continue
                piece = data[offsets[token] : offsets[token + 1]]
                if _unsafe(
                    table, plain, squeezed, entries, active, head, ring, utf8, h, r, u, piece, out
                ):
                    only[i] = SAFE_ONES
                else:
                    ids[count] = token
                    count += 1
            for token in ends:
                ids[count] = token
                count += 1
            ids[bounds[i] : count] = np.sort(ids[bounds[i] : count])
            continue
        found = _collect_views(
            of_plain, of_gaps, of_signs, plain_words, gap_words, sign_words, plain, squeezed,
            head, ring, True, codes, 0,
        )  # fmt: skip
        if head[PREVIOUS] != 0:
            found = _collect_all(at_start, True, codes, found)
        found = _collect_all(always, True, codes, found)
        if found == 0:
            continue
        if found > len(codes) or count + found > len(ids):
            return count + found
        copied = False
        sorted_codes = np.sort(codes[:found]) if found > 1 else codes[:found].copy()
        last = np.int64(-1)
        for code in sorted_codes:
            token = code >> 1
            if token == last:
                continue
            last = token
            if code & 1:
                if not copied:
                    h[:] = head
                    r[:] = ring
                    u[:] = utf8
                    copied = True
                piece = data[offsets[token] : offsets[token + 1]]
                if not _unsafe(
                    table, plain, squeezed, entries, active, head, ring, utf8, h, r, u, piece, out
                ):
                    continue
            ids[count] = token
            count += 1
    bounds[len(slots)] = count
    return 0


@njit(cache=True)
def may_hold(block, words, begin, closing, verdict):
    """Mark the tokens whose key, read from ``begin``, comes to where a phrase ends.

    ``words``: a lookup's automaton; ``verdict`` uint8 per node of it is filled with 1 where the
    node's string does, 2 where a separator behind it would (``closing``).
    """
    pairs, paths, depths = words[ac.PAIRS], words[ac.PATHS], words[ac.DEPTHS]
    longest = 0
    for p in range(words[ac.PATTERNS]):
        size = words[depths + p] - 1 + words[paths + p + 1] - words[paths + p]
        longest = max(longest, size)
    state, seen = np.zeros(longest + 1, np.int32), np.zeros(longest + 1, np.uint8)
    state[0] = begin
    ends = ac.TERMINAL | ac.SUFFIX
    for p in range(words[ac.PATTERNS]):
        size = words[depths + p] - 1
        for node in range(words[paths + p], words[paths + p + 1]):
            size += 1
            symbol = words[pairs + 2 * node] & ac.SYMBOL
            at = ac.advance(block, state[size - 1], symbol)
            state[size] = at
            seen[size] = seen[size - 1] | (block[block[ac.PAIRS] + 2 * at] & ends != 0)
            verdict[node] = seen[size]
            if closing:
                at = ac.advance(block, at, np.int32(32))
                if block[block[ac.PAIRS] + 2 * at] & ends:
                    verdict[node] |= 2
