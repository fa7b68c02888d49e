"""Rows as arrays: targets with their masks, weights, and the calibration's mix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.labels import COLUMN, COLUMNS
from training.rows import Row

Floats = NDArray[np.float32]


def matrix(rows: Sequence[Row]) -> Floats:
    """Return targets, float32 ``[rows, columns]``; NaN where the row's source does not know."""
    out = np.full((len(rows), len(COLUMNS)), np.nan, np.float32)
    for index, row in enumerate(rows):
        for name, value in row.labels.items():
            out[index, COLUMN[name]] = value
    return out


def mix(rows: Sequence[Row], column: str, share: float) -> tuple[NDArray[np.bool_], Floats, Floats]:
    """Weigh held-out rows so that they stand for traffic in which ``share`` is positive.

    Sources weigh by the square root of their size. Returns which rows know ``column`` surely enough
    (at most 0.3 or at least 0.6), their 0/1 labels and their weights, which sum to 1.
    """
    raw = np.array([row.labels.get(column, np.nan) for row in rows], np.float32)
    known = (raw <= 0.3) | (raw >= 0.6)
    labels = (raw[known] >= 0.6).astype(np.float32)
    chosen = [row for row, ok in zip(rows, known, strict=True) if ok]
    pairs = [(row.source, label) for row, label in zip(chosen, labels.tolist(), strict=True)]
    counts = Counter(pairs)
    weights = np.array([counts[pair] ** -0.5 for pair in pairs], np.float32)
    for label, total in ((1.0, share), (0.0, 1.0 - share)):
        here = labels == label
        if here.any():
            weights[here] *= total / weights[here].sum()
    return known, labels, weights
