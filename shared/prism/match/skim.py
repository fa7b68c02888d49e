# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202
"""Text in which no phrase comes near, read without a record of it.

:mod:`prism.match.kernel` keeps the last symbols of three views, should a hit have to be placed and
verified. Most words of most texts begin no pattern at all, or stop being one after some letters.
Here the automata alone are walked, their nodes in registers: a hit, or what isn't followed here,
sends the kernel back to the last *clean* place, before which nothing is begun in any view. Both
readers leave the same state there but for symbols that no hit can reach any more.
"""

from __future__ import annotations

import numpy as np

from prism.jit import njit
from prism.match import kernel
from prism.match.automaton import (
    BRANCH,
    FREE,
    PAIRS,
    PATTERNS,
    ROOT_ASCII,
    SUFFIX,
    TERMINAL,
    advance,
    child_of,
    depth_of,
    fail_of,
    held_at,
)
from prism.match.kernel import (
    ALONE,
    COUNT,
    GAP,
    GAP_NONE,
    GAP_PUNCT,
    GAP_SPACE,
    GAPS,
    INITIAL,
    LAST,
    LETTER_CLASS,
    NODE,
    PLAIN,
    PREVIOUS,
    READ,
    SIGN_LETTER,
    SIGNS,
)

WORTH = 16
"""Characters left to read from which on it is worth trying."""
_LETTER, _SPACE, _PUNCT, _DROP, _EXPAND = 0, 1, 2, 3, 4
_SHIFT = 24
_MASK = (1 << 24) - 1
_HIT = TERMINAL | SUFFIX
_DEEPEST = 60  # symbols whose beginnings of words are remembered, one bit each

# Of a squeezed view: its node; which of its last symbols begin a word; the last one's character,
# whether it stands alone; the gap behind it.
_SN, _INITIALS, _CHAR, _ALONE, _GAP = range(5)


@njit(cache=True)
def possible(plain, squeezed):
    """Return whether every pattern begins where a word does."""
    if plain[plain[PAIRS]] & BRANCH or held_at(squeezed, 0) & FREE:
        return False
    return plain[PATTERNS] == 0 or plain[ROOT_ASCII + 32] != 0


@njit(cache=True, inline="always")
def _value(table, ascii_, cp):
    if cp < 128:
        return table[ascii_ + np.uint32(cp)]
    return table[table[1] + table[table[0] + (cp >> 8)] * 256 + (cp & 255)]


@njit(cache=True)
def _follow(squeezed, node, initials, symbol):
    """Return a squeezed view's node after a symbol, as ``kernel._advance_live``; -1: unknown."""
    if node != 0 or initials & 1:
        child = child_of(squeezed, node, symbol)
        if child != 0 or node == 0:
            return child
    if node == 0:
        return np.int32(0)
    depth = depth_of(squeezed, node)
    if depth > _DEEPEST:
        return np.int32(-1)
    if not initials & ((np.int64(1) << depth) - 1):
        return np.int32(0)
    node = advance(squeezed, node, symbol)
    while node != 0:
        depth = depth_of(squeezed, node)
        if depth > _DEEPEST:
            return np.int32(-1)
        if initials >> (depth - 1) & 1:
            break
        node = fail_of(squeezed, node)
    return node


@njit(cache=True, inline="always")
def _letter(squeezed, pairs, node, initials, last, alone, gap, char, initial):
    """Read a letter in a squeezed view; a node of -1 says that the kernel has to."""
    if last == char and (gap == GAP_NONE or alone):
        if gap == GAP_NONE:
            alone = np.int64(0)
    else:
        alone = np.int64(gap != GAP_NONE)
        initials = ((initials << 1) & ((np.int64(1) << 62) - 1)) | initial
        symbol = np.int32(LETTER_CLASS[char] if char < 128 else char)
        node = _follow(squeezed, node, initials, symbol)
        if node > 0 and squeezed[pairs + 2 * node] & _HIT:
            node = np.int32(-1)
    return node, initials, np.int64(char), alone


@njit(cache=True)
def walk(table, plain, squeezed, views, previous, cps, begin):
    """Walk the automata from a clean place.

    ``views`` int64 [2, 5]: the squeezed views there; ``previous``: the class of the last character.
    Returns the last clean place, the class of the character before it, and where a hit is, or what
    isn't followed here: ``len(cps)`` if nowhere. Leaves in ``views`` how they are at the clean
    place.
    """
    ascii_ = np.uint32(table[1] + table[table[0]] * 256)
    home = child_of(plain, np.int32(0), np.int32(32))
    node = home
    spaced = True  # the plain view's last symbol is a space
    plain_pairs, pairs = plain[PAIRS], squeezed[PAIRS]
    squeezes = squeezed[PATTERNS] != 0
    g_node, g_initials, g_char, g_alone, g_gap = (
        np.int32(0), np.int64(0), views[0, _CHAR], views[0, _ALONE], views[0, _GAP],
    )  # fmt: skip
    s_node, s_initials, s_char, s_alone, s_gap = (
        np.int32(0), np.int64(0), views[1, _CHAR], views[1, _ALONE], views[1, _GAP],
    )  # fmt: skip
    apart = g_char != s_char or g_alone != s_alone or g_gap != s_gap
    clean, before = begin, previous
    i, size = begin, len(cps)
    while i < size:
        value = _value(table, ascii_, cps[i])
        kind, char = value >> _SHIFT, value & _MASK
        if value < 0:
            kind, char = (_LETTER if value == -1 else _PUNCT), cps[i]
        if kind == _LETTER:
            if node == 0 and previous == _LETTER and g_node == 0 and s_node == 0:
                # Nothing goes on and nothing begins before the word's end.
                while True:
                    g_char = np.int64(char)
                    i += 1
                    if i == size:
                        break
                    value = _value(table, ascii_, cps[i])
                    if value >> _SHIFT != _LETTER:
                        break
                    char = value & _MASK
                g_alone, g_gap = np.int64(0), np.int64(GAP_NONE)
                s_char, s_alone, s_gap = g_char, g_alone, g_gap
                apart = False
                continue
            if node != 0:
                node = advance(plain, node, np.int32(char))
                if plain[plain_pairs + 2 * node] & _HIT:
                    break
            if squeezes:
                initial = np.int64(previous != _LETTER)
                g_node, g_initials, g_char, g_alone = _letter(
                    squeezed, pairs, g_node, g_initials, g_char, g_alone, g_gap, char, initial
                )
                if apart:
                    s_node, s_initials, s_char, s_alone = _letter(
                        squeezed, pairs, s_node, s_initials, s_char, s_alone, s_gap, char, initial
                    )
                    apart = (
                        g_node != s_node or g_initials != s_initials or g_alone != s_alone
                    ) and (g_node != 0 or s_node != 0 or g_alone != s_alone)
                else:
                    s_node, s_initials, s_char, s_alone = g_node, g_initials, g_char, g_alone
                if g_node < 0 or s_node < 0:
                    break
                g_gap, s_gap = np.int64(GAP_NONE), np.int64(GAP_NONE)
            spaced = False
            previous = np.int64(kind)
        elif kind == _EXPAND:
            break
        elif kind != _DROP:
            if squeezes:
                gap = np.int64(GAP_SPACE if kind == _SPACE else GAP_PUNCT)
                g_gap = max(g_gap, gap)
                if char < 128 and SIGN_LETTER[char] != 0:
                    s_node, s_initials, s_char, s_alone = _letter(
                        squeezed, pairs, s_node, s_initials, s_char, s_alone, s_gap, char,
                        np.int64(1),
                    )  # fmt: skip
                    if s_node < 0:
                        break
                    s_gap = np.int64(GAP_NONE)
                    apart = True
                else:
                    s_gap = max(s_gap, gap)
            if not spaced:
                node = advance(plain, node, np.int32(32))
                if plain[plain_pairs + 2 * node] & _HIT:
                    break
                spaced = True
            previous = np.int64(kind)
            if node == home and g_node == 0 and s_node == 0:
                clean, before = i + 1, previous
                views[0, _CHAR], views[0, _ALONE], views[0, _GAP] = g_char, g_alone, g_gap
                views[1, _CHAR], views[1, _ALONE], views[1, _GAP] = s_char, s_alone, s_gap
        i += 1
    return clean, before, i


@njit(cache=True)
def _clean(plain, head):
    return (
        head[PREVIOUS] != _LETTER
        and head[2 + LAST] == 32
        and head[2 + NODE] == plain[ROOT_ASCII + 32]
        and head[2 + 4 * GAPS + NODE] == 0
        and head[2 + 4 * SIGNS + NODE] == 0
    )


@njit(cache=True)
def _skip(table, plain, squeezed, head, ring, mask, cps, begin):
    """Walk on from a clean state to the last clean place; return it, and how far hits are ruled
    out."""
    views = np.empty((2, 5), np.int64)
    for v in range(2):
        base = 2 + 4 * (GAPS + v)
        views[v, _CHAR], views[v, _GAP] = head[base + LAST], head[base + GAP]
        views[v, _ALONE] = ring[GAPS + v, (head[base + COUNT] - 1) & mask, ALONE]
    clean, before, seen = walk(table, plain, squeezed, views, head[PREVIOUS], cps, begin)
    if clean > begin:
        head[READ] += clean - begin
        head[PREVIOUS] = before
        at = head[READ] - 1
        kernel.push(head, ring, PLAIN, mask, np.int32(32), at, 1)
        head[2 + NODE] = plain[ROOT_ASCII + 32]
        for v in range(2):
            # The last symbol alone: a letter standing alone may still be repeated over the gap.
            base = 2 + 4 * (GAPS + v)
            char = np.int32(views[v, _CHAR])
            kernel.push(head, ring, GAPS + v, mask, char, at, 0)
            last = (head[base + COUNT] - 1) & mask
            ring[GAPS + v, last, ALONE] = views[v, _ALONE]
            ring[GAPS + v, last, INITIAL] = 0
            head[base + GAP] = views[v, _GAP]
    return clean, seen


@njit(cache=True)
def feed(table, plain, squeezed, entries, head, ring, cps, out):
    """Do what ``kernel.feed`` does with ``cps``: the same hits and, from here on, the same ones."""
    mask = ring.shape[1] - 1
    size = len(cps)
    found, i = 0, 0
    room = len(out) // 2
    skims = size >= WORTH and possible(plain, squeezed)
    exact = 0  # up to here the kernel reads: there is a hit
    while i < size and found < room:
        if skims and i >= exact and size - i >= WORTH and _clean(plain, head):
            i, seen = _skip(table, plain, squeezed, head, ring, mask, cps, i)
            exact = seen + 1
            if i == size:
                break
        found = kernel.feed_one(
            table, plain, squeezed, entries, head, ring, mask, cps[i], out, found
        )
        i += 1
    return i, found


@njit(cache=True)
def empty(table, plain, squeezed, cps):
    """Return whether a text by itself certainly holds no hit. It has to end with a separator."""
    if not possible(plain, squeezed):
        return False
    views = np.zeros((2, 5), np.int64)
    return walk(table, plain, squeezed, views, np.int64(_PUNCT), cps, 0)[2] == len(cps)
