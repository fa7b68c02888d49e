# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202
"""Text in which no phrase comes near, read without a record of it.

:mod:`prism.match.kernel` keeps the last symbols of three views, should a hit have to be placed and
verified. Most words of most texts begin no pattern at all, or stop being one after some letters.
Here the automata alone are walked, their nodes in registers: a hit, or what isn't followed here,
sends the kernel back to the last *clean* place, before which nothing is begun in any view that goes
on behind it. Both readers leave the same state there but for symbols that no hit can reach any
more. From clean places on, three letters tell of most words that they open nothing
(:func:`openings`), and the automata aren't walked either.
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

# What words may open: codes of the ASCII characters (26 letters, two sorts of separators, or 0),
# and a bit for each three codes, or for two in the plain view alone.
_A, _Z, _SPACES, _PUNCTS, _PLAINLY = 1, 26, 27, 28, 29
_THREES = 128
OPENINGS = _THREES + 32 * 32

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
def _code(table, cp):
    value = table[table[1] + table[table[0]] * 256 + cp]
    kind, char = value >> _SHIFT, value & _MASK
    if value < 0:
        kind, char = (_LETTER if value == -1 else _PUNCT), np.int32(cp)
    if kind == _LETTER:
        return char - 96 if 97 <= char <= 122 else 0
    if kind not in (_SPACE, _PUNCT) or (char < 128 and SIGN_LETTER[char] != 0):
        return 0
    return _SPACES if kind == _SPACE else _PUNCTS


@njit(cache=True)
def _goes_on(plain, squeezed, codes):
    """Return whether anything is begun, or found, behind a text's first characters: in the plain
    view, in any."""
    home = child_of(plain, np.int32(0), np.int32(32))
    node, rest, other = home, home, np.int32(0)
    initials, last, alone, gap = np.int64(0), np.int64(-1), np.int64(0), np.int64(GAP_SPACE)
    for i in range(len(codes)):
        char = np.int32(codes[i] + 96 if codes[i] <= _Z else 32)
        node, rest = advance(plain, node, char), np.int32(0) if char != 32 else home
        if plain[plain[PAIRS] + 2 * node] & _HIT:
            return True, True
        if char != 32 and squeezed[PATTERNS] != 0:
            other, initials, last, alone = _letter(
                squeezed, squeezed[PAIRS], other, initials, last, alone, gap, char, np.int64(i == 0)
            )
            gap = np.int64(GAP_NONE)
            if other < 0:
                return True, True
    return node != rest, node != rest or other != 0


@njit(cache=True)
def openings(table, plain, squeezed):
    """Return what of words may open a pattern, by their first three characters.

    int32 ``[OPENINGS]``: a code for each of ASCII; then, for each two codes, a bit for each third.
    It is 0 where the three are certainly no beginning; bit ``_PLAINLY`` where the first word, of
    one or two letters, is none in the plain view.
    """
    opens = np.full(OPENINGS, -1, np.int32)
    for cp in range(128):
        opens[cp] = _code(table, cp)
    codes = np.zeros(3, np.int32)
    for first in range(_A, _Z + 1):
        codes[0] = first
        codes[1] = _SPACES
        if not _goes_on(plain, squeezed, codes[:2])[0]:
            opens[_THREES + (first << 5 | _SPACES)] &= ~(1 << _PLAINLY)
            opens[_THREES + (first << 5 | _PUNCTS)] &= ~(1 << _PLAINLY)
        for second in range(_A, _Z + 1):
            at = _THREES + (first << 5 | second)
            codes[1] = second
            for third in range(_A, _PUNCTS + 1):
                codes[2] = third
                plainly, goes_on = _goes_on(plain, squeezed, codes)
                if not goes_on:
                    opens[at] &= ~(1 << third)
                if third == _SPACES and not plainly:
                    opens[at] &= ~(1 << _PLAINLY)
    return opens


@njit(cache=True, inline="always")
def _code_at(opens, cps, i):
    return opens[cps[i]] if i < len(cps) and cps[i] < 128 else np.int32(0)


@njit(cache=True)
def _opens_nothing(opens, cps, i):
    """Return where the word at ``cps[i]`` ends if it surely opens nothing, or 0; and if it is one
    letter."""
    first, second, third = cps[i], cps[i + 1], cps[i + 2]
    if (first | second | third) >= 128:
        return 0, np.int64(0)
    first, second, third = opens[first], opens[second], opens[third]
    may = opens[_THREES + (first << 5 | second)]
    if not may >> third & 1:
        k = i + 2
        while 0 < third <= _Z:
            k += 1
            third = _code_at(opens, cps, k)
        return (0 if third == 0 else k), np.int64(0)
    # One or two letters. What sees through spacing goes on with the next word.
    if may >> _PLAINLY & 1 or (second <= _Z and third <= _Z):
        return 0, np.int64(0)
    k = i + 2
    code = third
    while code > _Z:
        k += 1
        code = _code_at(opens, cps, k)
    if code == 0:
        return 0, np.int64(0)
    if second <= _Z:
        return (0 if may >> code & 1 else i + 2), np.int64(0)
    more = _code_at(opens, cps, k + 1)
    if code == first or opens[_THREES + (first << 5 | code)] >> more & 1:
        return 0, np.int64(0)
    return i + 1, np.int64(1)


@njit(cache=True)
def walk(table, opens, plain, squeezed, views, previous, cps, begin):
    """Walk the automata from a clean place.

    ``opens``: see :func:`openings`. ``views`` int64 [2, 5]: the squeezed views there; ``previous``:
    the class of the last character. Returns the last clean place, the class of the character before
    it, and where a hit is, or what isn't followed here: ``len(cps)`` if nowhere. Leaves in
    ``views`` how they are at the clean place.
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
        if i == clean:
            # Word by word, as long as they open nothing.
            while i + 2 < size:
                k, alone = _opens_nothing(opens, cps, i)
                if k == 0:
                    break
                g_char, g_alone, g_gap = (
                    np.int64(opens[cps[k - 1]] + 96),
                    alone,
                    np.int64(GAP_PUNCT),
                )
                code = _code_at(opens, cps, k)
                while code > _Z:
                    previous = np.int64(_SPACE if code == _SPACES else _PUNCT)
                    if code == _SPACES:
                        g_gap = np.int64(GAP_SPACE)
                    k += 1
                    code = _code_at(opens, cps, k)
                i = k
            if i > clean:
                s_char, s_alone, s_gap = g_char, g_alone, g_gap
                apart = False
                clean, before = i, previous
                views[0, _CHAR], views[0, _ALONE], views[0, _GAP] = g_char, g_alone, g_gap
                views[1, _CHAR], views[1, _ALONE], views[1, _GAP] = s_char, s_alone, s_gap
                if i == size:
                    break
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
def _skip(table, opens, plain, squeezed, head, ring, mask, cps, begin):
    """Walk on from a clean state to the last clean place; return it, and how far hits are ruled
    out."""
    views = np.empty((2, 5), np.int64)
    for v in range(2):
        base = 2 + 4 * (GAPS + v)
        views[v, _CHAR], views[v, _GAP] = head[base + LAST], head[base + GAP]
        views[v, _ALONE] = ring[GAPS + v, (head[base + COUNT] - 1) & mask, ALONE]
    clean, before, seen = walk(table, opens, plain, squeezed, views, head[PREVIOUS], cps, begin)
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
def feed(table, opens, plain, squeezed, entries, head, ring, cps, out):
    """Do what ``kernel.feed`` does with ``cps``: the same hits and, from here on, the same ones."""
    mask = ring.shape[1] - 1
    size = len(cps)
    found, i = 0, 0
    room = len(out) // 2
    skims = size >= WORTH and possible(plain, squeezed)
    exact = 0  # up to here the kernel reads: there is a hit
    while i < size and found < room:
        if skims and i >= exact and size - i >= WORTH and _clean(plain, head):
            i, seen = _skip(table, opens, plain, squeezed, head, ring, mask, cps, i)
            exact = seen + 1
            if i == size:
                break
        found = kernel.feed_one(
            table, plain, squeezed, entries, head, ring, mask, cps[i], out, found
        )
        i += 1
    return i, found


@njit(cache=True)
def empty(table, opens, plain, squeezed, cps):
    """Return whether a text by itself certainly holds no hit. It has to end with a separator."""
    if not possible(plain, squeezed):
        return False
    views = np.zeros((2, 5), np.int64)
    seen = walk(table, opens, plain, squeezed, views, np.int64(_PUNCT), cps, 0)[2]
    return seen == len(cps)
