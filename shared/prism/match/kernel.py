# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202
"""The compiled inner loop: fold characters, walk the automata, check what they find.

Three views of one stream are walked at once:

* ``PLAIN``: words separated by one space; whatever matches here matches as written.
* ``GAPS``: separators are gaps inside one long word; digits may stand for letters; repeats
collapse.
* ``SIGNS``: as ``GAPS``, but punctuation that resembles a letter (``@ $ ! …``) is read as the
letter.

The two squeezed views share one automaton over *classes* (``1 l i`` are one class), so a hit there
is only a candidate; ``_verify`` compares it with the phrase itself. Every step depends on the
characters read so far and on nothing else, hence any chunking gives the same hits.

State of one stream: ``head`` int64 ``[HEAD]`` and ``ring`` int64 ``[3, R, FIELDS]``, the last ``R``
symbols of each view, ``R`` a power of two above the longest pattern.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prism.jit import njit
from prism.match.automaton import (
    ENDS,
    FREE,
    LOOSE,
    OPEN,
    PAIRS,
    SUFFIX,
    TERMINAL,
    advance,
    child_of,
    depth_of,
    fail_of,
    held_at,
    path_of,
)
from prism.match.entries import (
    BOUNDED,
    BOUNDS,
    FLAGS,
    LEET,
    LETTERS,
    OF_PATTERN,
    REPEATS,
    RUN_SHIFT,
    SPACING,
    SYMBOLS,
    TEXT,
    WORD,
    letter_at,
)

PLAIN, GAPS, SIGNS = 0, 1, 2
VIEWS = 3
# head: characters read, class of the last folded character, then four fields per view
READ, PREVIOUS = 0, 1
NODE, COUNT, GAP, LAST = 0, 1, 2, 3
HEAD = 2 + 4 * VIEWS
# ring: where the symbol starts and ends in the source, its character, its run length, gap before
# it, whether a word may begin at it, whether each letter of its run stands alone
START, END, CHAR, RUN, GAP_BEFORE, INITIAL, ALONE = range(7)
FIELDS = 7
GAP_NONE, GAP_PUNCT, GAP_SPACE = 0, 1, 2
# Joining or splitting words is taken for a disguise only when so many letters agree that ordinary
# neighbours ("the rapist") do not; single letters and pairs set apart always are.
LONG_ENOUGH, LONG_ENOUGH_PUNCT, SHORT_PIECE = 10, 6, 2

_LETTER, _SPACE, _PUNCT, _DROP, _EXPAND = 0, 1, 2, 3, 4
_SHIFT = 24
_MASK = (1 << 24) - 1


SIGNS_AS_LETTERS = {"@": "a", "$": "s", "!": "i", "|": "i", "+": "t", "(": "c", "#": "h"}
DIGITS_AS_LETTERS = {
    "0": "o", "1": "i", "2": "z", "3": "e", "4": "a", "5": "s", "6": "g", "7": "t", "8": "b", "9":
    "g",
}  # fmt: skip


def _sign_table() -> NDArray[np.int32]:
    table = np.zeros(128, np.int32)
    for sign, letter in SIGNS_AS_LETTERS.items():
        table[ord(sign)] = ord(letter)
    return table


def _class_table() -> NDArray[np.int32]:
    table = np.arange(128, dtype=np.int32)
    for char, letter in {**DIGITS_AS_LETTERS, **SIGNS_AS_LETTERS, "l": "i"}.items():
        table[ord(char)] = ord(letter)
    return table


SIGN_LETTER = _sign_table()
LETTER_CLASS = _class_table()

# What is done for every character: a call with so many arrays takes longer than what it does.
_inlined = njit(cache=True, forceinline=True)


@njit(cache=True)
def _verify(entries, entry, ring, view, count, mask):
    """Return the disguises (bits) by which the last symbols spell ``entry``, or -1.

    0 means that no disguise is needed: then ``PLAIN`` has the match already.
    """
    text = entries[BOUNDS] + entries[entries[TEXT] + entry]
    begin = entries[SYMBOLS] + entries[text]
    length = entries[text + 1] - entries[text]
    flags = entries[entries[FLAGS] + entry]
    first = count - length
    if flags & BOUNDED and not ring[view, first & mask, INITIAL]:
        return -1
    via = 0
    piece, longest = 0, 0
    spaces, puncts, joined = 0, 0, 0
    letters = 0
    for i in range(length):
        at = (first + i) & mask
        char = ring[view, at, CHAR]
        symbol = letter_at(entries, begin, length, flags, i)
        if char != symbol & LETTERS:
            # Only a digit or a sign stands for another letter: "fail" is not "fall".
            if not 48 <= char <= 57 and not (char < 128 and SIGN_LETTER[char] != 0):
                return -1
            via |= LEET
        run = ring[view, at, RUN]
        wanted = symbol >> RUN_SHIFT
        if run < wanted:
            return -1
        if run > wanted:
            via |= REPEATS
        letters += wanted
        if i > 0:
            gap = ring[view, at, GAP_BEFORE]
            if symbol & WORD:
                if gap == GAP_NONE:
                    joined += 1
            elif gap == GAP_SPACE:
                spaces += 1
            elif gap == GAP_PUNCT:
                puncts += 1
            if gap != GAP_NONE:
                longest = max(longest, piece)
                piece = 0
        piece += wanted
    longest = max(longest, piece)
    if spaces or puncts or joined:
        via |= SPACING
        if longest > SHORT_PIECE:
            if (spaces or joined) and letters < LONG_ENOUGH:
                return -1
            if letters < LONG_ENOUGH_PUNCT:
                return -1
    if via & ~flags & (SPACING | LEET | REPEATS):
        return -1
    return via


@njit(cache=True)
def _report(squeezed, entries, head, ring, view, bounded, mask, out, found):
    """Check every squeezed pattern that ends at the view's node; return the new number of hits."""
    base = 2 + 4 * view
    node = np.int32(head[base + NODE])
    pairs = squeezed[PAIRS]
    word = squeezed[pairs + 2 * node]
    while word & (TERMINAL | SUFFIX):
        if word & TERMINAL:
            pattern = entries[OF_PATTERN] + path_of(squeezed, node)
            for entry in range(entries[pattern], entries[pattern + 1]):
                if (entries[entries[FLAGS] + entry] & BOUNDED != 0) != bounded:
                    continue
                via = _verify(entries, entry, ring, view, head[base + COUNT], mask)
                if via > 0 and found < len(out):
                    length = depth_of(squeezed, node)
                    last = (head[base + COUNT] - 1) & mask
                    out[found, 0] = 1
                    out[found, 1] = entry
                    out[found, 2] = ring[view, (head[base + COUNT] - length) & mask, START]
                    out[found, 3] = ring[view, last, END]
                    out[found, 4] = via
                    found += 1
        if not word & SUFFIX:
            break
        node = fail_of(squeezed, node)
        word = squeezed[pairs + 2 * node]
    return found


@njit(cache=True)
def push(head, ring, view, mask, char, at, initial):
    """Add a symbol to a view's record."""
    base = 2 + 4 * view
    i = head[base + COUNT] & mask
    gap = head[base + GAP]
    ring[view, i, START] = at
    ring[view, i, END] = at + 1
    ring[view, i, CHAR] = char
    ring[view, i, RUN] = 1
    ring[view, i, GAP_BEFORE] = gap
    ring[view, i, INITIAL] = initial
    ring[view, i, ALONE] = head[base + COUNT] == 0 or gap != GAP_NONE
    head[base + COUNT] += 1
    head[base + GAP] = GAP_NONE
    head[base + LAST] = char


@_inlined
def _plain(plain, head, ring, mask, char, at, out, found):
    base = 2 + 4 * PLAIN
    push(head, ring, PLAIN, mask, char, at, 1)
    node = advance(plain, np.int32(head[base + NODE]), char)
    head[base + NODE] = node
    pairs = plain[PAIRS]
    word = plain[pairs + 2 * node]
    while word & (TERMINAL | SUFFIX):
        if word & TERMINAL and found < len(out):
            count = head[base + COUNT]
            first = count - depth_of(plain, node)
            if ring[PLAIN, first & mask, CHAR] == 32:
                first += 1
            last = count - 1
            if char == 32:
                last -= 1
            out[found, 0] = 0
            out[found, 1] = path_of(plain, node)
            out[found, 2] = ring[PLAIN, first & mask, START]
            out[found, 3] = ring[PLAIN, last & mask, END]
            out[found, 4] = 0
            found += 1
        if not word & SUFFIX:
            break
        node = fail_of(plain, node)
        word = plain[pairs + 2 * node]
    return found


@njit(cache=True)
def _advance_live(squeezed, ring, view, count, mask, node, symbol):
    """Return the view's node after its last symbol, leaving out what can't become a hit.

    What begins within a word can't where every pattern begins with one, so most of a text is read
    at the root. Where the symbols of ``node`` begin a word, so do those of its child.
    """
    if not held_at(squeezed, 0) & FREE:
        if node != 0 or ring[view, (count - 1) & mask, INITIAL]:
            child = child_of(squeezed, node, symbol)
            if child != 0 or node == 0:
                return child
        at = count - 1
        first = count - depth_of(squeezed, node) if node != 0 else count
        while at >= first and not ring[view, at & mask, INITIAL]:
            at -= 1
        if at < first:
            return np.int32(0)
    node = advance(squeezed, node, symbol)
    while node != 0 and not held_at(squeezed, node) & FREE:
        if ring[view, (count - depth_of(squeezed, node)) & mask, INITIAL]:
            break
        node = fail_of(squeezed, node)
    return node


@_inlined
def _letter(squeezed, entries, head, ring, view, mask, char, at, initial, out, found):
    base = 2 + 4 * view
    last = (head[base + COUNT] - 1) & mask
    # A repeat lengthens the symbol. Over a gap only letters standing alone do ("b o o k"): in
    # "buzz z3phyr" the last z begins a word of its own.
    if head[base + LAST] == char and (head[base + GAP] == GAP_NONE or ring[view, last, ALONE]):
        ring[view, last, RUN] += 1
        if head[base + GAP] == GAP_NONE:
            ring[view, last, ALONE] = 0
        ring[view, last, END] = at + 1
        head[base + GAP] = GAP_NONE
    else:
        push(head, ring, view, mask, char, at, initial)
        symbol = np.int32(LETTER_CLASS[char] if char < 128 else char)
        node = np.int32(head[base + NODE])
        head[base + NODE] = _advance_live(
            squeezed, ring, view, head[base + COUNT], mask, node, symbol
        )
    return _report(squeezed, entries, head, ring, view, False, mask, out, found)


@_inlined
def _fold_one(plain, squeezed, entries, head, ring, mask, kind, char, at, out, found):
    initial = head[PREVIOUS] != _LETTER
    if kind == _LETTER:
        found = _plain(plain, head, ring, mask, char, at, out, found)
        for view in (GAPS, SIGNS):
            found = _letter(
                squeezed, entries, head, ring, view, mask, char, at, initial, out, found
            )
    else:
        for view in (GAPS, SIGNS):
            base = 2 + 4 * view
            if head[base + GAP] == GAP_NONE:
                found = _report(squeezed, entries, head, ring, view, True, mask, out, found)
            if view == SIGNS and char < 128 and SIGN_LETTER[char] != 0:
                found = _letter(
                    squeezed, entries, head, ring, view, mask, char, at, True, out, found
                )
            else:
                gap = GAP_SPACE if kind == _SPACE else GAP_PUNCT
                head[base + GAP] = max(head[base + GAP], gap)
        if head[2 + LAST] != 32:
            found = _plain(plain, head, ring, mask, np.int32(32), at, out, found)
    head[PREVIOUS] = kind
    return found


@njit(cache=True)
def feed_one(table, plain, squeezed, entries, head, ring, mask, cp, out, found):
    """Read one character; return the new number of rows in ``out`` (see ``feed``)."""
    at = head[READ]
    value = table[table[1] + table[table[0] + (cp >> 8)] * 256 + (cp & 255)]
    kind, char = value >> _SHIFT, value & _MASK
    if value < 0:
        kind, char = _LETTER if value == -1 else _PUNCT, np.int32(cp)
    if kind == _EXPAND:
        expansion = table[2] + char
        for k in range(table[expansion]):
            code = table[expansion + 1 + k]
            kind, char = code >> _SHIFT, np.int32(code & _MASK)
            found = _fold_one(
                plain, squeezed, entries, head, ring, mask, kind, char, at, out, found
            )
    elif kind != _DROP:
        char = np.int32(char)
        found = _fold_one(plain, squeezed, entries, head, ring, mask, kind, char, at, out, found)
    head[READ] += 1
    return found


@njit(cache=True)
def feed(table, plain, squeezed, entries, head, ring, cps, begin, out):
    """Read ``cps[begin:]`` until the end or until ``out`` may overflow.

    ``out`` int64 ``[m, 5]`` gets rows (kind, pattern or entry, start, end, disguises).
    Returns how far it read and how many rows it wrote.
    """
    mask = ring.shape[1] - 1
    found = 0
    i = begin
    room = len(out) // 2
    while i < len(cps) and found < room:
        found = feed_one(table, plain, squeezed, entries, head, ring, mask, cps[i], out, found)
        i += 1
    return i, found


@njit(cache=True)
def finish(plain, squeezed, entries, head, ring, out):
    """Read the end of the text, which separates words; return the number of hits."""
    mask = ring.shape[1] - 1
    return _fold_one(
        plain, squeezed, entries, head, ring, mask, _SPACE, np.int32(32), head[READ], out, 0
    )


@njit(cache=True)
def open_from(plain, squeezed, head, ring):
    """Return the first character of the source that an unfinished, held hit may still need."""
    mask = ring.shape[1] - 1
    result = head[READ]
    base = 2 + 4 * PLAIN
    node = np.int32(head[base + NODE])
    while node != 0:
        if held_at(plain, node) & OPEN:
            first = head[base + COUNT] - depth_of(plain, node)
            if ring[PLAIN, first & mask, CHAR] == 32:
                first += 1
            if first < head[base + COUNT]:
                result = min(result, ring[PLAIN, first & mask, START])
                break
        node = fail_of(plain, node)
    for view in (GAPS, SIGNS):
        base = 2 + 4 * view
        node = np.int32(head[base + NODE])
        while node != 0:
            bits = held_at(squeezed, node)
            first = (head[base + COUNT] - depth_of(squeezed, node)) & mask
            waiting = bits & ENDS and head[base + GAP] == GAP_NONE
            if (bits & LOOSE or ring[view, first, INITIAL]) and (bits & OPEN or waiting):
                result = min(result, ring[view, first, START])
                break
            node = fail_of(squeezed, node)
    return result


@njit(cache=True)
def begin(plain, head, ring):
    """Set a zeroed state to the start of a text, which separates words."""
    head[PREVIOUS] = _PUNCT
    push(head, ring, PLAIN, ring.shape[1] - 1, np.int32(32), 0, 1)
    head[2 + NODE] = advance(plain, np.int32(0), np.int32(32))
