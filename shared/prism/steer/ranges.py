"""A policy's phrases as tables over token ids, for runners whose tokens never leave the device.

Two facts make one lookup per token enough. After state ``s`` and token ``t``, the longest suffix
that is a prefix of a phrase either starts inside ``t``, and then depends on ``t`` alone, or it is a
suffix of ``s`` followed by all of ``t``: few such pairs exist, and they are listed. And the tokens
that complete a phrase from ``s`` have one of few remainders as a prefix, so in the sorted
vocabulary they are few contiguous ranges. What depends on ``t`` alone comes in two variants,
because a token's leading separator counts only where none was before it.

Covered is the plain view: normalised characters of whole tokens. Characters that are spelled over
several tokens as bytes, spaced, leet or otherwise disguised phrases are the text layer's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prism.jit import njit
from prism.match import automaton as ac
from prism.match.phrases import Phrase, spellings
from prism.policy.compiled import CompiledPolicy
from prism.text.normalise import LETTER, fold_code_point
from prism.types import Action, Boundary, Mode, Stage

_SPACE = " "
_AFTER_SPACE = "!"  # sorts after a space and before every letter and digit
_LAST = "\U0010ffff"
Range = tuple[int, int, bool]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A phrase in normalised symbols. ``bounded``: only between word boundaries.

    ``blocking``: where it is what the model wants to say, refuse; else only steer around it.
    """

    text: str
    bounded: bool
    blocking: bool


@dataclass(frozen=True, slots=True)
class TokenTexts:
    """A vocabulary's tokens in normalised symbols, sorted once and shared by all policies.

    Tokens that look alike after normalisation ("Lamp", "lamp", "LAMP") are one kind; everything is
    decided by kind.
    """

    texts: tuple[str, ...]
    """Of each kind, ascending."""
    kind: NDArray[np.int32]
    """``[vocabulary]``; ``len(texts)`` where a token adds no text: the state stays as it is."""

    @classmethod
    def of(cls, tokens: Iterable[bytes | None]) -> TokenTexts:
        """Normalise ``tokens``; bytes that are no whole character are left out."""
        spelled = ["" if token is None else _symbols(token) for token in tokens]
        texts = sorted(set(spelled) - {""})
        index = {text: kind for kind, text in enumerate(texts)} | {"": len(texts)}
        return cls(tuple(texts), np.array([index[text] for text in spelled], np.int32))


@dataclass(frozen=True, slots=True)
class TokenTables:
    """``s`` states, state 0 the root; ``k`` kinds of tokens, the last those without text."""

    start: int  # before the first token
    after_space: NDArray[np.bool_]  # [s] the last symbol was a separator
    base: NDArray[np.int32]  # [2, k] next state by the token alone, not after / after a separator
    pair_key: NDArray[np.int64]  # [m] ascending: state * k + kind …
    pair_state: NDArray[np.int32]  # [m] … goes here instead
    still: NDArray[np.bool_]  # [2, k] leaves the state as it is
    range_start: NDArray[np.int32]  # [s + 1]
    ranges: NDArray[np.int32]  # [r, 3] low, high, blocking: kinds that complete a phrase
    whole: NDArray[np.bool_]  # [2, k] kinds that hold a phrase themselves
    whole_blocking: NDArray[np.bool_]  # [2, k]

    def next(self, state: int, kind: int) -> int:
        """Return the state after a token; the host's reading of what devices do in bulk."""
        spaced = int(self.after_space[state])
        if self.still[spaced, kind]:
            return state
        key = state * self.base.shape[1] + kind
        at = int(np.searchsorted(self.pair_key, key))
        if at < len(self.pair_key) and self.pair_key[at] == key:
            return int(self.pair_state[at])
        return int(self.base[spaced, kind])


def patterns_of(policy: CompiledPolicy) -> list[Pattern]:
    """Return what ``policy`` keeps out of outputs: phrases as written, in ROT13 and reversed."""
    result: list[Pattern] = []
    for rule in policy.rules_for(Stage.OUTPUT):
        if rule.mode is not Mode.ENFORCE or rule.action < Action.STEER:
            continue
        bounded, blocking = rule.boundary is Boundary.WORD, rule.action is Action.BLOCK
        for text in rule.phrases:
            phrase = Phrase(rule.id, text, rule.boundary, rule.disguises, held=True)
            result += [Pattern(spelled, bounded, blocking) for spelled, _ in spellings(phrase)]
    return result


def compile_tables(patterns: Sequence[Pattern], tokens: TokenTexts) -> TokenTables:
    """Build the tables of ``patterns`` over ``tokens``."""
    return _Builder(patterns, tokens).tables()


class _Builder:
    def __init__(self, patterns: Sequence[Pattern], tokens: TokenTexts) -> None:
        self.tokens = tokens
        spelled = {(f" {p.text} " if p.bounded else p.text): p for p in patterns if not p.blocking}
        spelled |= {(f" {p.text} " if p.bounded else p.text): p for p in patterns if p.blocking}
        self.patterns = [spelled[key] for key in sorted(spelled)]
        self.keys = sorted(spelled)
        self.block = ac.build(self.keys)
        self.views = ac.unpack(self.block)
        n = len(self.views.fail)
        self.order = np.argsort(self.views.depth, kind="stable").tolist()
        self.symbol = [""] * n
        self.parent = [0] * n
        starts = self.views.edge_start.tolist()
        for node in range(n):
            for edge in range(starts[node], starts[node + 1]):
                child = int(self.views.edge_target[edge])
                self.symbol[child] = chr(int(self.views.edge_symbol[edge]))
                self.parent[child] = node
        self.space = self.step(0, _SPACE)
        # 0: nothing ends here, 1: something to steer around, 2: something to refuse
        self.ends = [0] * n
        for node in self.order:
            own = int(self.views.output[node])
            level = 0 if own < 0 else 1 + self.patterns[own].blocking
            self.ends[node] = max(level, self.ends[int(self.views.fail[node])] if node else 0)
        # A text may end after any token, and its end separates words.
        self.ends_text = [
            max(self.ends[node], self.ends[self.step(node, _SPACE)])
            if self.symbol[node] != _SPACE
            else self.ends[node]
            for node in range(n)
        ]

    def step(self, node: int, symbol: str) -> int:
        return int(ac.advance(self.block, np.int32(node), np.int32(ord(symbol))))

    def tables(self) -> TokenTables:
        texts = self.tokens.texts
        k = len(texts) + 1
        base = np.zeros((2, k), np.int32)
        worst = np.zeros((2, k), np.int8)
        still = np.zeros((2, k), np.bool_)
        still[:, -1] = True
        still[1, :-1] = [text == _SPACE for text in texts]
        symbols = np.frombuffer("".join(texts).encode("utf-32-le"), np.int32)
        offsets = np.cumsum([0, *map(len, texts)])
        ends = np.array(self.ends, np.int8), np.array(self.ends_text, np.int8)
        for spaced, begin in enumerate((0, self.space)):
            _walk(self.block, begin, spaced, symbols, offsets, *ends, base[spaced], worst[spaced])
        after_space = np.array([s == _SPACE for s in self.symbol], np.bool_)
        pair_key, pair_state = self._pairs(k, after_space)
        range_start, ranges = self._ranges(after_space)
        return TokenTables(
            start=self.space,
            after_space=after_space,
            base=base,
            pair_key=pair_key,
            pair_state=pair_state,
            still=still,
            range_start=range_start,
            ranges=ranges,
            whole=worst > 0,
            whole_blocking=worst > 1,
        )

    def _alone(self, node: int) -> bool:
        """Whether what follows ``node`` is told by the token alone (and its leading separator)."""
        return node in (0, self.space)

    def _pairs(
        self, k: int, after_space: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """List the states reached from a node by consuming a token whole, along fail chains."""
        spelled = {text: kind for kind, text in enumerate(self.tokens.texts)}
        longest = max(map(len, spelled), default=0)
        own: dict[int, dict[int, int]] = defaultdict(dict)
        for target in self.order[1:]:
            node, path = target, ""
            while node and len(path) < longest:
                path = self.symbol[node] + path
                node = self.parent[node]
                if self._alone(node):
                    continue
                if (kind := spelled.get(path)) is not None:
                    own[node][kind] = target
                if after_space[node] and (kind := spelled.get(_SPACE + path)) is not None:
                    own[node][kind] = target
        full: dict[int, dict[int, int]] = {}
        for node in self.order:
            inherited = full.get(int(self.views.fail[node])) if node else None
            merged = {**(inherited or {}), **own.get(node, {})}
            if merged and not self._alone(node):
                full[node] = merged
        found = sorted((node * k + t, s) for node, row in full.items() for t, s in row.items())
        keys = np.array([key for key, _ in found], np.int64)
        return keys, np.array([state for _, state in found], np.int32)

    def _ranges(
        self, after_space: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """List, per state, the kinds of tokens that complete a phrase begun before them."""
        own: dict[int, list[Range]] = defaultdict(list)
        for key, pattern in zip(self.keys, self.patterns, strict=True):
            node = 0
            for i, symbol in enumerate(key):
                if not self._alone(node):
                    own[node] += self._completing(key[i:], pattern, bool(after_space[node]))
                node = self.step(node, symbol)
        full: dict[int, list[Range]] = {}
        start = np.zeros(len(self.symbol) + 1, np.int32)
        for node in self.order:
            inherited = full.get(int(self.views.fail[node]), []) if node else []
            full[node] = _merge(own.get(node, []) + inherited)
        for node in range(len(self.symbol)):
            start[node + 1] = start[node] + len(full[node])
        flat = [r for node in range(len(self.symbol)) for r in full[node]]
        return start, np.array(flat, np.int32).reshape(-1, 3)

    def _completing(self, rest: str, pattern: Pattern, spaced: bool) -> Iterable[Range]:
        for prefix in (rest, _SPACE + rest) if spaced and rest[0] != _SPACE else (rest,):
            if pattern.bounded:
                word = prefix[:-1]
                low = bisect_left(self.tokens.texts, word or _SPACE)
                high = bisect_left(self.tokens.texts, word + _AFTER_SPACE)
            else:
                low = bisect_left(self.tokens.texts, prefix)
                high = bisect_left(self.tokens.texts, prefix + _LAST)
            if low < high:
                yield low, high, pattern.blocking


@njit(cache=True)
def _walk(
    block: Any,
    begin: Any,
    skip_space: Any,
    symbols: Any,
    offsets: Any,
    ends: Any,
    ends_text: Any,
    state: Any,
    worst: Any,
) -> None:
    """Read every text from ``begin``: the state after it, the worst that ends in or with it."""
    for kind in range(len(offsets) - 1):
        node = np.int32(begin)
        found = 0
        at = offsets[kind]
        if skip_space and symbols[at] == 32:
            at += 1
        for i in range(at, offsets[kind + 1]):
            node = ac.advance(block, node, symbols[i])
            found = max(found, ends[node])
        state[kind] = node
        worst[kind] = max(found, ends_text[node])


def _merge(ranges: list[Range]) -> list[Range]:
    result: list[Range] = []
    for low, high, blocking in sorted(ranges, key=lambda r: (r[2], r[0], r[1])):
        if result and result[-1][2] == blocking and low <= result[-1][1]:
            result[-1] = (result[-1][0], max(high, result[-1][1]), blocking)
        else:
            result.append((low, high, blocking))
    return result


def _symbols(token: bytes) -> str:
    """Return ``token`` in normalised symbols, runs of separators as one space."""
    out: list[str] = []
    for char in token.decode("utf-8", "ignore"):
        for kind, base in fold_code_point(ord(char)):
            if kind == LETTER:
                out.append(chr(base))
            elif not out or out[-1] != _SPACE:
                out.append(_SPACE)
    return "".join(out)
