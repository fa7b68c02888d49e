# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202
"""The phrase automaton: Aho-Corasick (CACM 18(6), 1975) in flat arrays, built and walked by Numba.

A pattern is a string of symbols; a symbol is a normalised character, a space standing for any run
of separators. Edges are kept as sorted runs per node (CSR), so that memory grows with the patterns
alone and 100,000 of them build in about a second. ``depth`` says how much of a stream a node still
holds open. All arrays lie in one int32 block, which makes a call cheap and lets processes share a
file.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray


class Views(NamedTuple):
    """Arrays inside a block; node 0 is the root. ``n`` nodes, ``p`` patterns, ``n - 1`` edges."""

    edge_start: NDArray[np.int32]  # [n + 1] edges of node v are edge_start[v]:edge_start[v + 1]
    edge_symbol: NDArray[np.int32]  # [n - 1] ascending within a node
    edge_target: NDArray[np.int32]  # [n - 1]
    fail: NDArray[np.int32]  # [n] longest proper suffix that is a node
    depth: NDArray[np.int32]  # [n]
    output: NDArray[np.int32]  # [n] pattern that ends here, or -1
    output_link: NDArray[np.int32]  # [n] nearest node on the fail chain with an output, or 0


Block = NDArray[np.int32]
"""Node count, seven offsets in the order of ``Views``, padding, the root's ASCII children,
arrays."""

NODES, EDGE_START, EDGE_SYMBOL, EDGE_TARGET, FAIL, DEPTH, OUTPUT, OUTPUT_LINK = range(8)
ROOT_ASCII = 16
_HEADER = ROOT_ASCII + 128


def pack(views: Views) -> Block:
    """Lay the arrays out in one block."""
    offsets = np.cumsum([_HEADER, *(len(array) for array in views)])
    block = np.zeros(int(offsets[-1]), np.int32)
    block[NODES] = len(views.fail)
    for i, array in enumerate(views):
        block[EDGE_START + i] = offsets[i]
        block[offsets[i] : offsets[i + 1]] = array
    for edge in range(int(views.edge_start[0]), int(views.edge_start[1])):
        if views.edge_symbol[edge] < 128:
            block[ROOT_ASCII + views.edge_symbol[edge]] = views.edge_target[edge]
    return block


def unpack(block: Block) -> Views:
    """Return the arrays of ``block`` as views, without copying."""
    bounds = [*block[EDGE_START : OUTPUT_LINK + 1].tolist(), len(block)]
    return Views(*(block[a:b] for a, b in pairwise(bounds)))


@njit(cache=True)
def build_trie(symbols, offsets, parent, symbol, depth, output):
    """Insert lexicographically sorted, distinct patterns; return the node count."""
    nodes = 1
    longest = 0
    for p in range(len(offsets) - 1):
        longest = max(longest, offsets[p + 1] - offsets[p])
    path = np.zeros(longest + 1, np.int32)
    previous, previous_length = 0, 0
    for p in range(len(offsets) - 1):
        start, length = offsets[p], offsets[p + 1] - offsets[p]
        common = 0
        while (
            common < length
            and common < previous_length
            and symbols[start + common] == symbols[previous + common]
        ):
            common += 1
        for i in range(common, length):
            parent[nodes] = path[i]
            symbol[nodes] = symbols[start + i]
            depth[nodes] = i + 1
            path[i + 1] = nodes
            nodes += 1
        output[path[length]] = p
        previous, previous_length = start, length
    return nodes


@njit(cache=True)
def advance(block, node, symbol):
    """Return the node after reading ``symbol``: the longest suffix that is a pattern's prefix."""
    starts = block[EDGE_START]
    symbols = block[EDGE_SYMBOL]
    while True:
        if node == 0 and symbol < 128:
            return block[ROOT_ASCII + symbol]
        low, end = block[starts + node], block[starts + node + 1]
        high = end
        while low < high:
            middle = (low + high) >> 1
            if block[symbols + middle] < symbol:
                low = middle + 1
            else:
                high = middle
        if low < end and block[symbols + low] == symbol:
            return block[block[EDGE_TARGET] + low]
        if node == 0:
            return np.int32(0)
        node = block[block[FAIL] + node]


@njit(cache=True)
def _link(block, order, parent, symbol):
    fail, output, link = block[FAIL], block[OUTPUT], block[OUTPUT_LINK]
    for node in order:
        if node == 0:
            continue
        up = parent[node]
        if up != 0:
            block[fail + node] = advance(block, block[fail + up], symbol[node])
        f = block[fail + node]
        block[link + node] = f if block[output + f] >= 0 else block[link + f]


def build(patterns: Sequence[str]) -> Block:
    """Build the automaton of distinct, non-empty ``patterns``; outputs index them when sorted."""
    distinct = sorted(patterns)
    lengths = np.array([len(p) for p in distinct], np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    symbols = np.frombuffer("".join(distinct).encode("utf-32-le", "surrogatepass"), np.int32)
    size = int(offsets[-1]) + 1
    parent = np.zeros(size, np.int32)
    symbol = np.zeros(size, np.int32)
    depth = np.zeros(size, np.int32)
    output = np.full(size, -1, np.int32)
    n = int(build_trie(symbols, offsets, parent, symbol, depth, output))
    parent, symbol, depth, output = parent[:n], symbol[:n], depth[:n], output[:n]
    # Sorted patterns create a node's children in ascending order, so a stable sort keeps it.
    children = np.argsort(parent[1:], kind="stable").astype(np.int32) + 1
    edge_start = np.zeros(n + 1, np.int32)
    np.cumsum(np.bincount(parent[1:], minlength=n), out=edge_start[1:])
    zeros = np.zeros(n, np.int32)
    block = pack(Views(edge_start, symbol[children], children, zeros, depth, output, zeros))
    _link(block, np.argsort(depth, kind="stable"), parent, symbol)
    return block


def subtree_any(block: Block, marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return, per node, whether a *proper* descendant ends a marked pattern. ``marked``:
    ``[p]``."""
    views = unpack(block)
    result = np.zeros(len(views.fail), np.bool_)
    own = np.zeros(len(views.fail), np.bool_)
    ends = views.output >= 0
    own[ends] = marked[views.output[ends]]
    sources = np.repeat(np.arange(len(views.fail)), np.diff(views.edge_start))
    # Deepest edges first: one pass settles every ancestor.
    order = np.argsort(-views.depth[views.edge_target], kind="stable")
    _propagate(order, sources, views.edge_target, own, result)
    return result


@njit(cache=True)
def _propagate(order, sources, targets, own, result):
    for edge in order:
        if own[targets[edge]] or result[targets[edge]]:
            result[sources[edge]] = True
