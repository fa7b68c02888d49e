# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN202
"""Which tokens begin with a string, and which are one: a vocabulary as a trie of its keys.

A token's key is what it adds to one view of the text (``prism.match.kernel``). Keys are sorted, so
the tokens below a node of the trie are one contiguous range of ``order``, and those whose key ends
at the node come first in it. The trie is an automaton (``prism.match.automaton``), so that one walk
over a phrase finds every end of it that tokens begin with.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prism.jit import njit
from prism.match import automaton as ac
from prism.match import spelling


class Lookup(NamedTuple):
    """``n`` nodes, node 0 the root; ``m`` entries, a token once for each of its keys."""

    block: ac.Block
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
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    keys = np.empty(int(bounds[-1]), np.int32)
    _join(symbols, starts, bounds, keys)
    order = np.arange(len(tokens), dtype=np.int64)
    spelling.sort_keys(keys, bounds, order)
    groups = np.zeros(len(order), np.int64)
    count = int(spelling.group(keys, bounds, order, groups))
    first = spelling.runs(groups, count)
    heads = order[first[:-1]]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[heads])])
    joined = np.empty(int(offsets[-1]), np.int32)
    _join(keys, bounds[heads], offsets, joined)
    block = ac.assemble(joined, offsets)
    views = ac.unpack(block)
    # Nodes are numbered as the keys are met: what ends below a node has the next numbers.
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(views.output >= 0)])
    low = first[before[:-1]]
    high = first[before[_after_subtree(views.depth)]]
    own = np.where(views.output >= 0, first[np.minimum(before[:-1] + 1, count)], low)
    return Lookup(block, low, high, own.astype(np.int32), tokens[order])


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
