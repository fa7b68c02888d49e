# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202
"""The phrase automaton: Aho-Corasick (CACM 18(6), 1975) in one flat block, built and walked by
Numba.

A pattern is a string of symbols; a symbol is a normalised character, a space standing for any run
of separators. Patterns are inserted in order, so nodes are numbered in preorder: a node's first
child is the next node, and all but the first child of a node begin a *path*, one per pattern. That
leaves two numbers a node, side by side in memory:

* its word: the symbol that leads to it, ``CHILD`` (there is one), ``BRANCH`` (there are several),
  ``TERMINAL`` (a pattern ends here), ``SUFFIX`` (one ends at a proper suffix), and its depth as far
  as seven bits hold it;
* its link: the longest proper suffix that is a node, or where a branching node's record is, and in
  the upper bits what may be held back there (``prism.match.kernel``).

A branching node's record is its suffix link, the number of its children, their symbols ascending,
and the children. ``PATHS`` and ``DEPTHS`` say where each pattern's path begins; the last node of
path ``p`` is where pattern ``p`` ends. All of it is one int32 array, which makes a call cheap and
lets processes share a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prism.jit import njit
from prism.match import scratch

Block = NDArray[np.int32]
# Header: numbers of nodes and patterns; where pairs (word, link), paths and their depths begin;
# the root's ASCII children.
NODES, PATTERNS, PAIRS, PATHS, DEPTHS = range(5)
ROOT_ASCII = 16
_HEADER = ROOT_ASCII + 128

SYMBOL = (1 << 21) - 1
CHILD, BRANCH, TERMINAL, SUFFIX = 1 << 21, 1 << 22, 1 << 23, 1 << 24
_DEPTH_SHIFT, _DEEP = 25, 127
PLACE = (1 << 28) - 1
HELD_SHIFT = 28
# What may still be held at a node: a held pattern goes on, one without word boundaries is here or
# goes on, one ends. And whether any pattern, held or not, without word boundaries does.
OPEN, LOOSE, ENDS, FREE = 1, 2, 4, 8


class TooManyPhrasesError(ValueError):
    """The phrases need more nodes than an automaton can number."""


class Views(NamedTuple):
    """An automaton as plain arrays; node 0 is the root. ``n`` nodes, ``n - 1`` edges."""

    edge_start: NDArray[np.int32]  # [n + 1] edges of node v are edge_start[v]:edge_start[v + 1]
    edge_symbol: NDArray[np.int32]  # [n - 1] ascending within a node
    edge_target: NDArray[np.int32]  # [n - 1]
    fail: NDArray[np.int32]  # [n] longest proper suffix that is a node
    depth: NDArray[np.int32]  # [n]
    output: NDArray[np.int32]  # [n] pattern that ends here, or -1
    output_link: NDArray[np.int32]  # [n] nearest node on the fail chain with an output, or 0


@njit(cache=True, nogil=True)
def child_of(block, node, symbol):
    """Return the child of ``node`` by ``symbol``, or 0."""
    if node == 0 and symbol < 128:
        return block[ROOT_ASCII + symbol]
    at = block[PAIRS] + 2 * node
    word = block[at]
    if word & BRANCH:
        link = block[at + 1] & PLACE
        count = block[link + 1]
        low, high = link + 2, link + 2 + count
        end = high
        while low < high:
            middle = (low + high) >> 1
            if block[middle] < symbol:
                low = middle + 1
            else:
                high = middle
        if low < end and block[low] == symbol:
            return block[low + count]
    elif word & CHILD and block[at + 2] & SYMBOL == symbol:
        return np.int32(node + 1)
    return np.int32(0)


@njit(cache=True, nogil=True)
def fail_of(block, node):
    """Return the longest proper suffix of ``node`` that is a node."""
    at = block[PAIRS] + 2 * node
    link = block[at + 1] & PLACE
    if block[at] & BRANCH:
        return block[link]
    return np.int32(link)


@njit(cache=True, nogil=True)
def advance(block, node, symbol):
    """Return the node after reading ``symbol``: the longest suffix that is a pattern's prefix."""
    while True:
        child = child_of(block, node, symbol)
        if child != 0 or node == 0:
            return child
        node = fail_of(block, node)


@njit(cache=True, nogil=True)
def path_of(block, node):
    """Return the path that ``node`` (not the root) is on; at its end that is the pattern."""
    paths = block[PATHS]
    low, high = 0, block[PATTERNS]
    while high - low > 1:
        middle = (low + high) >> 1
        if block[paths + middle] <= node:
            low = middle
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def depth_of(block, node):
    """Return how many symbols lead to ``node``: what of a stream it still holds open."""
    depth = block[block[PAIRS] + 2 * node] >> _DEPTH_SHIFT & _DEEP
    if depth < _DEEP:
        return np.int64(depth)
    path = path_of(block, node)
    return np.int64(block[block[DEPTHS] + path] + node - block[block[PATHS] + path])


@njit(cache=True, nogil=True)
def held_at(block, node):
    """Return ``OPEN``, ``LOOSE``, ``ENDS`` and ``FREE`` of ``node``."""
    return block[block[PAIRS] + 2 * node + 1] >> HELD_SHIFT & 15


@njit(cache=True, nogil=True)
def _trace(symbols, bounds, starts, depths, parents):
    """Find each pattern's path: its first node, that node's depth and parent. Return the nodes."""
    longest = 0
    for p in range(len(bounds) - 1):
        longest = max(longest, bounds[p + 1] - bounds[p])
    path = np.zeros(longest + 1, np.int64)
    nodes = 1
    previous, previous_length = 0, 0
    for p in range(len(bounds) - 1):
        start, length = bounds[p], bounds[p + 1] - bounds[p]
        common = 0
        while (
            common < length
            and common < previous_length
            and symbols[start + common] == symbols[previous + common]
        ):
            common += 1
        starts[p], depths[p], parents[p] = nodes, common + 1, path[common]
        for i in range(common, length):
            path[i + 1] = nodes
            nodes += 1
        previous, previous_length = start, length
    starts[len(bounds) - 1] = nodes
    return nodes


@njit(cache=True, nogil=True)
def _branches(starts, parents, extra):
    """Count the children of each node behind its first; return the room their records take."""
    room = 0
    for p in range(len(parents)):
        if starts[p] != parents[p] + 1:
            room += 2 if extra[parents[p]] else 6
            extra[parents[p]] += 1
    return room


@njit(cache=True, nogil=True)
def _fill(block, symbols, bounds, starts, depths, parents, extra, held, loose, free, records):
    """Write words, records and what is held; ``records`` is where the latter begin."""
    pairs = block[PAIRS]
    for p in range(len(parents)):
        first, last = starts[p], starts[p + 1] - 1
        block[pairs + 2 * parents[p]] |= CHILD
        at = bounds[p] + depths[p] - 1
        for node in range(first, last + 1):
            depth = min(depths[p] + node - first, _DEEP)
            flags = TERMINAL if node == last else CHILD
            block[pairs + 2 * node] = symbols[at] | flags | depth << _DEPTH_SHIFT
            at += 1
        bits = (ENDS if held[p] else 0) | (LOOSE if loose[p] else 0) | (FREE if free[p] else 0)
        block[pairs + 2 * last + 1] = bits << HELD_SHIFT
    top = records
    for node in range(block[NODES]):
        if extra[node]:
            count = extra[node] + 1
            block[pairs + 2 * node] |= BRANCH
            block[pairs + 2 * node + 1] |= top
            block[top + 1] = count
            block[top + 2] = block[pairs + 2 * node + 2] & SYMBOL
            block[top + 2 + count] = node + 1
            top += 2 + 2 * count
            extra[node] = 1
    for p in range(len(parents)):
        parent = parents[p]
        if starts[p] != parent + 1:
            record = block[pairs + 2 * parent + 1] & PLACE
            at = record + 2 + extra[parent]
            block[at] = block[pairs + 2 * starts[p]] & SYMBOL
            block[at + block[record + 1]] = starts[p]
            extra[parent] += 1
    for p in range(len(parents)):
        if parents[p] == 0:
            symbol = block[pairs + 2 * starts[p]] & SYMBOL
            if symbol < 128:
                block[ROOT_ASCII + symbol] = starts[p]


@njit(cache=True, nogil=True)
def _by_depth(starts, depths, counts, order, parent_of):
    """List nodes by depth, preorder within a depth, and each one's parent as ``parents`` has it."""
    for p in range(len(depths)):
        for i in range(starts[p + 1] - starts[p]):
            counts[depths[p] + i + 1] += 1
    for d in range(1, len(counts)):
        counts[d] += counts[d - 1]
    for p in range(len(depths)):
        for i in range(starts[p + 1] - starts[p]):
            at = counts[depths[p] + i]
            order[at] = starts[p] + i
            parent_of[at] = starts[p] + i - 1 if i else -1 - p
            counts[depths[p] + i] += 1


@njit(cache=True, nogil=True)
def _link(block, order, parent_of, parents):
    pairs = block[PAIRS]
    for i in range(len(order)):
        node, parent = order[i], np.int64(parent_of[i])
        if parent < 0:
            parent = parents[-1 - parent]
        fail = np.int32(0)
        if parent != 0:
            symbol = block[pairs + 2 * node] & SYMBOL
            fail = advance(block, fail_of(block, np.int32(parent)), symbol)
        if block[pairs + 2 * node] & BRANCH:
            block[block[pairs + 2 * node + 1] & PLACE] = fail
        else:
            block[pairs + 2 * node + 1] |= fail
        if block[pairs + 2 * fail] & (TERMINAL | SUFFIX):
            block[pairs + 2 * node] |= SUFFIX


@njit(cache=True, nogil=True)
def _hold(block, starts, parents):
    """Pass on to ancestors what is held below them; children have the higher numbers."""
    pairs = block[PAIRS]
    for p in range(len(parents) - 1, -1, -1):
        for node in range(starts[p + 1] - 1, starts[p] - 1, -1):
            parent = parents[p] if node == starts[p] else node - 1
            bits = block[pairs + 2 * node + 1] >> HELD_SHIFT & 15
            up = (OPEN if bits & (OPEN | ENDS) else 0) | bits & (LOOSE | FREE)
            block[pairs + 2 * parent + 1] |= up << HELD_SHIFT


def assemble(
    symbols: NDArray[np.int32],
    bounds: NDArray[np.int64],
    held: NDArray[np.bool_] | None = None,
    loose: NDArray[np.bool_] | None = None,
    free: NDArray[np.bool_] | None = None,
) -> Block:
    """Build the automaton of the patterns ``symbols[bounds[p]:bounds[p + 1]]``, read-only.

    They must be distinct, non-empty and ascending. ``held``, ``loose`` and ``free`` (``[p]``):
    whose text is held back, whose also within words, and which are looked for there at all.
    Raises ``TooManyPhrasesError``.
    """
    count = len(bounds) - 1
    starts, depths, parents = (np.zeros(count + extra, np.int64) for extra in (1, 0, 0))
    n = int(_trace(symbols, bounds, starts, depths, parents))
    extra = scratch.zeros(n, np.int32)
    room = int(_branches(starts, parents, extra))
    records = _HEADER + 2 * n
    paths = records + room
    if paths + 2 * count + 1 > PLACE:
        raise TooManyPhrasesError(f"{count} phrases need {n} nodes: split the policy's list")
    block: Block = scratch.zeros(paths + 2 * count + 1, np.int32)
    block[[NODES, PATTERNS, PAIRS, PATHS, DEPTHS]] = n, count, _HEADER, paths, paths + count + 1
    block[paths : paths + count + 1] = starts
    block[paths + count + 1 :] = depths
    nothing = np.zeros(count, np.bool_)
    marks = [nothing if marked is None else marked for marked in (held, loose, free)]
    _fill(block, symbols, bounds, starts, depths, parents, extra, *marks, records)
    longest = int((depths + np.diff(starts)).max(initial=0))
    del extra
    order, parent_of = scratch.zeros(n - 1, np.int32), scratch.zeros(n - 1, np.int32)
    _by_depth(starts, depths, np.zeros(longest + 2, np.int64), order, parent_of)
    _link(block, order, parent_of, parents)
    _hold(block, starts, parents)
    block.flags.writeable = False
    return block


def build(patterns: Sequence[str]) -> Block:
    """Build the automaton of distinct, non-empty ``patterns``; outputs index them when sorted."""
    distinct = sorted(patterns)
    bounds = np.cumsum([0, *map(len, distinct)], dtype=np.int64)
    joined = "".join(distinct).encode("utf-32-le", "surrogatepass")
    return assemble(np.frombuffer(joined, np.int32), bounds)


def longest(block: Block) -> int:
    """Return how many symbols the longest pattern has; 0 where there is none."""
    count = int(block[PATTERNS])
    paths = block[block[PATHS] : block[PATHS] + count + 1]
    depths = block[block[DEPTHS] : block[DEPTHS] + count]
    return int((depths + np.diff(paths) - 1).max(initial=0))


def most_at_once(block: Block, weights: NDArray[np.int64]) -> int:
    """Return the greatest sum of ``weights`` (``[p]``) of patterns that end at one symbol."""
    return int(_most_at_once(block, weights))


@njit(cache=True, nogil=True)
def _most_at_once(block, weights):
    pairs, paths = block[PAIRS], block[PATHS]
    most = np.int64(0)
    for p in range(len(weights)):
        # Whatever ends together ends at the longest pattern among it and its suffixes.
        node, total = np.int32(block[paths + p + 1] - 1), weights[p]
        while block[pairs + 2 * node] & SUFFIX:
            node = fail_of(block, node)
            if block[pairs + 2 * node] & TERMINAL:
                total += weights[path_of(block, node)]
        most = max(most, total)
    return most


def patterns_of(block: Block) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the patterns as symbols and bounds, ``[p + 1]``, in order."""
    count = int(block[PATTERNS])
    paths = block[block[PATHS] : block[PATHS] + count + 1].astype(np.int64)
    lengths = block[block[DEPTHS] : block[DEPTHS] + count] + np.diff(paths) - 1
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    symbols = np.zeros(int(bounds[-1]), np.int32)
    _spell(block, bounds, symbols)
    return symbols, bounds


@njit(cache=True)
def _spell(block, bounds, symbols):
    pairs, paths, depths = block[PAIRS], block[PATHS], block[DEPTHS]
    for p in range(len(bounds) - 1):
        common = block[depths + p] - 1
        for i in range(common):
            symbols[bounds[p] + i] = symbols[bounds[p - 1] + i]
        node = block[paths + p]
        for i in range(bounds[p] + common, bounds[p + 1]):
            symbols[i] = block[pairs + 2 * node] & SYMBOL
            node += 1


def unpack(block: Block) -> Views:
    """Return the automaton as plain arrays, copied."""
    n = int(block[NODES])
    views = Views(*(np.zeros(n + extra, np.int32) for extra in (1, -1, -1, 0, 0, 0, 0)))
    _unpack(block, *views)
    return views


@njit(cache=True)
def _unpack(block, edge_start, edge_symbol, edge_target, fail, depth, output, output_link):
    pairs = block[PAIRS]
    edge = 0
    for node in range(block[NODES]):
        word, link = block[pairs + 2 * node], block[pairs + 2 * node + 1] & PLACE
        fail[node] = fail_of(block, np.int32(node))
        depth[node] = depth_of(block, node) if node else 0
        output[node] = path_of(block, node) if word & TERMINAL else -1
        if word & BRANCH:
            for i in range(block[link + 1]):
                edge_symbol[edge] = block[link + 2 + i]
                edge_target[edge] = block[link + 2 + block[link + 1] + i]
                edge += 1
        elif word & CHILD:
            edge_symbol[edge] = block[pairs + 2 * node + 2] & SYMBOL
            edge_target[edge] = node + 1
            edge += 1
        edge_start[node + 1] = edge
        at = node
        while block[pairs + 2 * at] & SUFFIX:
            at = fail_of(block, np.int32(at))
            if block[pairs + 2 * at] & TERMINAL:
                output_link[node] = at
                break
