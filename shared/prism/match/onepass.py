# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202
"""A layer's work on one piece of text in one compiled call.

It reads the phrases, and it follows the rarer readers only as far as ordinary text takes them: is
there an escape, may a regex begin, does a run of base64 or hex live long enough to mean something?
In ordinary text all answers are no and the call is all there is. Where one is yes, the reader in
question (in Python, and exact) takes over from the place this module names; this one never decides,
but for short words of base64: what they decode to is looked through, and where it is quiet nobody
else reads them.

State of one layer, one int64 array: ``SHARED`` fields, ``RUN`` fields for each of base64 and hex,
(:mod:`prism.match.runs`), the head and the ring of :mod:`prism.match.kernel`.
"""

from __future__ import annotations

import numpy as np

from prism.jit import njit
from prism.match import kernel, skim
from prism.match.runs import (
    ALIVE,
    ALNUM,
    BASE64,
    CLASS,
    DOOR,
    ELSEWHERE,
    FIRST,
    FIXED,
    FOURS,
    HERE,
    HEX,
    OF_BASE64,
    OF_HEX,
    OPEN,
    PLAIN,
    PREVIOUS,
    PRINTABLE,
    READER,
    RUN,
    SHARED,
    SIXES,
    TRIGGER,
    WORD,
    begin_run,
    held_by,
    read_base64,
    read_hex,
)
from prism.text.decode import MIN_DECODED

# What a call can say: an escape may begin in the text, which is then unread; a regex may begin in
# it; a run needs its own reader. ENCODED << BASE64, ENCODED << HEX.
ESCAPE, BEGINS, ENCODED = 1, 2, 4
FIRST_TAG, LAST_TAG = 0xE0020, 0xE007E  # see :mod:`prism.text.decode`

HEAD = SHARED + 2 * RUN
RING = HEAD + kernel.HEAD
_WIDTH = kernel.VIEWS * kernel.FIELDS

# Of ``begins``: a bit for each pair of ASCII characters; what each may do as the first; and the
# same of all other characters.
FIRSTS = 128 * 4
ANYWHERE, AT_BOUNDARY = 1, 2

# So many characters of base64 at least hold what counts. A run is looked through here if it is no
# longer than so many, and decodes to so many at most.
MATTERS, _WORD, _SHORT = (8 * MIN_DECODED + 5) // 6, 64, 48
_DOORS = 3  # so many that a finder still keeps every run


@njit(cache=True)
def may_escape(fixed, char):
    """Return whether an escape may begin with a character."""
    if char < 128:
        return fixed[CLASS + char] & TRIGGER != 0
    return FIRST_TAG <= char <= LAST_TAG


@njit(cache=True)
def may_begin(cps, i, before, fixed, begins):
    """Return whether a regex may begin at ``cps[i]``, going by two characters."""
    char = cps[i]
    if char >= 128:
        return char >= 0x10000 or not fixed[PLAIN + char] or begins[FIRSTS + 128]
    first = begins[FIRSTS + char]
    if first == 0:
        return False
    if before < 128:
        bounded = (fixed[CLASS + before] ^ fixed[CLASS + char]) & WORD
        if not bounded and not first & ANYWHERE:
            return False
    if i + 1 == len(cps) or cps[i + 1] >= 128:
        return True
    return (begins[4 * char + (cps[i + 1] >> 5)] >> (cps[i + 1] & 31)) & 1


@njit(cache=True)
def harmless(shared, const, begins, cps, first, last, regexes):
    """Return whether a word of base64 that begins with a run certainly hides nothing.

    Behind each of its side doors another run may begin. Each is read as far as it can be, and what
    it decodes to is looked through as a text by itself.
    """
    fixed = shared[len(shared) - FIXED :]
    if last - first > _WORD:
        return False
    doors = 0
    for i in range(first, last):
        if i > first:
            if not fixed[CLASS + cps[i - 1]] & DOOR:
                continue
            doors += 1
            if doors > _DOORS:
                return False
        if not _run_is_harmless(shared, const, begins, cps, i, last, regexes):
            return False
    return True


@njit(cache=True)
def may_be_text(fixed, cps, first):
    """Return whether a word of base64, by its first four characters, may be readable."""
    bits = np.int32(0)
    for i in range(4):
        bits = bits << 6 | fixed[SIXES + cps[first + i]]
    for shift in (16, 8, 0):
        byte = bits >> shift & 255
        if byte >= 0xC2:
            return byte <= 0xF4  # what follows is left to who reads all
        if byte >= 127 or (byte < 32 and byte != 9 and byte != 10 and byte != 13):
            return False
    return True


@njit(cache=True)
def _run_is_harmless(shared, const, begins, cps, first, last, regexes):
    fixed = shared[len(shared) - FIXED :]
    if last - first < MATTERS:
        return True
    if not may_be_text(fixed, cps, first):
        return True
    text = np.empty(_SHORT + 1, np.int32)
    count, bits, known = 0, 0, 0
    # Of a character of several bytes: how many are missing, and the least that needs so many.
    char, more, least = 0, 0, 0
    for i in range(first, last):
        bits = (bits << 6 | fixed[SIXES + cps[i]]) & 0xFFFF
        known += 6
        if known >= 8:
            known -= 8
            byte = bits >> known & 255
            if more:
                if byte >> 6 != 2:
                    break
                char = char << 6 | (byte & 63)
                more -= 1
            elif byte < 128:
                if not (32 <= byte < 127 or byte == 9 or byte == 10 or byte == 13):
                    break
                if fixed[CLASS + byte] & TRIGGER:
                    return False
                char, least = byte, 0
            elif 0xC2 <= byte <= 0xDF:
                char, more, least = byte & 31, 1, 0x80
            elif 0xE0 <= byte <= 0xEF:
                char, more, least = byte & 15, 2, 0x800
            elif 0xF0 <= byte <= 0xF4:
                return False
            else:
                break
            if not more:
                if char < least or (char >= 128 and not fixed[PRINTABLE + char]):
                    break  # overlong, or not to be seen, as half of a pair isn't
                if count == _SHORT:
                    return False
                text[count] = char
                count += 1
    else:
        if known == 0 and count >= MIN_DECODED:
            return False  # it may be wrapped
    return count < MIN_DECODED or _quiet(shared, const, begins, text, count, regexes)


@njit(cache=True)
def _quiet(shared, const, begins, text, count, regexes):
    """Return whether ``text[:count]`` by itself holds neither hits nor runs nor regexes."""
    fixed = shared[len(shared) - FIXED :]
    text[count] = 32
    state = np.zeros(HEAD, np.int64)
    before = np.int32(32)
    for i in range(count):
        if read_base64(state, OF_BASE64, text[i], i, before, fixed):
            return False
        if read_hex(state, OF_HEX, text[i], i, before, fixed):
            return False
        if regexes and may_begin(text, i, before, fixed, begins):
            return False
        before = text[i]
    plain, squeezed = const[const[0] : const[1]], const[const[1] : const[2]]
    opens = begins[len(begins) - skim.OPENINGS :]
    return skim.empty(shared, opens, plain, squeezed, text[: count + 1])


@njit(cache=True)
def _look_for_base64(shared, const, begins, state, cps, begin, read, before, regexes):
    """Follow runs of base64 from ``cps[begin]`` on; return whether they need their own reader."""
    fixed = shared[len(shared) - FIXED :]
    i, size = begin, len(cps)
    while i < size:
        if not state[OF_BASE64 + OPEN]:
            while i < size and (cps[i] >= 128 or fixed[SIXES + cps[i]] == 255):
                i += 1
            if i == size:
                return False
            last = i + 1
            while last < size and cps[last] < 128 and fixed[SIXES + cps[last]] != 255:
                last += 1
            if i > begin:
                before = cps[i - 1]
            if last < size:
                # A whole word: most are too short to matter, or begin with no readable byte.
                if last - i >= MATTERS and not harmless(
                    shared, const, begins, cps, i, last, regexes
                ):
                    begin_run(state, OF_BASE64, read + i, before)
                    return True
                i = last
                continue
        elif i > begin:
            before = cps[i - 1]
        if read_base64(state, OF_BASE64, cps[i], read + i, before, fixed):
            return True
        i += 1
    return False


@njit(cache=True)
def _look_for_hex(shared, state, cps, begin, read, before):
    """Follow runs of hex digits likewise."""
    fixed = shared[len(shared) - FIXED :]
    for i in range(begin, len(cps)):
        char = cps[i]
        if not state[OF_HEX + OPEN]:
            digit = char < 128 and fixed[FOURS + char] != 255
            if not digit or (before < 128 and fixed[CLASS + before] & ALNUM):
                before = char
                continue
        if read_hex(state, OF_HEX, char, read + i, before, fixed):
            return True
        before = char
    return False


@njit(cache=True)
def _open(state, end):
    """Return what unfinished runs hold, and where the first that is alive begins."""
    held = min(held_by(state, OF_BASE64, end), held_by(state, OF_HEX, end))
    alive = end
    if state[OF_BASE64 + READER] == HERE and state[OF_BASE64 + ALIVE]:
        alive = state[OF_BASE64 + FIRST]
    if state[OF_HEX + READER] == HERE and state[OF_HEX + ALIVE]:
        alive = min(alive, state[OF_HEX + FIRST])
    return held, alive


@njit(cache=True)
def follow(shared, const, begins, state, cps, kind, begin, end, regexes):
    """Follow runs again from ``cps[begin]`` on, once their reader is through with one.

    ``end``: where ``cps`` ends in the layer. Returns whether the reader is needed again, and what
    ``look`` says of runs: what they hold, and where one that is alive begins.
    """
    before = cps[begin - 1] if begin > 0 else np.int32(32)
    read = end - len(cps)
    if kind == BASE64:
        needed = _look_for_base64(shared, const, begins, state, cps, begin, read, before, regexes)
    else:
        needed = _look_for_hex(shared, state, cps, begin, read, before)
    if needed:
        state[SHARED + kind * RUN + READER] = ELSEWHERE
    held, alive = _open(state, end)
    return needed, held, alive


@njit(cache=True)
def look(shared, const, begins, state, cps, out, watch, regexes, idle):
    """Read a piece of text.

    ``shared`` int32: the block of ``text.fold_block``, then ``FIXED`` more. ``const`` int32: the
    block of ``phrases.PhraseSet``. ``begins`` int32: what regexes begin with, then what phrases do
    (``skim.openings``). ``watch``: whether an escape is of interest; ``regexes``: whether there are
    any; ``idle``: whether there are and they have settled all that came before. Returns what has to
    be done besides; how far the phrases were read; the rows written to ``out``; the first character
    that an unfinished phrase or run may still need; and the first character of a run that is alive.
    """
    size = len(cps)
    fixed = shared[len(shared) - FIXED :]
    if watch:
        for i in range(size):
            if may_escape(fixed, cps[i]):
                return ESCAPE, 0, 0, 0, 0
    said = 0
    read = state[HEAD + kernel.READ]
    end = read + size
    previous = np.int32(state[PREVIOUS])
    if state[OF_BASE64 + READER] == HERE and _look_for_base64(
        shared, const, begins, state, cps, 0, read, previous, regexes
    ):
        state[OF_BASE64 + READER] = ELSEWHERE
        said |= ENCODED << BASE64
    if state[OF_HEX + READER] == HERE and _look_for_hex(shared, state, cps, 0, read, previous):
        state[OF_HEX + READER] = ELSEWHERE
        said |= ENCODED << HEX
    if idle:
        before = previous
        for i in range(size):
            if may_begin(cps, i, before, fixed, begins):
                said |= BEGINS
                break
            before = cps[i]
    if size > 0:
        state[PREVIOUS] = cps[size - 1]
    plain, squeezed = const[const[0] : const[1]], const[const[1] : const[2]]
    entries = const[const[2] : const[3]]
    head = state[HEAD:RING]
    ring = state[RING:].reshape((kernel.VIEWS, (len(state) - RING) // _WIDTH, kernel.FIELDS))
    opens = begins[len(begins) - skim.OPENINGS :]
    position, found = skim.feed(shared, opens, plain, squeezed, entries, head, ring, cps, out)
    held, alive = _open(state, end)
    held = min(held, kernel.open_from(plain, squeezed, head, ring))
    return said, position, found, held, alive


@njit(cache=True)
def finish(const, state, out):
    """Read the end of the text, which separates words; return the rows written to ``out``."""
    plain, squeezed = const[const[0] : const[1]], const[const[1] : const[2]]
    entries = const[const[2] : const[3]]
    ring = state[RING:].reshape((kernel.VIEWS, (len(state) - RING) // _WIDTH, kernel.FIELDS))
    return kernel.finish(plain, squeezed, entries, state[HEAD:RING], ring, out)
