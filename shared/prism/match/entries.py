# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202
"""What is verified behind a hit of the squeezed automaton: the phrases themselves, in one block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prism.jit import njit

# An entry's flags: the disguises that it sees through, and whether it begins and ends with words.
SPACING, LEET, REPEATS, BOUNDED = 1, 2, 4, 8
# How an entry's text is read: backwards, in ROT13.
REVERSED, ROTATED = 16, 32
# Entries block (int32): five offsets, then of_pattern [p + 1], text [e], flags [e], bounds [t + 1]
# and the symbols of the texts: the letter, ``WORD`` where a new word begins, how many in a row.
# Texts are shared: an entry's flags say whether its own is read backwards or in ROT13.
OF_PATTERN, TEXT, FLAGS, BOUNDS, SYMBOLS = range(5)
WORD, RUN_SHIFT = 1 << 21, 22
LETTERS = WORD - 1


def pack_entries(*parts: NDArray[np.int32]) -> NDArray[np.int32]:
    """Lay out the phrases behind each squeezed pattern in one block, read-only."""
    starts = np.cumsum([5, *(len(part) for part in parts)])
    block: NDArray[np.int32] = np.concatenate([starts[:5].astype(np.int32), *parts])
    block.flags.writeable = False
    return block


def unpack_entries(
    entries: NDArray[np.int32],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Return the phrases behind each squeezed pattern as plain arrays, each entry spelled out.

    They are: the first entry of each pattern ``[p + 1]``; each entry's first symbol ``[e + 1]``;
    its disguises and ``BOUNDED`` ``[e]``; and per symbol the letter, how many in a row, and 1 where
    a new word begins.
    """
    of_pattern, text, flags, bounds, _ = np.split(entries, entries[1:5].tolist())
    of_pattern = of_pattern[5:]
    offset = np.zeros(len(text) + 1, np.int32)
    np.cumsum(np.diff(bounds)[text], out=offset[1:])
    symbols = np.zeros(3 * int(offset[-1]), np.int32)
    _spell_entries(entries, offset, symbols)
    return of_pattern, offset, flags & (REVERSED - 1), symbols


@njit(cache=True)
def rotated(symbol):
    """Return an ASCII letter in ROT13; anything else as it is."""
    if 97 <= symbol <= 122:
        return (symbol - 84) % 26 + 97
    if 65 <= symbol <= 90:
        return (symbol - 52) % 26 + 65
    return symbol


@njit(cache=True)
def letter_at(symbols, begin, size, flags, i):
    """Return symbol ``i`` of the text ``symbols[begin:begin + size]``, read as ``flags`` say."""
    at = begin + i
    if flags & REVERSED:
        # A word's last letter is now its first.
        at = begin + size - 1 - i
        word = symbols[at + 1] & WORD if i > 0 else 0
        symbol = symbols[at] & ~WORD | word
    else:
        symbol = symbols[at]
    if flags & ROTATED:
        symbol += rotated(symbol & LETTERS) - (symbol & LETTERS)
    return symbol


@njit(cache=True)
def _spell_entries(entries, offset, symbols):
    for entry in range(len(offset) - 1):
        at = entries[entries[TEXT] + entry] + entries[BOUNDS]
        size = entries[at + 1] - entries[at]
        for i in range(size):
            symbol = letter_at(
                entries, entries[SYMBOLS] + entries[at], size, entries[entries[FLAGS] + entry], i
            )
            out = 3 * (offset[entry] + i)
            symbols[out] = symbol & LETTERS
            symbols[out + 1] = symbol >> RUN_SHIFT
            symbols[out + 2] = 1 if symbol & WORD else 0
