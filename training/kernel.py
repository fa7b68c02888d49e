# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201
"""The compiled inner loop of training the sketch: one text after the other, Adagrad."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def one_pass(
    flat, starts, order, stages, targets, weights, emb, emb_g, heads, heads_g, biases, biases_g,
    rate, dropout, seed,
):  # fmt: skip
    """One pass over the examples; returns the mean loss. All arrays float32 but the indices."""
    width = emb.shape[1]
    columns = targets.shape[1]
    h = np.zeros(width, np.float32)
    grad = np.zeros(width, np.float32)
    rng = np.uint64(seed * 2 + 1)
    total = 0.0
    for at in range(len(order)):
        row = order[at]
        stage = stages[at]
        begin, end = starts[row], starts[row + 1]
        h[:] = 0
        # Kept or dropped by a hash of position and seed, so that both loops agree.
        salt = rng + np.uint64(at) * np.uint64(0x9E3779B97F4A7C15)
        kept = 0
        for i in range(begin, end):
            mixed = (salt ^ np.uint64(i)) * np.uint64(0xBF58476D1CE4E5B9)
            if (mixed >> np.uint64(40)) * (1.0 / (1 << 24)) < dropout:
                continue
            kept += 1
            for k in range(width):
                h[k] += emb[flat[i], k]
        if kept == 0:
            continue
        norm = np.float32(1.0 / np.sqrt(kept))
        for k in range(width):
            h[k] *= norm
        grad[:] = 0
        for c in range(columns):
            y = targets[row, c]
            if np.isnan(y):
                continue
            z = biases[stage, c]
            for k in range(width):
                z += heads[stage, c, k] * h[k]
            z = min(max(z, np.float32(-20)), np.float32(20))
            p = np.float32(1.0 / (1.0 + np.exp(-z)))
            g = (p - y) * weights[row]
            total += weights[row] * (np.log1p(np.exp(-abs(z))) + max(z, 0.0) - y * z)
            for k in range(width):
                grad[k] += g * heads[stage, c, k]
                d = g * h[k] + np.float32(1e-5) * heads[stage, c, k]
                heads_g[stage, c, k] += d * d
                heads[stage, c, k] -= rate * d / np.sqrt(heads_g[stage, c, k] + 1e-6)
            biases_g[stage, c] += g * g
            biases[stage, c] -= rate * g / np.sqrt(biases_g[stage, c] + 1e-6)
        square = np.float32(0)
        for k in range(width):
            grad[k] *= norm
            square += grad[k] * grad[k]
        square /= width
        for i in range(begin, end):
            mixed = (salt ^ np.uint64(i)) * np.uint64(0xBF58476D1CE4E5B9)
            if (mixed >> np.uint64(40)) * (1.0 / (1 << 24)) < dropout:
                continue
            b = flat[i]
            emb_g[b] += square
            step = rate / np.sqrt(emb_g[b] + np.float32(1e-6))
            for k in range(width):
                emb[b, k] -= step * grad[k]
    return total / max(len(order), 1)
