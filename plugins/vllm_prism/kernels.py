# Triton compiles these functions from their source: no annotation but ``constexpr`` means anything.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN202
"""How a device reads tokens: ``prism.match.kernel`` and ``prism.steer.kernel`` in Triton.

A *lane* is one reading of one view of the text: of a row's own tokens, or of a candidate that is
tried behind them. Lanes run side by side, each at its own pace: a loop goes on until none is left.
The arrays are those of ``prism.steer.arena``; ``h`` points at the fields of a lane's policy and
view.

Symbols lie in rings. A candidate's own symbols go to a ring of its lane, from number ``own`` on;
what is before them is the row's, which stays as it is.
"""

from __future__ import annotations

import triton
import triton.language as tl

from prism.match import entries
from prism.match import kernel as host
from prism.steer import arena as a
from prism.steer import utf8

_EDGE_START = tl.constexpr(a.EDGE_START)
_EDGE_SYMBOL = tl.constexpr(a.EDGE_SYMBOL)
_EDGE_TARGET = tl.constexpr(a.EDGE_TARGET)
_FAIL = tl.constexpr(a.FAIL)
_OUTPUT = tl.constexpr(a.OUTPUT)
_OUTPUT_LINK = tl.constexpr(a.OUTPUT_LINK)
_ROOT_ASCII = tl.constexpr(a.ROOT_ASCII)
_LEVEL = tl.constexpr(a.LEVEL)
_OF_PATTERN = tl.constexpr(a.OF_PATTERN)
_OFFSET = tl.constexpr(a.OFFSET)
_FLAGS = tl.constexpr(a.FLAGS)
_SYMBOLS = tl.constexpr(a.SYMBOLS)
_SIGN_TABLE = tl.constexpr(a.SIGN_TABLE)
_CLASS_TABLE = tl.constexpr(a.CLASS_TABLE)
_PAGES = tl.constexpr(a.TABLE_PAGES)
_VALUES = tl.constexpr(a.TABLE_VALUES)
_MORE = tl.constexpr(a.TABLE_MORE)
_FIRST = tl.constexpr(a.FIRST)
_SIZE = tl.constexpr(a.SIZE)
_BYTES = tl.constexpr(a.BYTES)
_LEAD = tl.constexpr(a.LEAD)
_PAYLOAD = tl.constexpr(a.PAYLOAD)
_DUE = tl.constexpr(a.DUE)
_POINT = tl.constexpr(a.POINT)
_TOKEN_FIELDS = tl.constexpr(a.TOKEN_FIELDS)
_RUN = tl.constexpr(a.RUN_SHIFT)
_GAP = tl.constexpr(a.GAP_SHIFT)
_INITIAL = tl.constexpr(a.INITIAL_SHIFT)
_ALONE = tl.constexpr(a.ALONE_SHIFT)
_PLAIN = tl.constexpr(host.PLAIN)
_SIGNS = tl.constexpr(host.SIGNS)
_GAP_PUNCT = tl.constexpr(host.GAP_PUNCT)
_GAP_SPACE = tl.constexpr(host.GAP_SPACE)
_SPACING = tl.constexpr(entries.SPACING)
_LEET = tl.constexpr(entries.LEET)
_REPEATS = tl.constexpr(entries.REPEATS)
_BOUNDED = tl.constexpr(entries.BOUNDED)
_LONG_ENOUGH = tl.constexpr(host.LONG_ENOUGH)
_LONG_ENOUGH_PUNCT = tl.constexpr(host.LONG_ENOUGH_PUNCT)
_SHORT_PIECE = tl.constexpr(host.SHORT_PIECE)
_CHAR_MASK = tl.constexpr((1 << a.GAP_SHIFT) - 1)
_BASE_MASK = tl.constexpr((1 << 24) - 1)
_BAD = tl.constexpr(2 << 24 | 0xFFFD)
_BROKEN = tl.constexpr(utf8.BROKEN)
_SPACE = tl.constexpr(1 << 24 | 32)


@triton.jit
def advance(data, h, node, symbol, live):
    """Return the nodes after ``symbol`` (``prism.match.automaton.advance``)."""
    starts = data + tl.load(h + _EDGE_START)
    symbols = data + tl.load(h + _EDGE_SYMBOL)
    targets = data + tl.load(h + _EDGE_TARGET)
    fails = data + tl.load(h + _FAIL)
    ascii_ = data + tl.load(h + _ROOT_ASCII)
    result = tl.full(node.shape, 0, tl.int32)
    going = live
    while tl.max(going.to(tl.int32), 0) > 0:
        direct = going & (node == 0) & (symbol < 128)
        result = tl.where(direct, tl.load(ascii_ + symbol, mask=direct, other=0), result)
        going = going & ~direct
        low = tl.load(starts + node, mask=going, other=0)
        end = tl.load(starts + node + 1, mask=going, other=0)
        high = end
        while tl.max((going & (low < high)).to(tl.int32), 0) > 0:
            middle = (low + high) >> 1
            open_ = going & (low < high)
            less = tl.load(symbols + middle, mask=open_, other=0) < symbol
            low = tl.where(open_ & less, middle + 1, low)
            high = tl.where(open_ & ~less, middle, high)
        there = going & (low < end)
        found = there & (tl.load(symbols + low, mask=there, other=-1) == symbol)
        result = tl.where(found, tl.load(targets + low, mask=found, other=0), result)
        going = going & ~found & (node != 0)
        node = tl.where(going, tl.load(fails + node, mask=going, other=0), node)
    return result


@triton.jit
def _symbol(rings, row, lane, own, ring_mask, i, live):
    """Return symbol number ``i`` of each lane, as one number."""
    at = tl.where(i >= own, lane, row) + (i & ring_mask)
    return tl.load(rings + at, mask=live, other=0)


@triton.jit
def _verify(data, common, h, rings, row, lane, own, ring_mask, count, entry, live):
    """Return the disguises by which the last symbols spell ``entry``, or -1."""
    offsets = data + tl.load(h + _OFFSET)
    begin = tl.load(offsets + entry, mask=live, other=0)
    length = tl.load(offsets + entry + 1, mask=live, other=0) - begin
    flags = tl.load(data + tl.load(h + _FLAGS) + entry, mask=live, other=0)
    symbols = data + tl.load(h + _SYMBOLS) + 3 * begin
    signs = data + tl.load(common + _SIGN_TABLE)
    first = count - length
    head = _symbol(rings, row, lane, own, ring_mask, first, live)
    good = live & (((flags & _BOUNDED) == 0) | ((head >> _INITIAL & 1) != 0))
    via = tl.full(entry.shape, 0, tl.int32)
    piece, longest = via, via
    spaces, puncts, joined, letters, i = via, via, via, via, via
    while tl.max((good & (i < length)).to(tl.int32), 0) > 0:
        on = good & (i < length)
        word = _symbol(rings, row, lane, own, ring_mask, first + i, on)
        char = (word & _CHAR_MASK).to(tl.int32)
        run = (word >> _RUN).to(tl.int32)
        gap = (word >> _GAP & 3).to(tl.int32)
        letter = tl.load(symbols + 3 * i, mask=on, other=0)
        wanted = tl.load(symbols + 3 * i + 1, mask=on, other=0)
        fresh = tl.load(symbols + 3 * i + 2, mask=on, other=0)
        # Only a digit or a sign stands for another letter: "fail" is not "fall".
        other = on & (char != letter)
        sign = tl.load(signs + char, mask=other & (char < 128), other=0)
        stands = ((char >= 48) & (char <= 57)) | (sign != 0)
        good = good & ~(other & ~stands) & ~(on & (run < wanted))
        via = via | tl.where(other, _LEET, 0) | tl.where(on & (run > wanted), _REPEATS, 0)
        letters += tl.where(on, wanted, 0)
        inner = on & (i > 0)
        joined += tl.where(inner & (fresh != 0) & (gap == 0), 1, 0)
        spaces += tl.where(inner & (fresh == 0) & (gap == _GAP_SPACE), 1, 0)
        puncts += tl.where(inner & (fresh == 0) & (gap == _GAP_PUNCT), 1, 0)
        cut = inner & (gap != 0)
        longest = tl.where(cut, tl.maximum(longest, piece), longest)
        piece = tl.where(cut, 0, piece) + tl.where(on, wanted, 0)
        i += 1
    longest = tl.maximum(longest, piece)
    spaced = (spaces + puncts + joined) > 0
    via = via | tl.where(spaced, _SPACING, 0)
    long = spaced & (longest > _SHORT_PIECE)
    good = good & ~(long & (spaces + joined > 0) & (letters < _LONG_ENOUGH))
    good = good & ~(long & (letters < _LONG_ENOUGH_PUNCT))
    good = good & ((via & ~flags & (_SPACING | _LEET | _REPEATS)) == 0)
    return tl.where(good, via, -1)


@triton.jit
def _report(data, common, h, rings, row, lane, own, ring_mask, node, count, bounded, live):
    """Return the worst level of the phrases that end at the squeezed views' nodes, 0 for none."""
    outputs = data + tl.load(h + _OUTPUT)
    links = data + tl.load(h + _OUTPUT_LINK)
    of_pattern = data + tl.load(h + _OF_PATTERN)
    all_flags = data + tl.load(h + _FLAGS)
    levels = data + tl.load(h + _LEVEL)
    level = tl.full(node.shape, 0, tl.int32)
    own_pattern = tl.load(outputs + node, mask=live, other=-1)
    link = tl.load(links + node, mask=live, other=0)
    at = tl.where(own_pattern < 0, link, node)
    going = live & (at != 0)
    while tl.max(going.to(tl.int32), 0) > 0:
        pattern = tl.load(outputs + at, mask=going, other=0)
        entry = tl.load(of_pattern + pattern, mask=going, other=0)
        end = tl.load(of_pattern + pattern + 1, mask=going, other=0)
        while tl.max((going & (entry < end)).to(tl.int32), 0) > 0:
            on = going & (entry < end)
            flags = tl.load(all_flags + entry, mask=on, other=0)
            fits = on & (((flags & _BOUNDED) != 0) == bounded)
            via = _verify(data, common, h, rings, row, lane, own, ring_mask, count, entry, fits)
            hit = fits & (via > 0)
            level = tl.maximum(level, tl.load(levels + entry, mask=hit, other=0))
            entry += 1
        at = tl.load(links + at, mask=going, other=0)
        going = going & (at != 0)
    return level


@triton.jit
def step(
    data, common, h, view, rings, row, lane, own, ring_mask,
    node, count, gap, last, previous, code, live, REPORT: tl.constexpr,
):  # fmt: skip
    """Read one folded character per lane (``prism.match.kernel._fold_one``).

    Returns the lanes' states and, where ``REPORT``, the worst level of what it completed.
    """
    kind = code >> 24
    char = code & _BASE_MASK
    letter = kind == 0
    plain = view == _PLAIN
    level = tl.full(node.shape, 0, tl.int32)
    separator = live & ~plain & ~letter
    if REPORT:
        level = _report(
            data, common, h, rings, row, lane, own, ring_mask, node, count,
            True, separator & (gap == 0),
        )  # fmt: skip
    in_ascii = live & (char < 128)
    sign = tl.load(data + tl.load(common + _SIGN_TABLE) + char, mask=in_ascii, other=0)
    stands = separator & (view == _SIGNS) & (sign != 0)
    wider = tl.maximum(gap, tl.where(kind == 1, _GAP_SPACE, _GAP_PUNCT))
    gap = tl.where(separator & ~stands, wider, gap)
    into = (live & ~plain & letter) | stands
    initial = stands | (previous != 0)

    before = _symbol(rings, row, lane, own, ring_mask, count - 1, into & (count > 0))
    alone = (before >> _ALONE & 1) != 0
    repeat = into & (last == char) & ((gap == 0) | alone)
    push = into & ~repeat
    one = tl.full(code.shape, 1, tl.int64)
    longer = before + (one << _RUN)
    longer = tl.where(gap == 0, longer & ~(one << _ALONE), longer)
    fresh = char.to(tl.int64) | (gap.to(tl.int64) << _GAP) | (one << _RUN)
    fresh = fresh | tl.where(initial, one << _INITIAL, 0)
    fresh = fresh | tl.where((count == 0) | (gap != 0), one << _ALONE, 0)
    at = tl.where(repeat, count - 1, count) & ring_mask
    tl.store(rings + lane + at, tl.where(repeat, longer, fresh), mask=into)
    # What one thread wrote others read.
    tl.debug_barrier()

    count += tl.where(push, 1, 0)
    gap = tl.where(into, 0, gap)
    as_plain = live & plain & (letter | (last != 32))
    classes = data + tl.load(common + _CLASS_TABLE)
    symbol = tl.where(in_ascii, tl.load(classes + char, mask=in_ascii, other=0), char)
    symbol = tl.where(plain, tl.where(letter, char, 32), symbol)
    moves = push | as_plain
    node = tl.where(moves, advance(data, h, node, symbol, moves), node)
    last = tl.where(into, char, tl.where(as_plain, symbol, last))
    if REPORT:
        found = _report(data, common, h, rings, row, lane, own, ring_mask, node, count, False, into)
        ends = tl.load(data + tl.load(h + _LEVEL) + node, mask=as_plain, other=0)
        level = tl.maximum(level, tl.maximum(found, ends))
    previous = tl.where(live, kind, previous)
    return node, count, gap, last, previous, level


@triton.jit
def read(
    data, common, codes, tokens, follows, known, h, view, rings, row, lane, own, ring_mask,
    node, count, gap, last, previous, due, point, state, token, live, REPORT: tl.constexpr,
):  # fmt: skip
    """Read one token per lane; where ``REPORT``, the end of the text behind it too.

    Returns the lanes' states and the worst level of what was completed. ``follows`` says where in
    UTF-8 the ``known`` tokens lead; nothing that is read behind bytes that are none counts.
    """
    its = tokens + token.to(tl.int64) * _TOKEN_FIELDS
    first = tl.load(its + _FIRST, mask=live, other=0)
    size = tl.load(its + _SIZE, mask=live, other=0)
    bytes_ = tl.load(its + _BYTES, mask=live, other=0)
    lead = tl.load(its + _LEAD, mask=live, other=0)
    payload = tl.load(its + _PAYLOAD, mask=live, other=0)
    some = live & (bytes_ > 0)
    leads = follows + state * known + token
    behind = tl.load(leads, mask=some & (state < _BROKEN), other=_BROKEN).to(tl.int32)
    state = tl.where(some, behind, state)

    # The first bytes may finish a character; or break it off, which is a character of its own.
    half = live & (due > 0)
    finishes = half & (lead >= due)
    waits = half & ~finishes & (bytes_ == lead)
    taken = tl.minimum(lead, due)
    joined = point << (6 * taken) | (payload >> (6 * (lead - taken)))
    valid = state != _BROKEN
    page = tl.load(data + tl.load(common + _PAGES) + (joined >> 8), mask=finishes & valid, other=0)
    value = tl.load(
        data + tl.load(common + _VALUES) + page * 256 + (joined & 255),
        mask=finishes & valid, other=0,
    )  # fmt: skip
    expands = finishes & valid & ((value >> 24) == 4)
    more = data + tl.load(common + _MORE) + tl.where(expands, value & _BASE_MASK, 0)
    alone = tl.where(value == -1, joined, tl.where(value == -2, 2 << 24 | joined, value))
    alone = tl.where(finishes & valid, alone, _BAD)
    dropped = finishes & valid & ((value >> 24) == 3)
    before = tl.where(half & ~waits & ~dropped, 1, 0)
    before = tl.where(expands, tl.load(more, mask=expands, other=0), before)
    # Alone, each of the bytes taken would have been one broken character.
    first += tl.where(half, taken, 0)
    size = tl.where(half, size - taken, size)
    size = tl.where(waits, 0, size)
    its_due = tl.load(its + _DUE, mask=live, other=0)
    its_point = tl.load(its + _POINT, mask=live, other=0)
    turns = live & ~waits & (bytes_ > 0)
    point = tl.where(waits, joined, tl.where(turns, its_point, point))
    due = tl.where(waits, due - lead, tl.where(turns, its_due, due))

    body = before + size
    total = body
    broken = tl.where(due > 0, 1, 0)
    if REPORT:
        total = body + broken + 1
    level = tl.full(node.shape, 0, tl.int32)
    i = tl.full(node.shape, 0, tl.int32)
    while tl.max((live & (i < total)).to(tl.int32), 0) > 0:
        on = live & (i < total)
        code = tl.load(codes + first + i - before, mask=on & (i >= before) & (i < body), other=0)
        code = tl.where(i < before, alone, code)
        from_table = on & expands & (i < before)
        code = tl.where(from_table, tl.load(more + 1 + i, mask=from_table, other=0), code)
        if REPORT:
            code = tl.where(i >= body, tl.where(i < body + broken, _BAD, _SPACE), code)
        node, count, gap, last, previous, found = step(
            data, common, h, view, rings, row, lane, own, ring_mask,
            node, count, gap, last, previous, code, on, REPORT,
        )  # fmt: skip
        level = tl.maximum(level, found)
        i += 1
    return node, count, gap, last, previous, due, point, state, level
