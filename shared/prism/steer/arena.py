# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN202
"""The guards' own arrays in one block of numbers, for kernels that run on a device.

Nothing is compiled anew here: the automata, the phrases behind them and the ranges of completing
tokens are those of the host (``prism.match``, ``prism.steer.completions``), spread out into plain
arrays and laid end to end, so that a mixed batch is one launch. Two things are added, because a
device has no time for them: what each token spells is folded once (``codes``), and every phrase
says whether it is refused or steered around (``STEER``, ``REFUSE``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prism.jit import njit
from prism.match import automaton as ac
from prism.match import kernel as match_kernel
from prism.match.entries import unpack_entries
from prism.match.kernel import LETTER_CLASS, PLAIN, SIGN_LETTER, VIEWS
from prism.match.owners import Owners
from prism.match.phrases import PhraseSet
from prism.steer import kernel
from prism.steer.completions import FAIL_LINK, START
from prism.steer.guard import TokenGuard, within_word, word_starts
from prism.steer.state import State
from prism.steer.utf8 import BROKEN
from prism.steer.vocabulary import MOST_SYMBOLS_PER_BYTE, Vocabulary

STEER, REFUSE = 1, 2
LANES = 1 << (VIEWS - 1).bit_length()
"""Views, rounded up: devices compute in powers of two."""

(
    EDGE_START, EDGE_SYMBOL, EDGE_TARGET, FAIL, OUTPUT, OUTPUT_LINK, ROOT_ASCII,
    LEVEL, OF_PATTERN, OFFSET, FLAGS, SYMBOLS,
    RANGE_START, RANGE_LOW, RANGE_HIGH, RANGE_ANY, RANGE_FAIL, RANGE_BASE, DEPTH, INSIDE,
) = range(20)  # fmt: skip
"""Of one policy and view, where in ``data`` it is. ``LEVEL``: in the plain view of each node, the
worst that ends there; in the others of each entry. ``INSIDE``: nodes of patterns that may begin
within a word."""
VIEW_FIELDS = 20
AT_START, AT_START_LEVEL, AT_START_SIZE, ALWAYS, ALWAYS_LEVEL, ALWAYS_SIZE, JUDGED = range(7)
"""Of one policy: its tokens that hold a phrase, each list ``SIZE`` long, and their levels; whether
it keeps any phrase out."""
POLICY_FIELDS = 7
TABLE_PAGES, TABLE_VALUES, TABLE_MORE, SIGN_TABLE, CLASS_TABLE, WITHIN, WITHIN_SIZE = range(7)
"""Of the Unicode table; and the tokens that may go on within a character."""
COMMON_FIELDS = 7

FIRST, SIZE, BYTES, LEAD, PAYLOAD, DUE, POINT = range(7)
"""Of a token: its codes; how many bytes it has; how many of the first three are continuations, and
their bits; the character that it leaves half-read."""
TOKEN_FIELDS = 7
NODE, COUNT, GAP, LAST, PREVIOUS, HALF_DUE, HALF_POINT, HALF_STATE = range(8)
"""Of a state, per view."""
STATE_FIELDS = 8
RUN_SHIFT, GAP_SHIFT, INITIAL_SHIFT, ALONE_SHIFT = 32, 24, 26, 27
"""A symbol of a ring is one int64: the character, the gap before it, whether a word may begin at
it, whether each letter of its run stands alone, its run."""
_CONTINUATIONS = 3
_decode = kernel.decode


@dataclass(frozen=True, slots=True)
class Arena:
    """Guards over one vocabulary. Policy ``p`` is the ``p``-th of them."""

    data: NDArray[np.int32]
    views: NDArray[np.int64]  # [policies, LANES, VIEW_FIELDS]
    policies: NDArray[np.int64]  # [policies, POLICY_FIELDS]
    common: NDArray[np.int64]  # [COMMON_FIELDS]
    tokens: NDArray[np.int32]  # [vocabulary, TOKEN_FIELDS]
    codes: NDArray[np.int32]  # class << 24 | character, of all tokens
    follows: NDArray[np.uint8]
    """``[STATES, vocabulary]``: ``Vocabulary.follows``; within a character nothing without text
    follows but the end."""
    ring: int
    """Symbols kept of each view, a power of two."""

    @classmethod
    def of(cls, guards: Sequence[TokenGuard]) -> Arena:
        """Lay out ``guards``, which share their vocabulary."""
        vocabulary = guards[0].vocabulary
        data = _Data()
        pages, values, more = _parts(guards[0].output.table, 3)
        common = [
            *(data.put(part) for part in (pages, values, more, SIGN_LETTER, LETTER_CLASS)),
            data.put(vocabulary.continuing), len(vocabulary.continuing),
        ]  # fmt: skip
        views, policies = [], []
        for guard in guards:
            views.append(_views(guard, data))
            policies.append(_lists(guard, data))
        room = len(vocabulary.data) * MOST_SYMBOLS_PER_BYTE + 1
        codes = np.zeros(room, np.int32)
        tokens = np.zeros((vocabulary.size, TOKEN_FIELDS), np.int32)
        size = _read_tokens(
            guards[0].output.table, vocabulary.data, vocabulary.offsets, codes, tokens
        )
        return cls(
            data.joined(),
            np.array(views, np.int64),
            np.array(policies, np.int64),
            np.array(common, np.int64),
            tokens,
            codes[:size].copy(),
            _follows(vocabulary),
            max(guard.output.ring_size for guard in guards),
        )

    def start(self, guard: TokenGuard) -> NDArray[np.int64]:
        """Return the state at the start of an output, ``[width]``, as :meth:`state` does."""
        return self.state(State(guard.output))

    @property
    def width(self) -> int:
        """Numbers in a state: of each view its fields, then of each view its ring."""
        return LANES * (STATE_FIELDS + self.ring)

    def state(self, state: State) -> NDArray[np.int64]:
        """Return where a host's ``state`` stands, ``[width]``."""
        head, ring, utf8 = state.head, state.ring, state.utf8
        fields = np.zeros((LANES, STATE_FIELDS), np.int64)
        rings = np.zeros((LANES, self.ring), np.int64)
        kept = ring.shape[1]
        for view in range(VIEWS):
            base = 2 + 4 * view
            fields[view, NODE : LAST + 1] = head[base : base + 4]
            fields[view, PREVIOUS] = head[match_kernel.PREVIOUS]
            fields[view, HALF_DUE:] = utf8[[kernel.DUE, kernel.POINT, kernel.STATE]]
            count = int(head[base + match_kernel.COUNT])
            for i in range(max(0, count - kept), count):
                rings[view, i % self.ring] = _symbol(ring[view, i % kept])
        return np.concatenate([fields.reshape(-1), rings.reshape(-1)])


class _Data:
    """Arrays on their way into one."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.int32]] = []
        self._size = 0
        self._known: dict[str, int] = {}

    def put_once(self, name: str, part: NDArray[Any]) -> int:
        """Append ``part`` if nothing of that name was; return where it begins."""
        if name not in self._known:
            self._known[name] = self.put(part)
        return self._known[name]

    def put(self, part: NDArray[Any]) -> int:
        """Append ``part``; return where it begins."""
        at = self._size
        self._parts.append(part.astype(np.int32, copy=False))
        self._size += len(part)
        return at

    def joined(self) -> NDArray[np.int32]:
        # A number behind the last, so that an empty list's place is one too.
        return np.concatenate([*self._parts, np.zeros(1, np.int32)])


def _symbol(fields: NDArray[np.int64]) -> int:
    """Return a ring's symbol as one number."""
    return (
        int(fields[match_kernel.CHAR])
        | int(fields[match_kernel.GAP_BEFORE]) << GAP_SHIFT
        | int(fields[match_kernel.INITIAL] != 0) << INITIAL_SHIFT
        | int(fields[match_kernel.ALONE] != 0) << ALONE_SHIFT
        | int(fields[match_kernel.RUN]) << RUN_SHIFT
    )


def _parts(block: NDArray[np.int32], count: int) -> list[NDArray[np.int32]]:
    """Return the arrays of a block that begins with the places of ``count`` arrays."""
    return np.split(block, block[:count].tolist())[1:]


def _follows(vocabulary: Vocabulary) -> NDArray[np.uint8]:
    result = vocabulary.follows.copy()
    result[1:, np.diff(vocabulary.offsets) == 0] = BROKEN
    result[1:, vocabulary.control] = BROKEN
    result[1:, vocabulary.ends] = 0
    return result


def _views(guard: TokenGuard, data: _Data) -> NDArray[np.int64]:
    """Lay out the automata, phrases and ranges of ``guard``; return their fields."""
    phrases = guard.output
    result = np.zeros((LANES, VIEW_FIELDS), np.int64)
    refused = {rule for rule in phrases.rules if guard.stops({rule})}
    plain = ac.unpack(phrases.plain)
    levels = _levels(phrases.plain_owners, phrases.rules, refused)
    of_plain = [*_automaton(plain, data), data.put(_node_levels(plain, levels)), 0, 0, 0, 0]
    squeezed = ac.unpack(phrases.squeezed)
    levels = _levels(phrases.entry_owners, phrases.rules, refused)
    of_squeezed = [*_automaton(squeezed, data), data.put(levels)]
    of_squeezed += [data.put(part) for part in unpack_entries(phrases.entries)]
    blocks = (plain, phrases.plain), (squeezed, phrases.squeezed)
    begins = [(data.put(views.depth), data.put(_inside(block))) for views, block in blocks]
    for view, block in enumerate(guard.completions):
        fields, automaton = (of_plain, plain) if view == PLAIN else (of_squeezed, squeezed)
        # The order of the vocabulary behind the ranges is the same in every policy.
        cut = int(block[FAIL_LINK]) + len(automaton.fail)
        at = data.put(block[:cut])
        ranges = [at + int(part) for part in block[START : FAIL_LINK + 1]]
        ranges.append(data.put_once(f"order {view}", block[cut:]) - cut)
        result[view] = [*fields, *ranges, *begins[view != PLAIN]]
    return result


def _levels(owners: Owners, rules: Iterable[str], refused: Iterable[str]) -> NDArray[np.int32]:
    """Return the level of each pattern or entry: 0 where it is another stage's and none counts."""
    steered = np.where(owners.among(rules), STEER, 0)
    return np.where(owners.among(refused), REFUSE, steered).astype(np.int32)


def _inside(block: ac.Block) -> NDArray[np.int32]:
    """Return, per node, whether a pattern there or below it may begin within a word."""
    links = block[block[ac.PAIRS] + 1 :: 2][: block[ac.NODES]]
    held: NDArray[np.int32] = links >> ac.HELD_SHIFT & ac.LOOSE
    return held


def _automaton(views: ac.Views, data: _Data) -> list[int]:
    """Lay out an automaton; return EDGE_START to ROOT_ASCII."""
    root = np.zeros(128, np.int32)
    size = int(views.edge_start[1])
    ascii_ = views.edge_symbol[:size] < 128
    root[views.edge_symbol[:size][ascii_]] = views.edge_target[:size][ascii_]
    arrays = (
        views.edge_start, views.edge_symbol, views.edge_target, views.fail, views.output,
        views.output_link, root,
    )  # fmt: skip
    return [data.put(array) for array in arrays]


def _node_levels(views: ac.Views, levels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return, per node, the worst level of the patterns that end there."""
    result = np.zeros(len(views.fail), np.int32)
    ends = views.output >= 0
    result[ends] = levels[views.output[ends]]
    _inherit_level(np.argsort(views.depth, kind="stable"), views.output_link, result)
    return result


def _lists(guard: TokenGuard, data: _Data) -> list[int]:
    """Lay out the tokens that hold a phrase themselves; return their fields."""
    phrases = _refused(guard)
    fields = []
    lists = (guard.at_word_start, word_starts(phrases)), (guard.always, [within_word(phrases)])
    for tokens, states in lists:
        found = [state.unsafe(guard.vocabulary, tokens) for state in states]
        refused = np.logical_or.reduce(found)
        levels = np.where(refused, REFUSE, STEER)
        fields += [data.put(tokens), data.put(levels), len(tokens)]
    return [*fields, int(not guard.output.empty)]


def _refused(guard: TokenGuard) -> PhraseSet:
    """Return the phrases that are refused, not only steered around."""
    return guard.output.only(rule for rule in guard.output.rules if guard.stops({rule}))


@njit(cache=True)
def _inherit_level(order, link, level):
    for node in order:
        if node != 0:
            level[node] = max(level[node], level[link[node]])


@njit(cache=True)
def _read_tokens(table, data, offsets, codes, tokens):
    """Fold every token; return how many codes there are. ``tokens``: ``[vocabulary, 8]``."""
    utf8 = np.zeros(kernel.UTF8, np.int64)
    points = np.zeros(2, np.int64)
    size = 0
    for token in range(len(offsets) - 1):
        utf8[:] = 0
        first, lead = size, 0
        payload = np.int64(0)
        start, end = offsets[token], offsets[token + 1]
        for i in range(start, end):
            byte = np.int64(data[i])
            if lead == i - start and lead < _CONTINUATIONS and byte & 0xC0 == 0x80:
                lead += 1
                payload = payload << 6 | byte & 0x3F
            for k in range(_decode(data[i], utf8, points, 0)):
                size = _fold(table, points[k], codes, size)
        tokens[token, FIRST] = first
        tokens[token, SIZE] = size - first
        tokens[token, BYTES] = end - start
        tokens[token, LEAD] = lead
        tokens[token, PAYLOAD] = payload
        tokens[token, DUE] = utf8[kernel.DUE]
        tokens[token, POINT] = utf8[kernel.POINT]
    return size


@njit(cache=True)
def _fold(table, point, codes, size):
    """Append what a character becomes (``prism.match.kernel.feed``)."""
    value = table[table[1] + table[table[0] + (point >> 8)] * 256 + (point & 255)]
    if value == -1:
        codes[size] = point
        return size + 1
    if value == -2:
        codes[size] = 2 << 24 | point
        return size + 1
    kind = value >> 24
    if kind == 4:
        at = table[2] + (value & 0xFFFFFF)
        for k in range(table[at]):
            codes[size + k] = table[at + 1 + k]
        return size + table[at]
    if kind != 3:
        codes[size] = value
        return size + 1
    return size
