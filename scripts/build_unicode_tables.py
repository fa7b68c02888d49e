#!/usr/bin/env python3
"""Build ``shared/prism/text/data/unicode.npz``: what each code point becomes before matching.

Per code point, context-free: NFKD, case folding, removal of marks and invisible characters, then
the look-alike ("skeleton") letter. Sources: Python's ``unicodedata`` (Unicode 14 in Python 3.11)
and the UTS #39 confusables as carried by the PyPI package ``confusable-homoglyphs`` 3.3.1 (MIT; the
data is under the Unicode License V3). Run it only to change the tables; the result is shipped.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from importlib.resources import files
from pathlib import Path

import numpy as np

LETTER, SPACE, PUNCT, DROP, EXPAND = range(5)
CLASS_SHIFT = 24
OUT = Path(__file__).resolve().parent.parent / "shared/prism/text/data/unicode.npz"

# Diacritics that any script's letters can carry. Other Mn characters (Thai or Devanagari vowels,
# kana voicing) tell words apart, so they stay.
MARKS = [(0x300, 0x36F), (0x483, 0x489), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x20D0, 0x20FF)]
MARKS += [(0xFE00, 0xFE0F), (0xFE20, 0xFE2F), (0xE0100, 0xE01EF), (0x591, 0x5C7), (0x64B, 0x65F)]
# Default_Ignorable_Code_Point (DerivedCoreProperties.txt) that is not category Cf already.
IGNORABLE = [(0x34F, 0x34F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F)]
IGNORABLE += [(0x2065, 0x2065), (0x3164, 0x3164), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8)]
IGNORABLE += [(0xE0000, 0xE0FFF)]

# Letters drawn inside shapes and small capitals that have no decomposition.
EXTRA: dict[str, str] = {}
for first in (0x1F150, 0x1F170, 0x1F1E6):
    EXTRA.update({chr(first + i): chr(ord("a") + i) for i in range(26)})
EXTRA.update(zip("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ", "abcdefghijklmnoprstuvwyz", strict=True))
# Where several ASCII look-alikes exist, the one a reader reads.
EXTRA.update(
    {"ı": "i", "ɩ": "i", "ι": "i", "і": "i", "ӏ": "l", "ɑ": "a", "ø": "o", "ł": "l", "đ": "d"}
)
EXTRA.update({"ħ": "h", "ŧ": "t", "ƶ": "z", "ɢ": "g", "\u2800": " "})


def _inside(cp: int, ranges: list[tuple[int, int]]) -> bool:
    return any(low <= cp <= high for low, high in ranges)


def load_confusables() -> dict[str, str]:
    """Return non-ASCII character -> the ASCII letter or digit it looks like (letters preferred)."""
    raw = json.loads(
        (files("confusable_homoglyphs") / "confusables.json").read_text(encoding="utf-8")
    )
    table: dict[str, str] = {}
    for source, rows in raw.items():
        if len(source) != 1 or source.isascii():
            continue
        looks = {row["c"].casefold() for row in rows}
        ascii_looks = sorted(c for c in looks if len(c) == 1 and c.isascii() and c.isalnum())
        if not ascii_looks:
            continue
        letters = [c for c in ascii_looks if c.isalpha()]
        choice = (letters or ascii_looks)[0]
        if "l" in letters and source.casefold() != "i":
            choice = "l" if set(letters) <= {"i", "l"} else choice
        table[source] = choice
    return table


def fold(char: str, confusables: dict[str, str]) -> str:
    """Return what ``char`` becomes, before classes are assigned."""
    out = []
    for decomposed in unicodedata.normalize("NFKD", char):
        # A capital is read as what the capital looks like (Greek Ζ is a z, ζ is not), except that
        # the I/l pair follows the small letter. Patterns of cased scripts are compiled in both
        # cases.
        capital = "" if decomposed.isascii() else confusables.get(decomposed, "")
        if decomposed.casefold() != decomposed and capital and capital not in "il":
            out.append(capital)
            continue
        for folded in unicodedata.normalize("NFKD", decomposed.casefold()):
            if folded.isascii():
                out.append(folded)
            else:
                look = EXTRA.get(folded) or confusables.get(folded)
                # н has no Latin twin but Н has: both read as h, so that case stays immaterial.
                upper = folded.upper()
                out.append(look or (confusables.get(upper) if len(upper) == 1 else "") or folded)
    return "".join(out)


def classify(char: str) -> int:
    """Return LETTER, SPACE, PUNCT or DROP for one folded character."""
    cp = ord(char)
    if char in "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029":
        return SPACE
    category = unicodedata.category(char)
    if category in ("Cc", "Cf") or _inside(cp, MARKS) or _inside(cp, IGNORABLE):
        return DROP
    if category == "Zs":
        return SPACE
    return LETTER if category[0] in "LNM" else PUNCT


def build() -> dict[str, np.ndarray]:
    """Return the arrays: ``pages`` (uint16, one per 256 code points), ``values``,
    ``expansions``."""
    confusables = load_confusables()
    flat = np.zeros(0x110000, np.int32)
    expansions: list[int] = []
    seen: dict[tuple[int, ...], int] = {}
    for cp in range(0x110000):
        char = chr(cp)
        category = unicodedata.category(char)
        if category in ("Cn", "Co", "Cs") and not _inside(cp, IGNORABLE):
            flat[cp] = PUNCT << CLASS_SHIFT | cp
            continue
        codes = [(classify(c) << CLASS_SHIFT) | ord(c) for c in fold(char, confusables)]
        if classify(char) == DROP:
            codes = []
        codes = [c for c in codes if c >> CLASS_SHIFT != DROP]
        if not codes:
            flat[cp] = DROP << CLASS_SHIFT
        elif len(codes) == 1:
            flat[cp] = codes[0]
        else:
            key = tuple(codes)
            if key not in seen:
                seen[key] = len(expansions)
                expansions.extend([len(codes), *codes])
            flat[cp] = EXPAND << CLASS_SHIFT | seen[key]
    # Runs of identical pages (unassigned planes) differ only in their code points: identity pages
    # are stored as zeros and resolved by the reader as "PUNCT, itself" or "LETTER, itself".
    identity_punct = (PUNCT << CLASS_SHIFT) | np.arange(0x110000, dtype=np.int32)
    identity_letter = np.arange(0x110000, dtype=np.int32)
    flat = np.where(flat == identity_letter, -1, flat)
    flat = np.where(flat == identity_punct, -2, flat).astype(np.int32)
    values, pages = np.unique(flat.reshape(-1, 256), axis=0, return_inverse=True)
    return {
        "pages": pages.astype(np.uint16).reshape(-1),
        "values": values.astype(np.int32).reshape(-1),
        "expansions": np.array(expansions, np.int32),
        "unidata": np.array([int(p) for p in unicodedata.unidata_version.split(".")], np.int32),
    }


def main() -> int:
    """Write the table and say how large it is."""
    arrays = build()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(OUT, **arrays)  # type: ignore[arg-type]
    print(f"{OUT.name}: {OUT.stat().st_size} bytes, {len(arrays['values']) // 256} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
