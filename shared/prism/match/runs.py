# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202
"""Runs of base64 and hex, followed as far as ordinary text takes them.

A run is alive while its bytes may be readable text. It needs a reader in Python
(:mod:`prism.match.encoded`) only where it lives long enough to mean something.

State of one layer, as far as runs go, in one int64 array: ``SHARED`` fields, then ``RUN`` fields
for each of base64 and hex.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prism.jit import njit
from prism.text.decode import MIN_DECODED, base64_value

BASE64, HEX = 0, 1

PREVIOUS = 0  # the last character
SHARED = 1
# Per encoding: who reads it; the text so far ends inside a run; a run is alive.
READER, OPEN, ALIVE = 0, 1, 2
# Of the run that is alive: where it begins, the character before it, whether that was in a run too.
FIRST, BEFORE, INSIDE = 3, 4, 5
# Of its bytes: bits of the next one and their number; characters decoded; where the first of them
# begins; where the pending bits begin; the first byte of an unfinished character and its place.
BITS, COUNT, DECODED, DECODED_AT, PENDING_AT, LEAD, LEAD_AT = range(6, 13)
RUN = 13
HERE, ELSEWHERE, NOWHERE = 0, 1, 2  # values of READER
OF_BASE64, OF_HEX = SHARED, SHARED + RUN

# Tables: what characters are, bits per ASCII character; letters' values; who can be
# seen; and whom a regex sees as they are.
WORD, ALNUM, SPACE, DOOR, TRIGGER, HEX_MORE = 1, 2, 4, 8, 16, 32
CLASS, SIXES, FOURS, PRINTABLE, PLAIN = 0, 128, 256, 384, 384 + 0x10000
FIXED = PLAIN + 0x10000

_GOES_ON, _DEAD, _UNSURE = 0, 1, 2


def _classes() -> NDArray[np.uint8]:
    table = np.zeros(128, np.uint8)
    for code in range(128):
        char = chr(code)
        table[code] = (
            WORD * (char.isalnum() or char == "_")
            | ALNUM * char.isalnum()
            | SPACE * char.isspace()
            | DOOR * (char in "/+-_")
            | TRIGGER * (char in "%&\\")
            | HEX_MORE * (char in "xX,:;\\-" or char.isspace())
        )
    return table


def _values(alphabet: dict[str, int]) -> NDArray[np.uint8]:
    table = np.full(128, 255, np.uint8)
    for char, value in alphabet.items():
        table[ord(char)] = value
    return table


def fixed_tables(plain: bytes) -> NDArray[np.int32]:
    """Return the tables that hold for every policy, in one block [``FIXED``].

    ``plain`` [65536]: 1 where a regex sees the character itself.
    """
    sixes = {c: v for c in map(chr, range(128)) if (v := base64_value(c)) is not None}
    fours = {c: int(c, 16) for c in "0123456789abcdefABCDEF"}
    printable = np.array([chr(code).isprintable() for code in range(0x10000)], np.uint8)
    parts = [_classes(), _values(sixes), _values(fours), printable, np.frombuffer(plain, np.uint8)]
    table: NDArray[np.int32] = np.concatenate(parts).astype(np.int32)
    return table


@njit(cache=True)
def _put(state, run, value, width, at, fixed):
    """Read one character worth ``width`` bits, as ``BytesReader.put`` does."""
    if state[run + COUNT] == 0:
        state[run + PENDING_AT] = at
    bits = (state[run + BITS] << width) | value
    count = state[run + COUNT] + width
    if count >= 8:
        count -= 8
        byte = bits >> count
        bits &= (1 << count) - 1
        start = state[run + PENDING_AT]
        state[run + PENDING_AT] = at
        if state[run + LEAD] == 0:
            if byte < 128:
                if not (32 <= byte < 127 or byte == 9 or byte == 10 or byte == 13):
                    return _DEAD
                if state[run + DECODED] == 0:
                    state[run + DECODED_AT] = start
                state[run + DECODED] += 1
            elif 0xC2 <= byte <= 0xF4:
                state[run + LEAD] = byte
                state[run + LEAD_AT] = start
            else:
                return _DEAD
        else:
            lead = state[run + LEAD]
            if lead > 0xDF:
                return _UNSURE
            if not 0x80 <= byte <= 0xBF:
                return _DEAD
            if not fixed[PRINTABLE + ((lead & 0x1F) << 6 | (byte & 0x3F))]:
                return _DEAD
            if state[run + DECODED] == 0:
                state[run + DECODED_AT] = state[run + LEAD_AT]
            state[run + DECODED] += 1
            state[run + LEAD] = 0
        if state[run + DECODED] >= MIN_DECODED:
            return _UNSURE
    state[run + BITS] = bits
    state[run + COUNT] = count
    if state[run + LEAD] != 0 and count >= 2 and bits >> (count - 2) != 2:
        return _DEAD
    return _GOES_ON


@njit(cache=True)
def held_by(state, run, end):
    """Return where what a run may still become begins, or ``end``; as ``_Run.open_from`` does."""
    if state[run + READER] != HERE or not state[run + ALIVE]:
        return end
    if state[run + DECODED] > 0:
        return state[run + DECODED_AT]
    if state[run + LEAD] != 0:
        return state[run + LEAD_AT]
    if state[run + COUNT] == 0:
        return end
    shift = 8 - state[run + COUNT]
    low = state[run + BITS] << shift
    high = low + (1 << shift) - 1
    if (low <= 0x7E and high >= 0x21) or (low <= 0xF4 and high >= 0xC2):
        return state[run + PENDING_AT]
    return end


@njit(cache=True)
def begin_run(state, run, at, before):
    state[run + ALIVE] = 1
    state[run + FIRST] = at
    state[run + BEFORE] = before
    state[run + INSIDE] = state[run + OPEN]
    state[run + BITS] = 0
    state[run + COUNT] = 0
    state[run + DECODED] = 0
    state[run + LEAD] = 0


@njit(cache=True)
def read_base64(state, run, char, at, before, fixed):
    """Follow runs of base64 by one character; return whether they need their own reader."""
    value = fixed[SIXES + char] if char < 128 else 255
    if value == 255:
        # A run this short ends at any gap, spaces too.
        state[run + ALIVE] = 0
        state[run + OPEN] = 0
        return False
    door = state[run + OPEN] and before < 128 and fixed[CLASS + before] & DOOR
    if state[run + ALIVE]:
        if door and state[run + COUNT] != 0:
            return True  # a second run begins inside the first
    elif door or not state[run + OPEN]:
        begin_run(state, run, at, before)
    state[run + OPEN] = 1
    if state[run + ALIVE]:
        what = _put(state, run, value, 6, at, fixed)
        if what == _UNSURE:
            return True
        if what == _DEAD:
            state[run + ALIVE] = 0
    return False


@njit(cache=True)
def is_space(char):
    return (
        char == 0x85
        or char == 0xA0
        or char == 0x1680
        or 0x2000 <= char <= 0x200A
        or char == 0x2028
        or char == 0x2029
        or char == 0x202F
        or char == 0x205F
        or char == 0x3000
    )


@njit(cache=True)
def read_hex(state, run, char, at, before, fixed):
    """Follow runs of hex digits by one character; return whether they need their own reader."""
    value = fixed[FOURS + char] if char < 128 else 255
    if value == 255:
        if not state[run + OPEN]:
            return False
        if char < 128:
            kind = fixed[CLASS + char]
            goes_on = kind & HEX_MORE
        else:
            kind = 0
            goes_on = is_space(char)
        if not goes_on:
            state[run + OPEN] = 0
            state[run + ALIVE] = 0
        elif state[run + ALIVE]:
            if kind & ALNUM:  # an x: 0x
                if state[run + COUNT] == 4 and state[run + BITS] == 0:
                    state[run + COUNT] = 0
                else:
                    state[run + ALIVE] = 0
            elif state[run + COUNT] != 0:
                state[run + ALIVE] = 0
        return False
    if before >= 128:
        # Whether that is a letter takes Unicode's tables.
        if not state[run + ALIVE]:
            begin_run(state, run, at, before)
        return True
    after_letter = fixed[CLASS + before] & ALNUM
    if not state[run + OPEN]:
        if after_letter:
            return False
        begin_run(state, run, at, before)
        state[run + OPEN] = 1
    elif not state[run + ALIVE] and (not after_letter or before == 120 or before == 88):
        begin_run(state, run, at, before)
    if state[run + ALIVE]:
        what = _put(state, run, value, 4, at, fixed)
        if what == _UNSURE:
            return True
        if what == _DEAD:
            state[run + ALIVE] = 0
    return False
