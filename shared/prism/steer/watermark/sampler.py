# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN202
"""Sampling under the watermark, for engines that have none of their own.

Gumbel-max (Aaronson 2022; vLLM's ``v1/watermarking/gumbel.py``): adding ``-log(-log u)`` to the
log-probabilities and taking the largest draws from exactly the model's distribution if ``u`` is
random. Here ``u`` comes from the key and the last tokens, so that who has the key can later see
that the tokens chosen had large ``u`` too often for chance.

What a mask has banned stays banned: its logit is -inf, and no noise lifts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prism.jit import njit
from prism.steer.watermark.key import WatermarkKey
from prism.steer.watermark.philox import absorb, uniforms

_RARE = 30.0
"""Logits so far below the largest are left out: all of a vocabulary's weigh under 1e-7."""
_BLOCK = 256
"""Logits that are looked at together."""
_MOST_NOISE = 20.0
"""The noise lies in [-2.82, 16.64]: a logit further below the largest than this can't win."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a request asks to be sampled: llama.cpp's parameters, in the order it applies them."""

    temperature: float = 0.8
    top_k: int = 40  # 0: all
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    last_n: int = 64  # tokens that the penalties look at; -1: all

    @property
    def greedy(self) -> bool:
        """Whether nothing is left to chance, so that no watermark can be carried."""
        return not self.temperature > 0


class Watermark:
    """The watermark of one generation. Contexts hold generated tokens only, as in vLLM.

    A context that was there before is sampled without the watermark: the same random numbers twice
    would be no independent evidence, and can trap a model in a loop.
    """

    def __init__(self, key: WatermarkKey, sampling: Sampling) -> None:
        self._key = np.uint64(key.value)
        self._width = key.context_width
        self._sampling = sampling
        self._seen: set[tuple[int, ...]] = set()
        self._at = -1
        self._state = np.zeros(4, np.uint64)

    def pick(self, logits: NDArray[np.float32], output: Sequence[int]) -> int | None:
        """Return the token to output next, or ``None`` where it is left to the engine.

        ``logits`` float32 ``[vocabulary]``, masked already, is only read; ``output`` is the ids
        generated so far.
        """
        if self._sampling.greedy:
            return None
        context = self._context(output)
        # Asked twice for the same position (a sample thrown away), the answer is the same.
        if self._at != len(output):
            if context in self._seen:
                return None
            self._seen.add(context)
            self._at = len(output)
        logits = self._penalised(logits, output)
        found = _most_likely(logits, self._margin(), self._sampling.top_k)
        ids, values = found or _candidates(logits, self._margin())
        if not len(ids):
            return None
        ids, values = self._cut(ids, values)
        absorb(self._key, np.array(context, np.int64), self._state)
        u = np.empty(len(ids), np.float64)
        uniforms(self._key, self._state, ids, u)
        noise = -np.log(-np.log(u))
        return int(ids[np.argmax(values / self._sampling.temperature + noise)])

    def rewind(self, output: Sequence[int]) -> None:
        """Forget what was chosen behind ``output``: it is not in the text any more."""
        ends = range(len(output) if not self._sampling.greedy else 0)
        self._seen = {self._context(output[max(0, end - self._width) : end]) for end in ends}
        self._at = -1

    def _context(self, output: Sequence[int]) -> tuple[int, ...]:
        return tuple(([-1] * self._width + list(output[-self._width :]))[-self._width :])

    def _margin(self) -> float:
        s = self._sampling
        cuts = s.top_k > 0 or s.top_p < 1 or s.min_p > 0
        return max(_RARE if cuts else 0.0, _MOST_NOISE * s.temperature)

    def _penalised(self, logits: NDArray[np.float32], output: Sequence[int]) -> NDArray[np.float32]:
        """Lower what was said already, as ``llama_sampler_penalties_apply`` of llama.cpp does."""
        s = self._sampling
        plain = s.repeat_penalty == 1 and not s.frequency_penalty and not s.presence_penalty
        tail = list(output[-s.last_n :] if s.last_n > 0 else output if s.last_n < 0 else ())
        if plain or not tail:
            return logits
        tokens, counts = np.unique(np.array(tail, np.int64), return_counts=True)
        said = logits[tokens]
        scaled = np.where(said <= 0, said * s.repeat_penalty, said / s.repeat_penalty)
        lowered = logits.copy()
        lowered[tokens] = scaled - counts * s.frequency_penalty - s.presence_penalty
        return lowered

    def _cut(
        self, ids: NDArray[np.int64], values: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Leave what top-k, top-p and min-p leave, at least one token."""
        s = self._sampling
        if 0 < s.top_k < len(ids):
            top = np.argpartition(-values, s.top_k - 1)[: s.top_k]
            ids, values = ids[top], values[top]
        if s.top_p < 1:
            order = np.argsort(-values, kind="stable")
            ids, values = ids[order], values[order]
            mass = np.cumsum(np.exp(values - values[0]))
            keep = int(np.searchsorted(mass / mass[-1], s.top_p)) + 1
            ids, values = ids[:keep], values[:keep]
        if s.min_p > 0:
            likely = values >= values.max() + np.log(min(s.min_p, 1.0))
            ids, values = ids[likely], values[likely]
        return ids, values


@njit(cache=True)
def _sink(ids, values, size):
    """Move a heap's first entry, the least, down to where it belongs."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and values[child + 1] < values[child]:
            child += 1
        if not values[child] < values[at]:
            return
        ids[child], ids[at] = ids[at], ids[child]
        values[child], values[at] = values[at], values[child]
        at = child


@njit(cache=True)
def _top(logits, ids, values):
    """Write the largest logits and their ids, in any order: a heap, the least one first.

    What isn't there, for want of logits that are numbers, is -inf.
    """
    ids[:] = -1
    values[:] = -np.inf
    size, n = len(ids), len(logits)
    for begin in range(0, n, _BLOCK):
        end = min(begin + _BLOCK, n)
        least = values[0]
        # Nearly all blocks have nothing, and this loop is one that is vectorised.
        some = False
        for value in logits[begin:end]:
            some |= value > least
        if not some:
            continue
        for i in range(begin, end):
            if logits[i] > values[0]:
                ids[0], values[0] = i, logits[i]
                _sink(ids, values, size)


def _most_likely(
    logits: NDArray[np.float32], margin: float, top_k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Return the ``top_k`` likeliest of ``_candidates`` without listing those, or ``None``.

    ``None`` where there is no limit, and where equal logits leave open which are meant.
    """
    if not 0 < top_k < len(logits):
        return None
    ids, values = np.empty(top_k + 1, np.int64), np.empty(top_k + 1, np.float32)
    _top(logits, ids, values)
    largest = values.max()
    near = (values >= largest - np.float32(margin)) & (values > -np.inf)
    order = np.argsort(ids)
    if near.all():
        order = np.argsort(-values)
        if not (values[order][1:] < values[order][:-1]).all():
            return None
        order = order[:top_k]
    order = order[near[order]]
    return ids[order], values[order].astype(np.float64)


@njit(cache=True)
def _gather(logits, margin, ids, values):
    largest = np.float32(-np.inf)
    for i in range(len(logits)):
        if logits[i] > largest:
            largest = logits[i]
    if largest == -np.inf:
        return 0
    least = largest - margin
    count = 0
    for i in range(len(logits)):
        if logits[i] >= least:
            if count < len(ids):
                ids[count] = i
                values[count] = logits[i]
            count += 1
    return count


def _candidates(
    logits: NDArray[np.float32], margin: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return ids and logits of the tokens within ``margin`` of the likeliest."""
    room = 4096
    while True:
        ids, values = np.empty(room, np.int64), np.empty(room, np.float64)
        count = int(_gather(logits, np.float32(margin), ids, values))
        if count <= room:
            return ids[:count], values[:count]
        room = count
