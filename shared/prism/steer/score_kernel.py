# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202
"""The sketch over output tokens: bytes to characters to features, for all rows of a step at once.

The features are the sketch's own (``prism.classify.features``), fed with what each token adds.
Bytes are decoded as ``bytes.decode("utf-8", "replace")`` does, so that positions in the text are
those of the decoded text, and the sums those of a ``SketchStream`` that reads it.
"""

from __future__ import annotations

import numpy as np

from prism.classify import features
from prism.classify.cascade import OVERLAP, SEGMENT
from prism.jit import njit

STRIDE = 32
"""Code points between places where the score is looked at: about 8 tokens."""

SEEN = 64
"""uint64 words of a filter for the features that a segment has had."""
_BITS = 64 * SEEN - 1

# A row's int64 fields. Of the character being read: continuation bytes due, its value so far, and
# between which values the next byte may lie. Then code points read; and of the segment, and of the
# next one, which begins with this one's end, how many features, and how many different ones.
DUE, POINT, LOW, HIGH, POSITION, COUNT, NEW, NEXT_COUNT, NEXT_NEW = range(9)
MARKS = 9
_BAD = 0xFFFD
_features = features.read
_finish = features.finish
_accumulate = features.accumulate


@njit(cache=True)
def _decode(byte, mark, cps, count):
    """Read one byte; append the characters it completes to ``cps``; return how many there are."""
    b = np.int64(byte)
    if mark[DUE] > 0:
        if mark[LOW] <= b <= mark[HIGH]:
            mark[POINT] = mark[POINT] << 6 | b & 0x3F
            mark[LOW], mark[HIGH] = 0x80, 0xBF
            mark[DUE] -= 1
            if mark[DUE] == 0:
                cps[count] = mark[POINT]
                count += 1
            return count
        mark[DUE] = 0
        cps[count] = _BAD
        count += 1
    if b < 0x80:
        cps[count] = b
        return count + 1
    mark[LOW], mark[HIGH] = 0x80, 0xBF
    if 0xC2 <= b < 0xE0:
        mark[DUE], mark[POINT] = 1, b & 0x1F
    elif 0xE0 <= b < 0xF0:
        mark[DUE], mark[POINT] = 2, b & 0x0F
        if b == 0xE0:
            mark[LOW] = 0xA0
        elif b == 0xED:
            mark[HIGH] = 0x9F
    elif 0xF0 <= b < 0xF5:
        mark[DUE], mark[POINT] = 3, b & 0x07
        if b == 0xF0:
            mark[LOW] = 0x90
        elif b == 0xF4:
            mark[HIGH] = 0x8F
    else:
        cps[count] = _BAD
        return count + 1
    return count


@njit(cache=True)
def _first_time(buckets, count, seen, keep):
    """Return how many features were not there before, by the filter, which learns them to keep."""
    new = 0
    for i in range(count):
        at = buckets[i] & _BITS
        bit = np.uint64(1) << np.uint64(at & 63)
        if seen[at >> 6] & bit == 0:
            new += 1
            if keep:
                seen[at >> 6] |= bit
    return new


@njit(cache=True)
def _add(fold, embeddings, hashes, sums, seen, cps, buffer):
    """Read characters into a segment; return how many features they gave, how many new ones."""
    total, new, i = 0, 0, 0
    while i < len(cps):
        i, found = _features(fold, hashes, cps, i, buffer)
        _accumulate(embeddings, buffer, found, sums)
        new += _first_time(buffer, found, seen, True)
        total += found
    return total, new


@njit(cache=True)
def damping(count, new):
    """Return by what the sums of ``count`` features, ``new`` different ones, are multiplied.

    The sketch divides them by the square root of their number. So a harmless sentence said over and
    over scores ever higher, and models do loop. Here the mean feature counts as often as there are
    different ones: a loop scores as what is looped does, and no text higher than by the sketch.
    """
    return np.sqrt(np.float64(new) / np.float64(max(count, 1)))


@njit(cache=True)
def _above(
    embeddings, heads, biases, bounds, hashes, sums, seen, count, new, spare_hashes, spare, buffer
):
    """Whether the text, ending here, reaches the bound of a category that is watched."""
    for k in range(len(hashes)):
        spare_hashes[k] = hashes[k]
    for k in range(len(sums)):
        spare[k] = sums[k]
    found = _finish(spare_hashes, buffer)
    _accumulate(embeddings, buffer, found, spare)
    new += _first_time(buffer, found, seen, False)
    count += found
    scale = damping(count, new) / np.sqrt(np.float64(max(count, 1)))
    for c in range(len(bounds)):
        dot = 0.0
        for k in range(len(spare)):
            dot += heads[c, k] * spare[k]
        if dot * scale + biases[c] >= bounds[c]:
            return True
    return False


@njit(cache=True)
def _token(
    fold, embeddings, heads, biases, bounds, hashes, sums, seen, mark,
    data, start, end, cps, spare_hashes, spare, buffer,
):  # fmt: skip
    """Read one token into one row; return whether the score was too high at a place in it."""
    count = 0
    for i in range(start, end):
        if data[i] < 0x80 and mark[DUE] == 0:
            cps[count] = data[i]
            count += 1
        else:
            count = _decode(data[i], mark, cps, count)
    above = False
    at = 0
    position = mark[POSITION]
    while at < count:
        inside = position % SEGMENT
        if inside == 0 and position > 0:
            hashes[0], sums[0], seen[0] = hashes[1], sums[1], seen[1]
            mark[COUNT], mark[NEW] = mark[NEXT_COUNT], mark[NEXT_NEW]
            hashes[1] = 0
            sums[1] = 0
            seen[1] = 0
            mark[NEXT_COUNT] = mark[NEXT_NEW] = 0
        n = min(STRIDE - position % STRIDE, count - at)
        part = cps[at : at + n]
        found, new = _add(fold, embeddings, hashes[0], sums[0], seen[0], part, buffer)
        mark[COUNT] += found
        mark[NEW] += new
        if inside >= SEGMENT - OVERLAP:
            found, new = _add(fold, embeddings, hashes[1], sums[1], seen[1], part, buffer)
            mark[NEXT_COUNT] += found
            mark[NEXT_NEW] += new
        position += n
        at += n
        if position % STRIDE == 0:
            above |= _above(
                embeddings, heads, biases, bounds, hashes[0], sums[0], seen[0], mark[COUNT],
                mark[NEW], spare_hashes, spare, buffer,
            )  # fmt: skip
    mark[POSITION] = position
    return above


@njit(cache=True)
def feed_rows(
    fold, embeddings, heads, biases, bounds, hashes, sums, seen, marks, slots, tokens,
    data, offsets, cps, buffer, above,
):  # fmt: skip
    """Read one token into each of ``slots``; ``above`` uint8 ``[rows]``: where the score is high.

    ``embeddings`` int8 ``[buckets, d]``, ``heads`` float64 ``[watched, d]``, ``biases`` and
    ``bounds`` (log odds) ``[watched]``. ``hashes`` uint64 ``[slots, 2, STATE]``, ``sums`` int64
    ``[slots, 2, d]`` and ``seen`` uint64 ``[slots, 2, SEEN]`` of the segment and of the next one,
    ``marks`` int64 ``[slots, MARKS]``. ``cps`` int32 has room for one more than the bytes of the
    longest token.
    """
    spare_hashes, spare = hashes[0, 0].copy(), sums[0, 0].copy()
    for i in range(len(slots)):
        k, token = slots[i], tokens[i]
        above[i] = _token(
            fold, embeddings, heads, biases, bounds, hashes[k], sums[k], seen[k], marks[k],
            data, offsets[token], offsets[token + 1], cps, spare_hashes, spare, buffer,
        )  # fmt: skip


@njit(cache=True)
def feed_tokens(
    fold, embeddings, heads, biases, bounds, hashes, sums, seen, marks, slot, tokens,
    data, offsets, cps, buffer,
):  # fmt: skip
    """Read tokens into one row; return how many it took until the score was too high, or -1.

    All of them are read.
    """
    spare_hashes, spare = hashes[0, 0].copy(), sums[0, 0].copy()
    first = -1
    for i in range(len(tokens)):
        token = tokens[i]
        above = _token(
            fold, embeddings, heads, biases, bounds, hashes[slot], sums[slot], seen[slot],
            marks[slot], data, offsets[token], offsets[token + 1], cps, spare_hashes, spare, buffer,
        )  # fmt: skip
        if above and first < 0:
            first = i + 1
    return first


@njit(cache=True)
def ended(embeddings, hashes, sums, seen, mark, buffer):
    """Return a row's sums, features and different features, as if its text ended here."""
    result = sums.copy()
    found = _finish(hashes.copy(), buffer)
    _accumulate(embeddings, buffer, found, result)
    return result, mark[COUNT] + found, mark[NEW] + _first_time(buffer, found, seen, False)
