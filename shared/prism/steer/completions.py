# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN202
"""Which tokens complete a phrase, for every state of an automaton.

For each split ``u·r`` of a pattern, the tokens that complete it at the node of ``u`` are those
whose key begins with ``r``: one range of the sorted vocabulary (``prism.steer.lookup``). Where the
phrase must end with a word, the token must end a word right behind ``r``: a range too, among the
keys cut off where a word ends. All of a view lies in one int32 block, which makes a call cheap.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from prism.match import automaton as ac
from prism.match.kernel import BOUNDED, FLAGS, OF_PATTERN, OFFSET, SYMBOLS
from prism.steer.lookup import Lookup, child

START, LOW, HIGH, ANY, FAIL_LINK = range(5)
"""Where in a block its parts begin: per node its first range (``[n + 1]``), per range its first and
last place in the block, per node whether it or a node on its fail chain has any, and the fail
links."""
_HEADER = 5


class Patterns(NamedTuple):
    """An automaton and its patterns, sorted. ``open``: which may go on within a word."""

    block: ac.Block
    symbols: NDArray[np.int32]
    bounds: NDArray[np.int64]  # [p + 1]
    open: NDArray[np.bool_]  # [p]


def compile_block(patterns: Patterns, whole: Lookup, cut: Lookup | None) -> NDArray[np.int32]:
    """Return the block of one view. ``cut`` holds keys up to where words end; in the plain view,
    where a separator is a symbol like any other, there is none."""
    views = ac.unpack(patterns.block)
    n = len(views.fail)
    tables = (*whole[:6], *(cut or whole)[:6])
    common = (patterns.block, *patterns[1:], *tables, cut is None)
    room = max(1024, 2 * n)
    while True:
        nodes, lows, highs = (np.zeros(room, np.int64) for _ in range(3))
        count = int(_ranges(*common, nodes, lows, highs))
        if count <= room:
            break
        room = count
    nodes, lows, highs = nodes[:count], lows[:count], highs[:count]
    by_node = np.argsort(nodes, kind="stable")
    start = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(nodes, minlength=n), out=start[1:])
    any_ = np.diff(start) > 0
    _inherit(any_, views.fail, np.argsort(views.depth, kind="stable"))
    orders = [whole.order] if cut is None else [whole.order, cut.order]
    base = _HEADER + (n + 1) + 2 * count + 2 * n
    parts = [start, lows[by_node] + base, highs[by_node] + base, any_, views.fail, *orders]
    header = np.cumsum([_HEADER, *(len(part) for part in parts[:4])])
    result: NDArray[np.int32] = np.concatenate([header, *parts]).astype(np.int32)
    return result


def loose_patterns(entries: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return, per squeezed pattern, whether a phrase behind it may end within a word."""
    at = entries[entries[OF_PATTERN] : entries[OFFSET]]
    flags = entries[entries[FLAGS] : entries[SYMBOLS]]
    loose = np.concatenate([np.zeros(1, np.int64), np.cumsum(flags & BOUNDED == 0)])
    result: NDArray[np.bool_] = loose[at[1:]] > loose[at[:-1]]
    return result


@njit(cache=True)
def _inherit(marked, fail, order):
    for node in order:
        if node != 0 and marked[fail[node]]:
            marked[node] = True


@njit(cache=True)
def _ranges(
    block, patterns, bounds, loose,
    a_start, a_symbol, a_target, a_low, a_high, a_exact,
    b_start, b_symbol, b_target, b_low, b_high, b_exact,
    plain, nodes, lows, highs,
):  # fmt: skip
    """List, per pattern and split, the range of tokens; return how many there are.

    Places in the second lookup's order are counted on from the first's.
    """
    count = 0
    behind = a_high[0]
    for p in range(len(bounds) - 1):
        first, last = bounds[p], bounds[p + 1]
        node = np.int32(0)
        for i in range(first, last):
            node = ac.advance(block, node, patterns[i])
            # Behind the split; and once more with the split's own symbol before it, which a repeat
            # of a letter, or a second separator, does not push again.
            for again in range(2):
                if again and plain and patterns[i] != 32:
                    continue
                at = i + 1 - again
                if at == last or (plain and i + 1 == last):
                    continue
                use_cut = not plain and not loose[p]
                here, before = np.int32(0), np.int32(0)
                while at < last and here >= 0:
                    before = here
                    if use_cut:
                        here = child(b_start, b_symbol, b_target, here, patterns[at])
                    else:
                        here = child(a_start, a_symbol, a_target, here, patterns[at])
                    at += 1
                # The closing separator may be the text's end.
                ends = plain and at == last and patterns[last - 1] == 32 and before > 0
                if ends and a_exact[before] > a_low[before]:
                    if count < len(nodes):
                        nodes[count] = node
                        lows[count], highs[count] = a_low[before], a_exact[before]
                    count += 1
                if here < 0:
                    continue
                if use_cut:
                    low, high = behind + b_low[here], behind + b_exact[here]
                else:
                    low, high = a_low[here], a_high[here]
                if high > low:
                    if count < len(nodes):
                        nodes[count], lows[count], highs[count] = node, low, high
                    count += 1
    return count
