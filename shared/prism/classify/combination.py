# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202
"""From the encoder's columns and the sketch's word to the probabilities of the categories.

A few hundred multiplications; compiled because after a run of the graph nothing else is left in the
processor's caches, and a dozen calls of NumPy then cost a quarter of a millisecond.
"""

from __future__ import annotations

import numpy as np

from prism.jit import njit

BOUND = 8.0
"""Beyond ± this a model is sure, and how sure means nothing."""
_SKETCH_BOUND = 13.815509557963773  # the logit of 1 - 1e-6
_JOINT_BOUND = 30.0


@njit(cache=True)
def _within(value, bound):
    """Return ``value`` no further than ``bound`` from 0; what is no number stays none."""
    if value > bound:
        return bound
    if value < -bound:
        return -bound
    return value


@njit(cache=True)
def combine_features(logits, hazards, sketch):
    """Return what a combination weighs: the columns, the highest hazard, the sketch's logits.

    All float32: ``[columns]`` and ``[categories]`` give ``[columns + 1 + categories]``, within
    ±``BOUND``. ``hazards`` are the columns (int64) of which the highest counts.
    """
    columns = len(logits)
    out = np.empty(columns + 1 + len(sketch), np.float32)
    highest = logits[hazards[0]]
    for at in hazards:
        if logits[at] > highest:
            highest = logits[at]
    for i in range(columns):
        out[i] = _within(np.float64(logits[i]), BOUND)
    out[columns] = _within(np.float64(highest), BOUND)
    for i in range(len(sketch)):
        out[columns + 1 + i] = _within(np.float64(sketch[i]), BOUND)
    return out


@njit(cache=True)
def combine(logits, hazards, sketch, weights, biases, foreign):
    """Return probabilities, float32 ``[categories]``.

    ``weights`` float32 ``[categories, features]``, ``biases`` ``[categories]``; ``foreign``, 0 to
    1, is how far the sketch's logits take the place of the sum.
    """
    found = combine_features(logits, hazards, sketch)
    out = np.empty(len(biases), np.float32)
    for c in range(len(biases)):
        joint = np.float64(biases[c])
        for i in range(len(found)):
            joint += weights[c, i] * found[i]
        if foreign > 0.0:
            alone = _within(np.float64(sketch[c]), _SKETCH_BOUND)
            joint = (1.0 - foreign) * joint + foreign * alone
        out[c] = 1.0 / (1.0 + np.exp(-_within(joint, _JOINT_BOUND)))
    return out
