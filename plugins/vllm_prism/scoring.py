# Triton compiles these functions from their source: no annotation but ``constexpr`` means anything.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN202
"""The sketch over output tokens: ``prism.steer.score_kernel`` and ``classify.features`` in Triton.

A program is a row: it reads the tokens that its slot has not, then its drafts, byte by byte. Lanes
are the two segments that a character may belong to; those it doesn't are not ``live``. Hashes are
the host's to the bit and sums are integers, so only the last step, from sums to log odds in
float64, may differ, in the order of its additions.
"""

from __future__ import annotations

import triton
import triton.language as tl

from prism.classify import cascade, features
from prism.steer import arena as a
from prism.steer import score_arena as s
from prism.steer import score_kernel as host
from vllm_prism import fields as f

_C1 = tl.constexpr(features._C1)
_C2 = tl.constexpr(features._C2)
_C3 = tl.constexpr(features._C3)
_C4 = tl.constexpr(features._C4)
_WORD = tl.constexpr(features._WORD)
_BEFORE = tl.constexpr(features._BEFORE)
_BEFORE2 = tl.constexpr(features._BEFORE2)
_LONE = tl.constexpr(features._LONE)
_LENGTH = tl.constexpr(features._LENGTH)
_COUNT = tl.constexpr(s.COUNT)
_NEW = tl.constexpr(s.NEW)
_MARKS = tl.constexpr(s.MARKS)
_FIELDS = tl.constexpr(s.SEGMENT_FIELDS)
_SEEN = tl.constexpr(host.SEEN)
_FILTER = tl.constexpr(64 * host.SEEN - 1)
_DUE = tl.constexpr(host.DUE)
_POINT = tl.constexpr(host.POINT)
_LOW = tl.constexpr(host.LOW)
_HIGH = tl.constexpr(host.HIGH)
_POSITION = tl.constexpr(host.POSITION)
_STRIDE = tl.constexpr(host.STRIDE)
_SEGMENT = tl.constexpr(cascade.SEGMENT)
_OVERLAP = tl.constexpr(cascade.OVERLAP)
# There is no uint64 here: the same bits, signed, and shifts that are masked.
_PRIME = tl.constexpr(int(features._PRIME) - (1 << 64))
_MIX = tl.constexpr(int(features._MIX) - (1 << 64))
_HALF = tl.constexpr(int(features._HALF))
_HALF_MASK = tl.constexpr((1 << (64 - int(features._HALF))) - 1)
_TOP = tl.constexpr(int(features._TOP))
_TOP_MASK = tl.constexpr((1 << features.BITS) - 1)
_PAGES = tl.constexpr(a.TABLE_PAGES)
_VALUES = tl.constexpr(a.TABLE_VALUES)
_MORE = tl.constexpr(a.TABLE_MORE)
_BASE_MASK = tl.constexpr((1 << 24) - 1)
_BAD = tl.constexpr(0xFFFD)
_SLOT = tl.constexpr(f.SLOT)
_LOCAL = tl.constexpr(f.LOCAL)
_FIRST_POS = tl.constexpr(f.FIRST_POS)
_START = tl.constexpr(f.START)
_LIVE = tl.constexpr(f.LIVE)
_POLICY = tl.constexpr(f.POLICY)
_ROW_FIELDS = tl.constexpr(f.ROW_FIELDS)
_SLOT_SEEN = tl.constexpr(f.SEEN)
_SLOT_FIELDS = tl.constexpr(f.SLOT_FIELDS)


@triton.jit
def _mix(value, char):
    value = (value ^ char) * _PRIME
    return value ^ ((value >> _HALF) & _HALF_MASK)


@triton.jit
def _pieces(char, c1, c2, c3, c4):
    """Return the hashes of the runs of 3, 4 and 5 characters that end with ``char``."""
    three = _mix(_mix(_mix(tl.full(c1.shape, 3, tl.int64), char), c1), c2)
    four = _mix(three, c3)
    return three, four, _mix(four, c4)


@triton.jit
def _whole(word, before):
    """Return the hashes of a word and of its pair with the word before."""
    alone = _mix(tl.full(word.shape, 11, tl.int64), word)
    return alone, _mix(_mix(tl.full(word.shape, 13, tl.int64), word), before)


@triton.jit
def _ending(ends, c1, c2, c3, c4, word, before, length):
    """Return the features of a word's end, hashes and where there are such."""
    boundary = tl.full(c1.shape, 1, tl.int64)
    three, four, five = _pieces(boundary, c1, c2, c3, c4)
    alone, pair = _whole(word, before)
    least3, least4, least5 = ends & (length >= 2), ends & (length >= 3), ends & (length >= 4)
    return three, four, five, alone, pair, least3, least4, least5


@triton.jit
def _count_features(
    embeddings, begin, end, v0, v1, v2, v3, v4, v5, v6, v7, l0, l1, l2, l3, l4, l5, l6, l7,
    sums, seen, count, new, KEEP: tl.constexpr, DIMENSIONS: tl.constexpr,
):  # fmt: skip
    """Count features ``begin`` to ``end`` of eight, where there are such (``l``), in each segment.

    The filters learn them if ``KEEP``.
    """
    place = tl.arange(0, DIMENSIONS)
    word = tl.arange(0, _SEEN)
    for k in range(begin, end):
        value = tl.where(k == 0, v0, tl.where(k == 1, v1, tl.where(k == 2, v2, v3)))
        value = tl.where(k == 4, v4, tl.where(k == 5, v5, value))
        value = tl.where(k == 6, v6, tl.where(k == 7, v7, value))
        live = ((k == 0) & l0) | ((k == 1) & l1) | ((k == 2) & l2) | ((k == 3) & l3)
        live = live | ((k == 4) & l4) | ((k == 5) & l5) | ((k == 6) & l6) | ((k == 7) & l7)
        value = value * _MIX
        value = value ^ ((value >> _HALF) & _HALF_MASK)
        bucket = (((value * _PRIME) >> _TOP) & _TOP_MASK).to(tl.int32)
        row = embeddings + bucket[:, None] * DIMENSIONS + place[None, :]
        sums += tl.load(row, mask=live[:, None], other=0).to(tl.int32)
        bit = (bucket & 63).to(tl.int64)
        mine = live[:, None] & (((bucket & _FILTER) >> 6)[:, None] == word[None, :])
        had = tl.max(tl.where(mine, (seen >> bit[:, None]) & 1, 0), 1)
        new += tl.where(live & (had == 0), 1, 0)
        count += tl.where(live, 1, 0)
        if KEEP:
            seen = tl.where(mine, seen | (tl.full(bit.shape, 1, tl.int64) << bit)[:, None], seen)
    return sums, seen, count, new


@triton.jit
def _symbol(
    embeddings, live, code,
    c1, c2, c3, c4, word, before, before2, lone, length, sums, seen, count, new,
    DIMENSIONS: tl.constexpr,
):  # fmt: skip
    """Read a folded character (``prism.classify.features._one``)."""
    letter = (code >> 24) == 0
    char = code & _BASE_MASK
    unspaced = (char >= 0x2E80) & (char <= 0xA4CF) | (char >= 0xF900) & (char <= 0xFAFF)
    unspaced = unspaced | (char >= 0x20000) & (char <= 0x3FFFF)
    unspaced = unspaced | (char >= 0x0E00) & (char <= 0x0EFF)
    unspaced = unspaced | (char >= 0x1000) & (char <= 0x109F)
    unspaced = unspaced | (char >= 0x1780) & (char <= 0x17FF)
    symbol = tl.full(c1.shape, 0, tl.int64) + char
    # It may end a word, …
    ends = live & (length > 0) & ((letter == 0) | unspaced)
    v0, v1, v2, v3, v4, l0, l1, l2 = _ending(ends, c1, c2, c3, c4, word, before, length)
    before2 = tl.where(ends, before, before2)
    before = tl.where(ends, word, before)
    lone = tl.where(ends, 0, lone)
    # … be within one, …
    joins = live & letter & (unspaced == 0)
    begins = joins & (length == 0)
    first = tl.where(begins, 1, c1)
    length = tl.where(begins, 1, length)
    word = tl.where(joins, _mix(tl.where(begins, 7, word), symbol), word)
    v5, v6, v7 = _pieces(symbol, first, c2, c3, c4)
    l5, l6, l7 = joins & (length >= 2), joins & (length >= 3), joins & (length >= 4)
    # … or be one.
    alone = live & letter & unspaced
    itself = _mix(tl.full(c1.shape, 5, tl.int64), symbol)
    w5, w6 = _whole(itself, before)
    w7 = _mix(_mix(w6, before2), tl.full(c1.shape, 17, tl.int64))
    sums, seen, count, new = _count_features(
        embeddings, tl.where(letter & (unspaced == 0), 5, 0), tl.where(letter, 8, 5),
        v0, v1, v2, v3, v4,
        tl.where(alone, w5, v5), tl.where(alone, w6, v6), tl.where(alone, w7, v7),
        l0, l1, l2, ends, ends, l5 | alone, l6 | alone, l7 | (alone & (lone != 0)),
        sums, seen, count, new, True, DIMENSIONS,
    )  # fmt: skip
    before2 = tl.where(alone, before, before2)
    before = tl.where(alone, itself, before)
    lone = tl.where(alone, 1, lone)
    moves = ends | joins
    c4 = tl.where(moves, c3, c4)
    c3 = tl.where(moves, c2, c3)
    c2 = tl.where(moves, first, c2)
    c1 = tl.where(joins, symbol, tl.where(ends, 1, c1))
    length = tl.where(joins, length + 1, tl.where(ends, 0, length))
    return c1, c2, c3, c4, word, before, before2, lone, length, sums, seen, count, new


@triton.jit
def _above(
    heads, biases, bounds, policy, now, sums, count, new,
    DIMENSIONS: tl.constexpr, WATCHED: tl.constexpr,
):  # fmt: skip
    """Whether the segment ``now`` reaches the bound of a category that is watched, 0 or 1."""
    total = tl.sum(tl.where(now, count, 0), 0)
    different = tl.sum(tl.where(now, new, 0), 0)
    total = tl.maximum(total, 1).to(tl.float64)
    scale = tl.sqrt(different.to(tl.float64) / total) / tl.sqrt(total)
    its = tl.sum(tl.where(now[:, None], sums, 0), 0).to(tl.float64)
    category = policy.to(tl.int64) * WATCHED + tl.arange(0, WATCHED)
    place = tl.arange(0, DIMENSIONS)
    head = tl.load(heads + category[:, None] * DIMENSIONS + place[None, :])
    odds = tl.sum(head * its[None, :], 1) * scale + tl.load(biases + category)
    return tl.max((odds >= tl.load(bounds + category)).to(tl.int32), 0)


@triton.jit(do_not_specialize=["known", "most"], do_not_specialize_on_alignment=["input_ids"])
def score_rows(
    data, common, spelled, offsets, known, embeddings, heads, biases, bounds, watched,
    slot_fields, slot_scores, row_fields, row_scores, ids, id_stride, input_ids, most,
    WIDTH: tl.constexpr, DIMENSIONS: tl.constexpr, WATCHED: tl.constexpr,
):  # fmt: skip
    """Program ``r``: where row ``r`` begins to refuse because of what a token before it scored."""
    row = tl.program_id(0)
    of_row = row_fields + row * _ROW_FIELDS
    slot = tl.load(of_row + _SLOT).to(tl.int64)
    local = tl.load(of_row + _LOCAL)
    first = tl.load(of_row + _FIRST_POS)
    start = tl.load(of_row + _START)
    policy = tl.load(of_row + _POLICY)
    before_it = tl.load(slot_fields + slot * _SLOT_FIELDS + _SLOT_SEEN)

    segment = tl.arange(0, 2)
    source = slot_scores + slot * WIDTH
    of_segment = _MARKS + segment * _FIELDS
    place = tl.arange(0, DIMENSIONS)
    at_sums = _MARKS + 2 * _FIELDS + segment[:, None] * DIMENSIONS + place[None, :]
    place = tl.arange(0, _SEEN)
    at_seen = _MARKS + 2 * (_FIELDS + DIMENSIONS) + segment[:, None] * _SEEN + place[None, :]
    due = tl.load(source + _DUE).to(tl.int32)
    point = tl.load(source + _POINT).to(tl.int32)
    lowest = tl.load(source + _LOW).to(tl.int32)
    highest = tl.load(source + _HIGH).to(tl.int32)
    position = tl.load(source + _POSITION).to(tl.int32)
    c1 = tl.load(source + of_segment + _C1)
    c2 = tl.load(source + of_segment + _C2)
    c3 = tl.load(source + of_segment + _C3)
    c4 = tl.load(source + of_segment + _C4)
    word = tl.load(source + of_segment + _WORD)
    before = tl.load(source + of_segment + _BEFORE)
    before2 = tl.load(source + of_segment + _BEFORE2)
    lone = tl.load(source + of_segment + _LONE)
    length = tl.load(source + of_segment + _LENGTH).to(tl.int32)
    count = tl.load(source + of_segment + _COUNT).to(tl.int32)
    new = tl.load(source + of_segment + _NEW).to(tl.int32)
    sums = tl.load(source + at_sums).to(tl.int32)
    seen = tl.load(source + at_seen)

    committed = first - before_it
    # Rows in the middle of a prompt change nothing; rows that miss tokens refuse anyway.
    reads = (tl.load(of_row + _LIVE) != 0) & (committed <= most)
    reads = reads & (tl.load(watched + policy) != 0)
    # From its start on the refusal is not read.
    end = tl.where(reads, tl.minimum(committed + local, start - before_it), 0)
    j = tl.full((), 0, tl.int32)
    while j < end:
        if j < committed:
            token = tl.load(ids + slot * id_stride + before_it + j).to(tl.int32)
        else:
            token = tl.load(input_ids + row - local + (j - committed) + 1).to(tl.int32)
        some_text = (token >= 0) & (token < known)
        token = tl.where(some_text, token, 0)
        at = tl.load(offsets + token)
        stop = tl.where(some_text, tl.load(offsets + token + 1), at)
        j += 1
        while at < stop:
            # As ``bytes.decode("utf-8", "replace")`` does (``score_kernel._decode``).
            byte = tl.load(spelled + at).to(tl.int32)
            inner = due > 0
            fits = inner & (byte >= lowest) & (byte <= highest)
            broken = inner & (fits == 0)
            fresh = inner == 0
            two = fresh & (byte >= 0xC2) & (byte < 0xE0)
            three = fresh & (byte >= 0xE0) & (byte < 0xF0)
            four = fresh & (byte >= 0xF0) & (byte < 0xF5)
            some = (fresh & (two == 0) & (three == 0) & (four == 0)) | broken | (fits & (due == 1))
            point = tl.where(fits, point << 6 | byte & 0x3F, point)
            cp = tl.where(fits, point, tl.where(fresh & (byte < 0x80), byte, _BAD))
            point = tl.where(two, byte & 0x1F, point)
            point = tl.where(three, byte & 0x0F, point)
            point = tl.where(four, byte & 0x07, point)
            due = tl.where(fits, due - 1, tl.where(two, 1, tl.where(three, 2, 0)))
            due = tl.where(four, 3, due)
            lowest = tl.where(three & (byte == 0xE0), 0xA0, 0x80)
            lowest = tl.where(four & (byte == 0xF0), 0x90, lowest)
            highest = tl.where(three & (byte == 0xED), 0x9F, 0xBF)
            highest = tl.where(four & (byte == 0xF4), 0x8F, highest)
            # A character broken off is one; the byte that did it is looked at again.
            at += tl.where(broken, 0, 1)
            if some:
                inside = position % _SEGMENT
                now = segment == (position // _SEGMENT) % 2
                stale = (now == 0) & (inside == 0)
                c1 = tl.where(stale, 0, c1)
                c2 = tl.where(stale, 0, c2)
                c3 = tl.where(stale, 0, c3)
                c4 = tl.where(stale, 0, c4)
                word = tl.where(stale, 0, word)
                before = tl.where(stale, 0, before)
                before2 = tl.where(stale, 0, before2)
                lone = tl.where(stale, 0, lone)
                length = tl.where(stale, 0, length)
                count = tl.where(stale, 0, count)
                new = tl.where(stale, 0, new)
                sums = tl.where(stale[:, None], 0, sums)
                seen = tl.where(stale[:, None], 0, seen)
                live = now | (inside >= _SEGMENT - _OVERLAP)

                page = tl.load(data + tl.load(common + _PAGES) + (cp >> 8))
                value = tl.load(data + tl.load(common + _VALUES) + page * 256 + (cp & 255))
                kind = value >> 24
                more = data + tl.load(common + _MORE) + tl.where(kind == 4, value & _BASE_MASK, 0)
                folded = tl.where(value == -1, cp, tl.where(value == -2, 2 << 24 | cp, value))
                codes = tl.where(kind == 4, tl.load(more), tl.where(kind == 3, 0, 1))
                for k in range(0, codes):
                    code = tl.where(kind == 4, tl.load(more + 1 + k), folded)
                    c1, c2, c3, c4, word, before, before2, lone, length, sums, seen, count, new = (
                        _symbol(
                            embeddings, live, code, c1, c2, c3, c4, word, before, before2, lone,
                            length, sums, seen, count, new, DIMENSIONS,
                        )
                    )  # fmt: skip
                position += 1
                if position % _STRIDE == 0:
                    # As if the text ended here.
                    ends = now & (length > 0)
                    v0, v1, v2, v3, v4, l0, l1, l2 = _ending(
                        ends, c1, c2, c3, c4, word, before, length
                    )
                    its_sums, _, its_count, its_new = _count_features(
                        embeddings, 0, 5, v0, v1, v2, v3, v4, v4, v4, v4,
                        l0, l1, l2, ends, ends, ends, ends, ends,
                        sums, seen, count, new, False, DIMENSIONS,
                    )  # fmt: skip
                    above = _above(
                        heads, biases, bounds, policy, now, its_sums, its_count, its_new,
                        DIMENSIONS, WATCHED,
                    )  # fmt: skip
                    start = tl.where(above != 0, tl.minimum(start, before_it + j), start)
                    end = tl.where(above != 0, 0, end)
    tl.store(of_row + _START, start)
    if local == 0:
        # What the first row has read is committed (``steps.decide``).
        target = row_scores + row.to(tl.int64) * WIDTH
        tl.store(target + _DUE, due.to(tl.int64))
        tl.store(target + _POINT, point.to(tl.int64))
        tl.store(target + _LOW, lowest.to(tl.int64))
        tl.store(target + _HIGH, highest.to(tl.int64))
        tl.store(target + _POSITION, position.to(tl.int64))
        tl.store(target + of_segment + _C1, c1)
        tl.store(target + of_segment + _C2, c2)
        tl.store(target + of_segment + _C3, c3)
        tl.store(target + of_segment + _C4, c4)
        tl.store(target + of_segment + _WORD, word)
        tl.store(target + of_segment + _BEFORE, before)
        tl.store(target + of_segment + _BEFORE2, before2)
        tl.store(target + of_segment + _LONE, lone)
        tl.store(target + of_segment + _LENGTH, length.to(tl.int64))
        tl.store(target + of_segment + _COUNT, count.to(tl.int64))
        tl.store(target + of_segment + _NEW, new.to(tl.int64))
        tl.store(target + at_sums, sums.to(tl.int64))
        tl.store(target + at_seen, seen)
