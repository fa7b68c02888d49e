# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202
"""Which tokens begin with a string, and which are one: a vocabulary as a trie of its keys.

A token's key is what it adds to one view of the text (``prism.match.kernel``). Keys are sorted, so
the tokens below a node of the trie are one contiguous range of ``order``, and those whose key ends
at the node come first in it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from prism.match import automaton as ac


class Lookup(NamedTuple):
    """``n`` nodes, node 0 the root; ``m`` entries, a token once for each of its keys."""

    edge_start: NDArray[np.int32]  # [n + 1]
    edge_symbol: NDArray[np.int32]  # [n - 1] ascending within a node
    edge_target: NDArray[np.int32]  # [n - 1]
    low: NDArray[np.int32]  # [n] tokens whose key begins with the node's string …
    high: NDArray[np.int32]  # [n] … are order[low:high] …
    exact: NDArray[np.int32]  # [n] … and those whose key it is are order[low:exact]
    order: NDArray[np.int32]  # [m] token ids


def build(
    symbols: NDArray[np.int32],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    tokens: NDArray[np.int32],
) -> Lookup:
    """Build the lookup of the keys ``symbols[starts[i]:starts[i] + sizes[i]]`` of ``tokens[i]``.

    Keys of no symbols are left out.
    """
    some = sizes > 0
    starts, sizes, tokens = starts[some], sizes[some], tokens[some]
    width = 4 * int(sizes.max(initial=1))
    padded = np.zeros((len(sizes), width), np.uint8)
    _pad(symbols, starts, sizes, padded)
    # Strings of bytes, big end first, in the order of their symbols; a prefix comes first.
    ranked = np.argsort(padded.view(f"S{width}")[:, 0], kind="stable")
    starts, sizes, tokens = starts[ranked], sizes[ranked], tokens[ranked]
    fresh = _fresh(symbols, starts, sizes)
    first = np.flatnonzero(fresh)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[first])])
    joined = np.empty(int(offsets[-1]), np.int32)
    _join(symbols, starts[first], offsets, joined)
    parent, symbol, depth = (np.zeros(int(offsets[-1]) + 1, np.int32) for _ in range(3))
    ends = np.full(int(offsets[-1]) + 1, -1, np.int32)
    n = int(ac.build_trie(joined, offsets, parent, symbol, depth, ends))
    parent, symbol, depth, ends = parent[:n], symbol[:n], depth[:n], ends[:n]
    # Sorted keys create a node's children in ascending order, so a stable sort keeps it.
    children = np.argsort(parent[1:], kind="stable").astype(np.int32) + 1
    edge_start = np.zeros(n + 1, np.int32)
    np.cumsum(np.bincount(parent[1:], minlength=n), out=edge_start[1:])
    bounds = np.concatenate([first, [len(tokens)]]).astype(np.int32)
    # Nodes are numbered as the keys are met: what ends below a node has the next numbers.
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(ends >= 0)])
    low = bounds[before[:-1]]
    high = bounds[before[_after_subtree(depth)]]
    own = np.where(ends >= 0, bounds[np.minimum(before[:-1] + 1, len(bounds) - 1)], low)
    exact = own.astype(np.int32)
    return Lookup(edge_start, symbol[children], children, low, high, exact, tokens)


@njit(cache=True)
def _pad(symbols, starts, sizes, out):
    for i in range(len(starts)):
        for j in range(sizes[i]):
            symbol = symbols[starts[i] + j]
            out[i, 4 * j + 1] = symbol >> 16 & 255
            out[i, 4 * j + 2] = symbol >> 8 & 255
            out[i, 4 * j + 3] = symbol & 255


@njit(cache=True)
def _fresh(symbols, starts, sizes):
    """Return where a key differs from the one before it."""
    fresh = np.ones(len(starts), np.bool_)
    for i in range(1, len(starts)):
        if sizes[i] == sizes[i - 1]:
            same = True
            for j in range(sizes[i]):
                if symbols[starts[i] + j] != symbols[starts[i - 1] + j]:
                    same = False
                    break
            fresh[i] = not same
    return fresh


@njit(cache=True)
def _join(symbols, starts, offsets, out):
    for i in range(len(starts)):
        for j in range(offsets[i + 1] - offsets[i]):
            out[offsets[i] + j] = symbols[starts[i] + j]


@njit(cache=True)
def _after_subtree(depth):
    """Return, per node, the number of the first node behind its subtree; preorder numbering."""
    n = len(depth)
    result = np.full(n, n, np.int64)
    path = np.zeros(n + 1, np.int64)
    top = 0
    for node in range(1, n):
        while top > 0 and depth[path[top]] >= depth[node]:
            result[path[top]] = node
            top -= 1
        top += 1
        path[top] = node
    return result


@njit(cache=True)
def child(edge_start, edge_symbol, edge_target, node, symbol):
    """Return the child of ``node`` by ``symbol``, or -1."""
    low, end = edge_start[node], edge_start[node + 1]
    high = end
    while low < high:
        middle = (low + high) >> 1
        if edge_symbol[middle] < symbol:
            low = middle + 1
        else:
            high = middle
    if low < end and edge_symbol[low] == symbol:
        return edge_target[low]
    return np.int32(-1)
