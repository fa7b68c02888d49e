# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202
"""Which tokens complete a phrase, for every state of an automaton.

For each split ``u·r`` of a pattern, the tokens that complete it at the node of ``u`` are those
whose key begins with ``r``: one range of the sorted vocabulary (``prism.steer.lookup``). Where the
phrase must end with a word, the token must end a word right behind ``r``: a range too, among the
keys cut off where a word ends. Read through the vocabulary's automaton, a pattern leads to the
longest ``r`` that tokens begin with; the others are on its fail chain.

A range is a *code*: a node of the vocabulary's trie, and which of its ranges (``KINDS``). Few nodes
have any, most of these have one, and phrases that end alike share them, so that all of a view lies
in one small int32 block.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prism.jit import njit
from prism.match import automaton as ac
from prism.match import scratch
from prism.match.entries import BOUNDED, BOUNDS, FLAGS, OF_PATTERN, TEXT
from prism.steer.lookup import Lookup

BITS, CODES, LISTS = range(3)
"""Where in a block its parts begin. ``BITS``: per 32 nodes which have ranges, which have any or
have a node on their fail chain that does, and how many before these have. ``CODES``: of each node
that has ranges its one code, or minus one minus the place of its list in ``LISTS``: how many codes,
and the codes."""
_HEADER = 3
BEGINS, IS, CUT_IS = range(3)
"""Kinds: tokens whose key begins with the node's string; whose key it is; the same of the keys cut
where a word ends."""
KIND_BITS = 2


class Patterns(NamedTuple):
    """An automaton; ``open``: which of its patterns may go on within a word; ``wanted``: which
    are to be completed at all. ``plain``: the view in which a separator is a symbol like any
    other."""

    block: ac.Block
    open: NDArray[np.bool_]  # [p]
    wanted: NDArray[np.bool_]  # [p]
    plain: bool


def compile_block(patterns: Patterns, whole: Lookup, cut: Lookup | None) -> NDArray[np.int32]:
    """Return the block of one view. ``cut`` holds keys up to where words end; the plain view has
    none."""
    block, n = patterns.block, int(patterns.block[ac.NODES])
    words = cut or whole
    tables = (whole.block, whole.low, whole.exact, words.block, words.low, words.exact)
    room = max(1024, n)
    while True:
        nodes, codes = scratch.zeros(room, np.int32), scratch.zeros(room, np.int32)
        count = int(_ranges(*patterns, *tables, ac.longest(block), nodes, codes))
        if count <= room:
            break
        room = count
    start = scratch.zeros(n + 1, np.int32)
    listed = scratch.zeros(count, np.int32)
    _by_node(nodes[:count], codes[:count], start, listed)
    del nodes, codes
    own = scratch.zeros(n, np.bool_)
    np.not_equal(start[1:], start[:-1], out=own)
    bits = scratch.zeros(3 * (n // 32 + 1), np.int32)
    _mark(block, own, scratch.zeros(n, np.uint8), bits)
    size = int(own.sum())
    singles, lists = scratch.zeros(size, np.int32), scratch.zeros(2 * count, np.int32)
    table = scratch.zeros(1 << (2 * size + 2).bit_length(), np.int32)
    table[:] = -1
    used = int(_intern(start, listed, singles, lists, table))
    parts = [bits, singles, lists[:used]]
    header = np.cumsum([_HEADER, *map(len, parts)])[:_HEADER].astype(np.int32)
    result: NDArray[np.int32] = scratch.joined([header, *parts])
    result.flags.writeable = False
    return result


def tokens_block(whole: Lookup, cut: Lookup | None) -> NDArray[np.int32]:
    """Return what codes stand for, in one block: the places of six arrays, and the arrays.

    They are ``low``, ``high`` and ``exact`` of the whole keys, ``low`` and ``exact`` of the cut
    ones, as places in the block, and the tokens.
    """
    words = cut or whole
    orders = [whole.order] if cut is None else [whole.order, words.order]
    sizes = [6, *(len(whole.low),) * 3, *(len(words.low),) * 2]
    places = np.cumsum(sizes)
    first = int(places[-1])
    second = first if cut is None else first + len(whole.order)
    parts = [
        places, *(part + first for part in (whole.low, whole.high, whole.exact)),
        *(part + second for part in (words.low, words.exact)), *orders,
    ]  # fmt: skip
    result: NDArray[np.int32] = np.concatenate([part.astype(np.int32) for part in parts])
    result.flags.writeable = False
    return result


def loose_patterns(entries: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return, per squeezed pattern, whether a phrase behind it may end within a word."""
    flags = entries[entries[FLAGS] : entries[BOUNDS]]
    return any_behind(entries, flags & BOUNDED == 0)


def any_behind(entries: NDArray[np.int32], marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return, per squeezed pattern, whether one of the phrases behind it is ``marked``, ``[e]``."""
    at = entries[entries[OF_PATTERN] : entries[TEXT]]
    some = np.concatenate([np.zeros(1, np.int32), np.cumsum(marked, dtype=np.int32)])
    result: NDArray[np.bool_] = some[at[1:]] > some[at[:-1]]
    return result


@njit(cache=True, nogil=True)
def _ranges(
    block, loose, wanted, plain, whole, whole_low, whole_exact, cut, cut_low, cut_exact, longest,
    nodes, codes,
):  # fmt: skip
    """List, per pattern and split, the range of tokens; return how many there are."""
    count = 0
    pairs, paths, depths = block[ac.PAIRS], block[ac.PATHS], block[ac.DEPTHS]
    # Along the pattern: its nodes, its symbols, and where the vocabulary's automata are.
    path, symbols = np.zeros(longest + 1, np.int32), np.zeros(longest + 1, np.int32)
    wholes, cuts = np.zeros(longest + 1, np.int32), np.zeros(longest + 1, np.int32)
    read_whole = plain or loose.any()
    for p in range(block[ac.PATTERNS]):
        size = block[depths + p] - 1
        # Also where it isn't wanted: the next pattern may begin with the same symbols.
        for node in range(block[paths + p], block[paths + p + 1]):
            size += 1
            symbol = block[pairs + 2 * node] & ac.SYMBOL
            path[size], symbols[size] = node, symbol
            if read_whole:
                wholes[size] = ac.advance(whole, wholes[size - 1], symbol)
            if not plain:
                cuts[size] = ac.advance(cut, cuts[size - 1], symbol)
        use_cut = not plain and not loose[p]
        if not wanted[p]:
            continue
        # What is left behind a split; in the plain view also without its closing separator, for
        # which the text's end may stand.
        for closed in range(2 if plain and symbols[size] == 32 else 1):
            at = cuts[size] if use_cut else wholes[size - closed]
            while at != 0:
                left = ac.depth_of(cut if use_cut else whole, at) + closed
                kind, some = BEGINS, True
                if use_cut:
                    kind, some = CUT_IS, cut_exact[at] > cut_low[at]
                elif closed:
                    kind, some = IS, whole_exact[at] > whole_low[at]
                # Behind the split; and once more with the split's own symbol before it, which a
                # repeat of a letter, or a second separator, does not push again.
                for again in range(2):
                    split = size - left + again
                    if not some or split < 1 or split > size:
                        continue
                    if again and plain and (symbols[split] != 32 or left < 2):
                        continue
                    if count < len(nodes):
                        nodes[count], codes[count] = path[split], at << KIND_BITS | kind
                    count += 1
                at = ac.fail_of(cut if use_cut else whole, at)
    return count


@njit(cache=True, nogil=True)
def _by_node(nodes, codes, start, listed):
    """Sort by node, codes ascending within one."""
    for node in nodes:
        start[node + 1] += 1
    for node in range(1, len(start)):
        start[node] += start[node - 1]
    for i in range(len(nodes)):
        at = start[nodes[i]]
        listed[at] = codes[i]
        start[nodes[i]] += 1
    for node in range(len(start) - 1, 0, -1):
        start[node] = start[node - 1]
    start[0] = 0
    for node in range(len(start) - 1):
        for i in range(start[node] + 1, start[node + 1]):
            code, k = listed[i], i
            while k > start[node] and listed[k - 1] > code:
                listed[k] = listed[k - 1]
                k -= 1
            listed[k] = code


@njit(cache=True, nogil=True)
def _mark(block, own, known, bits):
    """Write which nodes have ranges, and which have some on their way to the root."""
    known[0] = 1
    rank = 0
    for node in range(len(own)):
        at = node
        while known[at] == 0 and not own[at]:
            at = ac.fail_of(block, np.int32(at))
        verdict = np.uint8(2 if own[at] else known[at])
        at = node
        while known[at] == 0:
            known[at] = verdict
            at = ac.fail_of(block, np.int32(at))
        word, bit = 3 * (node >> 5), np.int64(1) << (node & 31)
        if node & 31 == 0:
            bits[word + 2] = rank
        if own[node]:
            bits[word] |= bit
            rank += 1
        if known[node] == 2:
            bits[word + 1] |= bit


@njit(cache=True, nogil=True)
def _intern(start, listed, singles, lists, table):
    """Write each node's code, or its list where no list is like it; return their size."""
    used, own = 0, 0
    mask = len(table) - 1
    for node in range(len(start) - 1):
        first, size = start[node], start[node + 1] - start[node]
        if size == 0:
            continue
        if size == 1:
            singles[own] = listed[first]
            own += 1
            continue
        mixed = np.uint64(14695981039346656037)
        for i in range(first, first + size):
            mixed = (mixed ^ np.uint64(listed[i])) * np.uint64(1099511628211)
        slot = np.int64((mixed ^ (mixed >> np.uint64(29))) & np.uint64(mask))
        while True:
            at = table[slot]
            if at < 0:
                at = used
                table[slot] = at
                lists[at] = size
                for i in range(size):
                    lists[at + 1 + i] = listed[first + i]
                used += 1 + size
                break
            same = lists[at] == size
            for i in range(size):
                same = same and lists[at + 1 + i] == listed[first + i]
            if same:
                break
            slot = (slot + 1) & mask
        singles[own] = -1 - at
        own += 1
    return used


@njit(cache=True)
def has_any(block, node):
    """Return whether the node, or one on its fail chain, has ranges."""
    return block[block[BITS] + 3 * (node >> 5) + 1] >> (node & 31) & 1


@njit(cache=True)
def codes_at(block, node):
    """Return where the codes of ``node`` begin in ``block``, and how many there are."""
    at = block[BITS] + 3 * (node >> 5)
    own = np.int64(block[at]) & 0xFFFFFFFF
    if not own >> (node & 31) & 1:
        return np.int64(0), np.int64(0)
    before = own & ((np.int64(1) << (node & 31)) - 1)
    before = before - (before >> 1 & 0x55555555)
    before = (before & 0x33333333) + (before >> 2 & 0x33333333)
    before = ((before + (before >> 4) & 0x0F0F0F0F) * 0x01010101 & 0xFFFFFFFF) >> 24
    place = np.int64(block[CODES]) + block[at + 2] + before
    if block[place] >= 0:
        return place, np.int64(1)
    place = np.int64(block[LISTS]) - 1 - block[place]
    return place + 1, np.int64(block[place])


@njit(cache=True)
def range_of(tokens, code):
    """Return the tokens of a code: where they begin in ``tokens`` (``tokens_block``), and end."""
    node, kind = code >> KIND_BITS, code & ((1 << KIND_BITS) - 1)
    if kind == BEGINS:
        return tokens[tokens[0] + node], tokens[tokens[1] + node]
    if kind == IS:
        return tokens[tokens[0] + node], tokens[tokens[2] + node]
    return tokens[tokens[3] + node], tokens[tokens[4] + node]


START, LOW, HIGH, ANY, FAIL_LINK = range(5)
"""Where in a spread block its parts begin: per node its first range (``[n + 1]``), per range its
first and last place in the block, per node whether it or a node on its fail chain has any, and the
fail links."""


def spread(
    completions: NDArray[np.int32], tokens: NDArray[np.int32], block: ac.Block
) -> NDArray[np.int32]:
    """Return a view's ranges as plain arrays in one block, as devices read them."""
    n = int(block[ac.NODES])
    start, any_, fail = np.zeros(n + 1, np.int32), np.zeros(n, np.int32), np.zeros(n, np.int32)
    count = int(_count(completions, block, start, any_, fail))
    lows, highs = np.zeros(count, np.int32), np.zeros(count, np.int32)
    _spread(completions, tokens, start, lows, highs)
    header = np.cumsum([5, len(start), count, count, n])
    order = tokens[tokens[5] :]
    base = int(header[-1]) + n - int(tokens[5])
    parts = [header, start, lows + base, highs + base, any_, fail, order]
    result: NDArray[np.int32] = np.concatenate([part.astype(np.int32) for part in parts])
    return result


@njit(cache=True)
def _count(completions, block, start, any_, fail):
    count = 0
    for node in range(len(any_)):
        start[node] = count
        count += codes_at(completions, node)[1]
        any_[node] = has_any(completions, node)
        fail[node] = ac.fail_of(block, np.int32(node))
    start[len(any_)] = count
    return count


@njit(cache=True)
def _spread(completions, tokens, start, lows, highs):
    for node in range(len(start) - 1):
        at, size = codes_at(completions, node)
        for i in range(size):
            low, high = range_of(tokens, completions[at + i])
            lows[start[node] + i], highs[start[node] + i] = low, high
