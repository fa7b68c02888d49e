# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202
"""A layer's work on one piece of text in one compiled call.

It reads the phrases, and it follows the rarer readers only as far as ordinary text takes them: is
there an escape, may a regex begin, does a run of base64 or hex live long enough to mean something?
In ordinary text all answers are no and the call is all there is. Where one is yes, the reader in
question (in Python, and exact) takes over from the place this module names; this one never decides.

State of one layer, one int64 array: ``SHARED`` fields, ``RUN`` fields for each of base64 and hex,
the head and the ring of :mod:`prism.match.kernel`.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from prism.match import kernel
from prism.text.decode import MIN_DECODED, base64_value

BASE64, HEX = 0, 1
# What a call can say: an escape may begin in the text, which is then unread; a regex may begin in
# it; a run needs its own reader. ENCODED << BASE64, ENCODED << HEX.
ESCAPE, BEGINS, ENCODED = 1, 2, 4

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
HEAD = SHARED + 2 * RUN
RING = HEAD + kernel.HEAD
HERE, ELSEWHERE, NOWHERE = 0, 1, 2  # values of READER
_B, _H = SHARED, SHARED + RUN
_WIDTH = kernel.VIEWS * kernel.FIELDS

# Tables: what characters are, bits per ASCII character; letters' values; what regexes begin with.
WORD, ALNUM, SPACE, DOOR, TRIGGER, HEX_MORE = 1, 2, 4, 8, 16, 32
_CLASS, _SIXES, _FOURS, _PRINTABLE, _PLAIN = 0, 128, 256, 384, 384 + 2048
FIXED = _PLAIN + 0x10000
# Of ``begins``: a bit for each pair of ASCII characters; what each may do as the first; and the
# same of all other characters.
FIRSTS = 128 * 4
ANYWHERE, AT_BOUNDARY = 1, 2

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
    printable = np.array([chr(code).isprintable() for code in range(2048)], np.uint8)
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
            if not fixed[_PRINTABLE + ((lead & 0x1F) << 6 | (byte & 0x3F))]:
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
def _held(state, run, end):
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
def _start(state, run, at, before):
    state[run + ALIVE] = 1
    state[run + FIRST] = at
    state[run + BEFORE] = before
    state[run + INSIDE] = state[run + OPEN]
    state[run + BITS] = 0
    state[run + COUNT] = 0
    state[run + DECODED] = 0
    state[run + LEAD] = 0


@njit(cache=True)
def _base64(state, run, char, at, before, fixed):
    """Follow runs of base64 by one character; return whether they need their own reader."""
    value = fixed[_SIXES + char] if char < 128 else 255
    if value == 255:
        # A run this short ends at any gap, spaces too.
        state[run + ALIVE] = 0
        state[run + OPEN] = 0
        return False
    door = state[run + OPEN] and before < 128 and fixed[_CLASS + before] & DOOR
    if state[run + ALIVE]:
        if door and state[run + COUNT] != 0:
            return True  # a second run begins inside the first
    elif door or not state[run + OPEN]:
        _start(state, run, at, before)
    state[run + OPEN] = 1
    if state[run + ALIVE]:
        what = _put(state, run, value, 6, at, fixed)
        if what == _UNSURE:
            return True
        if what == _DEAD:
            state[run + ALIVE] = 0
    return False


@njit(cache=True)
def _is_space(char):
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
def _hex(state, run, char, at, before, fixed):
    """Follow runs of hex digits by one character; return whether they need their own reader."""
    value = fixed[_FOURS + char] if char < 128 else 255
    if value == 255:
        if not state[run + OPEN]:
            return False
        if char < 128:
            kind = fixed[_CLASS + char]
            goes_on = kind & HEX_MORE
        else:
            kind = 0
            goes_on = _is_space(char)
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
            _start(state, run, at, before)
        return True
    after_letter = fixed[_CLASS + before] & ALNUM
    if not state[run + OPEN]:
        if after_letter:
            return False
        _start(state, run, at, before)
        state[run + OPEN] = 1
    elif not state[run + ALIVE] and (not after_letter or before == 120 or before == 88):
        _start(state, run, at, before)
    if state[run + ALIVE]:
        what = _put(state, run, value, 4, at, fixed)
        if what == _UNSURE:
            return True
        if what == _DEAD:
            state[run + ALIVE] = 0
    return False


@njit(cache=True)
def _may_begin(cps, i, before, fixed, begins):
    """Return whether a regex may begin at ``cps[i]``, going by two characters."""
    char = cps[i]
    if char >= 128:
        return char >= 0x10000 or not fixed[_PLAIN + char] or begins[FIRSTS + 128]
    first = begins[FIRSTS + char]
    if first == 0:
        return False
    if before < 128:
        bounded = (fixed[_CLASS + before] ^ fixed[_CLASS + char]) & WORD
        if not bounded and not first & ANYWHERE:
            return False
    if i + 1 == len(cps) or cps[i + 1] >= 128:
        return True
    return (begins[4 * char + (cps[i + 1] >> 5)] >> (cps[i + 1] & 31)) & 1


@njit(cache=True)
def look(shared, const, begins, state, cps, out, watch, idle):
    """Read a piece of text.

    ``shared`` int32: the block of ``text.fold_block``, then ``FIXED`` more. ``const`` int32: the
    block of ``phrases.PhraseSet``. ``begins`` int32: what regexes begin with. ``watch``: whether an
    escape is of interest; ``idle``: whether there are regexes that have settled all that came
    before. Returns what has to be done besides; how far the phrases were read; the rows written to
    ``out``; the first character that an unfinished phrase or run may still need; and the first
    character of a run that is alive.
    """
    size = len(cps)
    fixed = shared[len(shared) - FIXED :]
    if watch:
        for i in range(size):
            if cps[i] < 128 and fixed[_CLASS + cps[i]] & TRIGGER:
                return ESCAPE, 0, 0, 0, 0
    said = 0
    read = state[HEAD + kernel.READ]
    end = read + size
    before = state[PREVIOUS]
    for i in range(size):
        char = cps[i]
        if state[_B + READER] == HERE and _base64(state, _B, char, read + i, before, fixed):
            state[_B + READER] = ELSEWHERE
            said |= ENCODED << BASE64
        if state[_H + READER] == HERE and _hex(state, _H, char, read + i, before, fixed):
            state[_H + READER] = ELSEWHERE
            said |= ENCODED << HEX
        if idle and not said & BEGINS and _may_begin(cps, i, before, fixed, begins):
            said |= BEGINS
        before = char
    state[PREVIOUS] = before
    plain, squeezed = const[const[0] : const[1]], const[const[1] : const[2]]
    entries = const[const[2] : const[3]]
    head = state[HEAD:RING]
    ring = state[RING:].reshape((kernel.VIEWS, (len(state) - RING) // _WIDTH, kernel.FIELDS))
    position, found = kernel.feed(shared, plain, squeezed, entries, head, ring, cps, 0, out)
    held = kernel.open_from(plain, squeezed, head, ring)
    held = min(held, _held(state, _B, end), _held(state, _H, end))
    alive = end
    if state[_B + READER] == HERE and state[_B + ALIVE]:
        alive = state[_B + FIRST]
    if state[_H + READER] == HERE and state[_H + ALIVE]:
        alive = min(alive, state[_H + FIRST])
    return said, position, found, held, alive
