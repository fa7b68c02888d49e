"""What a character becomes before matching: context-free, so that chunks concatenate.

NFKD, case folding, removal of diacritics and of invisible characters, then the look-alike letter of
UTS #39 (confusables). Everything that is neither letter nor digit separates words. Because each
character is treated alone, ``normalise(a + b)`` is the concatenation of both parts, which is what
lets a stream be judged chunk by chunk with the whole text's verdict. The table is built by
``scripts/build_unicode_tables.py``.
"""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LETTER, SPACE, PUNCT, DROP, EXPAND = range(5)
CLASS_SHIFT = 24
BASE_MASK = (1 << CLASS_SHIFT) - 1
_ITSELF_LETTER, _ITSELF_PUNCT = -1, -2


class FoldTable(NamedTuple):
    """Two-level table: ``values[pages[cp >> 8] * 256 + (cp & 255)]`` is class << 24 | character.

    Class EXPAND points into ``expansions``: a count, then that many encoded values.
    """

    pages: NDArray[np.uint16]
    values: NDArray[np.int32]
    expansions: NDArray[np.int32]


@cache
def fold_table() -> FoldTable:
    """Load the shipped table, once per process."""
    with (files("prism.text") / "data" / "unicode.npz").open("rb") as handle:
        arrays = np.load(handle, allow_pickle=False)
        return FoldTable(arrays["pages"], arrays["values"], arrays["expansions"])


@cache
def fold_block() -> NDArray[np.int32]:
    """Return the table as one int32 block for kernels: offsets of the three arrays, the arrays."""
    parts = [array.astype(np.int32) for array in fold_table()]
    starts = np.cumsum([3, *(len(part) for part in parts)])[:3]
    return np.concatenate([starts.astype(np.int32), *parts])


@cache
def longest_expansion() -> int:
    """Return how many characters one code point is read as at most."""
    longest, at = 1, 0
    expansions = fold_table().expansions.tolist()
    while at < len(expansions):
        longest = max(longest, expansions[at])
        at += 1 + expansions[at]
    return longest


@cache
def fold_digest() -> str:
    """Return what tells this table from any other (SHA-256)."""
    return hashlib.sha256(fold_block().tobytes()).hexdigest()


def fold_code_point(cp: int) -> tuple[tuple[int, int], ...]:
    """Return ``((class, character), …)`` for one code point; empty where it is dropped."""
    table = fold_table()
    value = int(table.values[int(table.pages[cp >> 8]) * 256 + (cp & 255)])
    if value == _ITSELF_LETTER:
        return ((LETTER, cp),)
    if value == _ITSELF_PUNCT:
        return ((PUNCT, cp),)
    kind, base = value >> CLASS_SHIFT, value & BASE_MASK
    if kind == DROP:
        return ()
    if kind != EXPAND:
        return ((kind, base),)
    count = int(table.expansions[base])
    codes = table.expansions[base + 1 : base + 1 + count].tolist()
    return tuple((code >> CLASS_SHIFT, code & BASE_MASK) for code in codes)


def normalise_phrase(text: str) -> str:
    """Return the words of ``text`` as the matcher compares them, joined by single spaces.

    Empty when nothing is left to compare (punctuation or invisible characters only).
    """
    return " ".join("".join(map(_folded, text)).split())


@lru_cache(4096)
def _folded(char: str) -> str:
    """Return what ``char`` is compared as: letters, and a blank for whatever parts words."""
    return "".join(
        chr(base) if kind == LETTER else " " for kind, base in fold_code_point(ord(char))
    )


def code_points(text: str) -> NDArray[np.int32]:
    """Return the code points of ``text`` as int32, shape ``[len(text)]``; lone surrogates kept."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.int32)
