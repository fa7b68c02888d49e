# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202
"""From 100,000 phrases to the automata's patterns, in compiled loops over flat arrays.

A *text* is a normalised way of writing a phrase; a *record* is one of its spellings: as it is, in
ROT13, reversed, or both (``ROTATED``, ``REVERSED``). Records make keys, keys are sorted, and equal
ones become one pattern. Nothing here is kept but what ``prism.match.phrases`` packs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prism.jit import njit
from prism.match.entries import (
    BOUNDED,
    LETTERS,
    REVERSED,
    ROTATED,
    RUN_SHIFT,
    WORD,
    letter_at,
    rotated,
)
from prism.match.kernel import LETTER_CLASS
from prism.text.normalise import CLASS_SHIFT, DROP, EXPAND, LETTER

TRANSFORM_MIN_LETTERS = 6
"""ROT13 and reversal turn short words into other ordinary words ("evil", "live"): only longer
ones."""
SQUEEZE_MIN_LETTERS = 3
TO_ROTATE, TO_REVERSE = 1 << 8, 1 << 9
"""Which spellings a phrase asks for, beside the flags of ``prism.match.kernel``."""
LONGEST_RUN = (1 << 31 - RUN_SHIFT) - 1
_SPACE = 32


@njit(cache=True, nogil=True)
def _append(kind, char, out, first, size):
    if kind == LETTER:
        out[size] = char
    elif size == first or out[size - 1] == _SPACE:
        return size
    else:
        out[size] = _SPACE
    return size + 1


@njit(cache=True, nogil=True)
def normalise(table, cps, bounds, out, ends):
    """Normalise ``cps[bounds[i]:bounds[i + 1]]`` as ``normalise_phrase`` does, end to end.

    ``ends[i + 1]`` is where text ``i`` ends in ``out``. Returns how much room is wanted; beyond
    that of ``out`` nothing is certain and nothing is written.
    """
    size = 0
    wanted = 0
    for i in range(len(bounds) - 1):
        wanted += bounds[i + 1] - bounds[i]
        for k in range(bounds[i], bounds[i + 1]):
            value = table[table[1] + table[table[0] + (cps[k] >> 8)] * 256 + (cps[k] & 255)]
            if value >= 0 and value >> CLASS_SHIFT == EXPAND:
                wanted += table[table[2] + (value & 0xFFFFFF)]
    if wanted > len(out):
        return wanted
    for i in range(len(bounds) - 1):
        first = size
        for k in range(bounds[i], bounds[i + 1]):
            cp = cps[k]
            value = table[table[1] + table[table[0] + (cp >> 8)] * 256 + (cp & 255)]
            if value == -1:
                size = _append(LETTER, cp, out, first, size)
            elif value == -2:
                size = _append(LETTER + 1, cp, out, first, size)
            elif value >> CLASS_SHIFT == EXPAND:
                at = table[2] + (value & 0xFFFFFF)
                for j in range(table[at]):
                    code = table[at + 1 + j]
                    size = _append(code >> CLASS_SHIFT, code & 0xFFFFFF, out, first, size)
            elif value >> CLASS_SHIFT != DROP:
                size = _append(value >> CLASS_SHIFT, value & 0xFFFFFF, out, first, size)
        if size > first and out[size - 1] == _SPACE:
            size -= 1
        ends[i + 1] = size
    return wanted


@njit(cache=True, nogil=True)
def _compare(symbols, a, a_size, b, b_size):
    for i in range(min(a_size, b_size)):
        if symbols[a + i] != symbols[b + i]:
            return symbols[a + i] - symbols[b + i]
    return a_size - b_size


@njit(cache=True, nogil=True)
def variants(symbols, ends, ways, chosen):
    """List each phrase's distinct texts, ascending; return how many there are.

    Phrase ``p``'s texts are ``ways * p`` to ``ways * (p + 1)``; ``chosen`` gets their numbers.
    """
    count = 0
    for p in range((len(ends) - 1) // ways):
        first = count
        for w in range(ways):
            text = ways * p + w
            begin, size = ends[text], ends[text + 1] - ends[text]
            if size == 0:
                continue
            at = count
            same = False
            while at > first and not same:
                other = chosen[at - 1]
                order = _compare(symbols, begin, size, ends[other], ends[other + 1] - ends[other])
                same = order == 0
                if order >= 0:
                    break
                at -= 1
            if same:
                continue
            for i in range(count, at, -1):
                chosen[i] = chosen[i - 1]
            chosen[at] = text
            count += 1
    return count


@njit(cache=True, nogil=True)
def records(symbols, ends, ways, chosen, flags, texts, vias):
    """List the spellings of every text: its place in ``chosen``, and how it is changed."""
    count = 0
    for i in range(len(chosen)):
        begin, end = ends[chosen[i]], ends[chosen[i] + 1]
        asked = flags[chosen[i] // ways]
        letters, palindrome, ascii_, cased = 0, True, True, False
        for k in range(begin, end):
            symbol = symbols[k]
            letters += symbol != _SPACE
            palindrome &= symbol == symbols[begin + end - 1 - k]
            ascii_ &= symbol < 128
            cased |= rotated(symbol) != symbol
        texts[count], vias[count] = i, 0
        count += 1
        if letters < TRANSFORM_MIN_LETTERS:
            continue
        rotates = asked & TO_ROTATE != 0 and ascii_ and cased
        if rotates:
            texts[count], vias[count] = i, ROTATED
            count += 1
        if asked & TO_REVERSE and not palindrome:
            texts[count], vias[count] = i, REVERSED
            count += 1
            if rotates:
                texts[count], vias[count] = i, ROTATED | REVERSED
                count += 1
    return count


@njit(cache=True, nogil=True)
def plain_keys(symbols, ends, ways, chosen, flags, texts, vias, bounds, out):
    """Write each record's pattern in the plain view; count only where ``out`` has no room."""
    size = 0
    for r in range(len(texts)):
        text = chosen[texts[r]]
        begin, end = ends[text], ends[text + 1]
        edge = 1 if flags[text // ways] & BOUNDED else 0
        bounds[r] = size
        if len(out):
            if edge:
                out[size] = out[size + 1 + end - begin] = _SPACE
            for k in range(end - begin):
                symbol = symbols[end - 1 - k] if vias[r] & REVERSED else symbols[begin + k]
                out[size + edge + k] = rotated(symbol) if vias[r] & ROTATED else symbol
        size += end - begin + 2 * edge
    bounds[len(texts)] = size


@njit(cache=True, nogil=True)
def squeeze(symbols, ends, chosen, bounds, out, whole, letters):
    """Write each text without spaces, with repeats as runs, and then letter by letter.

    ``out[bounds[2 * i]:bounds[2 * i + 1]]`` is text ``i`` with runs; behind it, where ``whole[i]``
    is false, the same letter by letter: both ways of writing a double letter, since "ll" is one
    long symbol and "l1" is two. A symbol is the letter, ``WORD`` where one begins, and its run.
    ``letters`` gets how many each text has.
    """
    size = 0
    for i in range(len(chosen)):
        begin, end = ends[chosen[i]], ends[chosen[i] + 1]
        for collapse in (True, False):
            first, word = size, 0
            bounds[2 * i + (0 if collapse else 1)] = size
            if not collapse and whole[i]:
                break
            for k in range(begin, end):
                if symbols[k] == _SPACE:
                    word = WORD
                    continue
                letters[i] += collapse
                if collapse and size > first and not word and symbols[k] == out[size - 1] & LETTERS:
                    if out[size - 1] >> RUN_SHIFT < LONGEST_RUN:
                        out[size - 1] += 1 << RUN_SHIFT
                    whole[i] = False
                else:
                    out[size] = symbols[k] | word | 1 << RUN_SHIFT
                    size += 1
                    word = 0
    bounds[2 * len(chosen)] = size
    return size


@njit(cache=True, nogil=True)
def squeezed_keys(squeezed, bounds, rows, vias, key_bounds, out):
    """Write each row's pattern in the squeezed views; ``rows``: which squeezed text it is."""
    size = 0
    for r in range(len(rows)):
        begin, end = bounds[rows[r]], bounds[rows[r] + 1]
        key_bounds[r] = size
        if len(out):
            for k in range(end - begin):
                letter = letter_at(squeezed, begin, end - begin, vias[r], k) & LETTERS
                out[size + k] = LETTER_CLASS[letter] if letter < 128 else letter
        size += end - begin
    key_bounds[len(rows)] = size


@njit(cache=True, nogil=True)
def _chunk(ranks, symbols, begin, size, at, width, bits):
    """Return ``width`` symbols from ``at`` on as one number that sorts as they do."""
    value = np.int64(0)
    for i in range(at, at + width):
        value <<= bits
        if i < size:
            value |= ranks[symbols[begin + i]]
    return value


@njit(cache=True, nogil=True)
def sort_keys(symbols, bounds, order):
    """Sort strings of symbols; equal ones stay as they are. ``order`` is 0, 1, 2 … at first.

    Multikey quicksort (Bentley and Sedgewick, SODA 1997), over as many symbols at a time as a
    number holds.
    """
    highest = np.int64(0)
    for symbol in symbols:
        highest = max(highest, symbol)
    ranks = np.zeros(highest + 1, np.int64)
    for symbol in symbols:
        ranks[symbol] = 1
    rank = 0
    for symbol in range(highest + 1):
        if ranks[symbol]:
            rank += 1
            ranks[symbol] = rank
    bits = 1
    while rank >> bits:
        bits += 1
    width = 62 // bits
    n = len(order)
    keys = np.empty(n, np.int64)
    for i in range(n):
        begin, size = bounds[order[i]], bounds[order[i] + 1] - bounds[order[i]]
        keys[i] = _chunk(ranks, symbols, begin, size, 0, width, bits)
    # Slices yet to be sorted: from, to, and how many symbols are known to be equal.
    stack = [(0, n, 0)]
    while stack:
        low, high, depth = stack.pop()
        while high - low > 1:
            pivot = keys[(low + high) >> 1]
            if high - low > 16:
                a, c = keys[low], keys[high - 1]
                pivot = max(min(a, c), min(max(a, c), pivot))
            less, i, more = low, low, high
            while i < more:
                key = keys[i]
                if key < pivot:
                    keys[i], keys[less] = keys[less], key
                    order[i], order[less] = order[less], order[i]
                    less += 1
                    i += 1
                elif key > pivot:
                    more -= 1
                    keys[i], keys[more] = keys[more], key
                    order[i], order[more] = order[more], order[i]
                else:
                    i += 1
            if less - low > 1:
                stack.append((low, less, depth))
            if more - less > 1:
                # A number's last symbol is 0 where the strings have ended.
                if pivot & ((1 << bits) - 1):
                    for k in range(less, more):
                        begin, size = bounds[order[k]], bounds[order[k] + 1] - bounds[order[k]]
                        keys[k] = _chunk(ranks, symbols, begin, size, depth + width, width, bits)
                    stack.append((less, more, depth + width))
                else:
                    order[less:more] = np.sort(order[less:more])
            low = more


@njit(cache=True, nogil=True)
def group(symbols, bounds, order, groups):
    """Number equal strings of ``order``: ``groups[i]`` for ``order[i]``. Return how many differ."""
    count = 0
    for i in range(len(order)):
        a, b = order[i - 1] if i else 0, order[i]
        size = bounds[b + 1] - bounds[b]
        if i == 0 or _compare(symbols, bounds[a], bounds[a + 1] - bounds[a], bounds[b], size):
            count += 1
        groups[i] = count - 1
    return count


@njit(cache=True, nogil=True)
def gather(symbols, bounds, firsts, out, out_bounds):
    """Copy the strings ``firsts`` end to end."""
    size = 0
    for i in range(len(firsts)):
        out_bounds[i] = size
        for k in range(bounds[firsts[i]], bounds[firsts[i] + 1]):
            out[size] = symbols[k]
            size += 1
    out_bounds[len(firsts)] = size


@njit(cache=True, nogil=True)
def _alike(squeezed, bounds, row_a, via_a, row_b, via_b):
    begin_a, size = bounds[row_a], bounds[row_a + 1] - bounds[row_a]
    begin_b = bounds[row_b]
    if bounds[row_b + 1] - begin_b != size:
        return False
    for k in range(size):
        a = letter_at(squeezed, begin_a, size, via_a, k)
        if a != letter_at(squeezed, begin_b, size, via_b, k):
            return False
    return True


@njit(cache=True, nogil=True)
def entries(
    squeezed, bounds, rows, vias, flags, owners, order, groups, found, firsts, inside
):  # fmt: skip
    """Find what is to be verified behind each pattern: ``found[i]`` is the entry of ``order[i]``.

    An entry that is there already with the same owner is -1. ``firsts`` gets the row that made
    each entry, ``inside`` its pattern; returns how many there are. Rows of one group lie together
    in ``order``.
    """
    count, first = 0, 0
    begin = 0
    for i in range(len(order)):
        if i and groups[i] != groups[i - 1]:
            first, begin = count, i
        row = order[i]
        entry = -1
        for e in range(first, count):
            other = firsts[e]
            if (flags[other] ^ flags[row]) & (REVERSED - 1) == 0 and _alike(
                squeezed, bounds, rows[other], vias[other], rows[row], vias[row]
            ):
                entry = e
                break
        if entry < 0:
            entry = count
            firsts[count], inside[count] = row, groups[i]
            count += 1
        found[i] = entry
        for k in range(begin, i):
            if found[k] == entry and owners[order[k]] == owners[row]:
                found[i] = -1
                break
    return count


def runs(groups: NDArray[np.int64], count: int) -> NDArray[np.int32]:
    """Return where each of ``count`` groups begins in an ascending list of their numbers."""
    return np.searchsorted(groups, np.arange(count + 1)).astype(np.int32)
