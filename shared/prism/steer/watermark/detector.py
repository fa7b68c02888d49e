"""Finding the watermark: how unlikely are these tokens if nobody chose them by the key?

The same statistic as vLLM's ``GumbelWatermarkDetector``: ``-log(1 - u)`` of each token is
exponential by chance, so the sum over ``n`` tokens is Gamma(n, 1), whose upper tail is the p-value.
A context that repeats is scored once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prism.steer.watermark.key import WatermarkKey
from prism.steer.watermark.philox import absorb, uniforms

THRESHOLD = 0.01

CAVEATS = (
    "A low p-value says that chance is an unlikely explanation, not who wrote the text.",
    "“Not detected” does not mean that a person wrote it: paraphrase, translation, heavy editing, "
    "greedy decoding, another key or another model leave no trace of this key.",
    "Short texts can't be told: below about 50 scored tokens expect no answer.",
    "The text must be read with the tokenizer of the model that wrote it.",
)
"""What every report says beside its figure (Bommasani et al., Science 2024, adp1848)."""


@dataclass(frozen=True, slots=True)
class Detection:
    """What the detector found. ``score`` is Gamma(``tokens``, 1) distributed by chance."""

    score: float
    p_value: float
    tokens: int
    threshold: float = THRESHOLD

    @property
    def detected(self) -> bool:
        """Whether the p-value is at most the threshold."""
        return self.tokens > 0 and self.p_value <= self.threshold


def detect(key: WatermarkKey, token_ids: Sequence[int], threshold: float = THRESHOLD) -> Detection:
    """Look for ``key``'s watermark in a generated text's token ids, prompt left out."""
    seen: set[tuple[int, ...]] = set()
    secret = np.uint64(key.value)
    state = np.zeros(4, np.uint64)
    one, out = np.zeros(1, np.int64), np.zeros(1, np.float64)
    prefix = [-1] * key.context_width
    score, tokens = 0.0, 0
    for token in token_ids:
        context = tuple(prefix)
        prefix = [*prefix[1:], token]
        if context in seen:
            continue
        seen.add(context)
        absorb(secret, np.array(context, np.int64), state)
        one[0] = token
        uniforms(secret, state, one, out)
        score -= math.log1p(-float(out[0]))
        tokens += 1
    return Detection(score, gamma_survival(score, tokens), tokens, threshold)


def gamma_survival(score: float, shape: int) -> float:
    """Return P(X >= score) for X ~ Gamma(shape, 1): a Poisson sum, added in logarithms."""
    if shape <= 0 or score <= 0:
        return 1.0
    steps = np.log(score) - np.log(np.arange(1, shape, dtype=np.float64))
    terms = np.concatenate([np.zeros(1), np.cumsum(steps)])
    largest = float(terms.max())
    total = largest + math.log(float(np.exp(terms - largest).sum()))
    return min(1.0, math.exp(min(0.0, total - score)))
