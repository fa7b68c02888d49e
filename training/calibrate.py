"""Calibration: scores to probabilities on the held-out mix, and how good they are there."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from sklearn.metrics import average_precision_score

from training.targets import Floats

SHARE = {"harm": 0.2}
"""Share of positives in the mix that probabilities are calibrated to; 5 % where not named."""
DEFAULT_SHARE = 0.05


def fit_one(x: Floats, labels: Floats, weights: Floats, prior: float = 3.0) -> tuple[Floats, float]:
    """Return non-negative weights and a bias that minimise the weighted log loss.

    ``prior`` pulls the weights towards an equal share of 1: more where there is little to learn.
    """
    count = x.shape[1]
    centre = np.full(count, 1.0 / count)
    scale = len(labels) / max(float(weights.sum()), 1e-9)

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        z = x @ at[:-1] + at[-1]
        p = 1 / (1 + np.exp(-np.clip(z, -30, 30)))
        nll = np.logaddexp(0, z) - labels * z
        off = at[:-1] - centre
        g = weights * (p - labels) * scale
        grad = np.append(x.T @ g + prior * off, g.sum())
        return float((nll * weights).sum() * scale + 0.5 * prior * (off**2).sum()), grad

    bounds = [(0.0, 3.0)] * count + [(-10.0, 10.0)]
    best = minimize(loss, np.append(centre, 0.0), jac=True, bounds=bounds, method="L-BFGS-B")
    return best.x[:-1].astype(np.float32), float(best.x[-1])


def threshold_at(scores: Floats, labels: Floats, rate: float) -> float:
    """Return the lowest threshold at which at most ``rate`` of the negatives score above it."""
    negatives = np.sort(scores[labels < 0.5])
    if len(negatives) == 0:
        return 1.0
    at = int(np.ceil((1 - rate) * len(negatives))) - 1
    return float(np.nextafter(negatives[max(at, 0)], np.float32(2)))


def recall_at(scores: Floats, labels: Floats, rate: float) -> float:
    """Return the recall at a false positive rate of ``rate``."""
    positives = scores[labels >= 0.5]
    return float((positives >= threshold_at(scores, labels, rate)).mean()) if len(positives) else 0


def auprc(scores: Floats, labels: Floats) -> float:
    """Return the average precision, NaN without positives."""
    if labels.size == 0 or labels.max() < 0.5:
        return float("nan")
    return float(average_precision_score(labels >= 0.5, scores))


def best_f1(scores: Floats, labels: Floats) -> float:
    """Return the highest F1 over all thresholds."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(labels[order] >= 0.5)
    total = max(int((labels >= 0.5).sum()), 1)
    return float((2 * hits / (np.arange(1, len(hits) + 1) + total)).max())


def reliability(
    scores: Floats, labels: Floats, weights: Floats
) -> list[tuple[float, float, float]]:
    """Return per tenth of the scale (mean score, share of positives, share of the mix)."""
    bins = np.minimum((scores * 10).astype(int), 9)
    out = []
    for k in range(10):
        w = weights[bins == k]
        if w.sum() > 0:
            mean = float((scores[bins == k] * w).sum() / w.sum())
            rate = float((labels[bins == k] * w).sum() / w.sum())
            out.append((mean, rate, float(w.sum() / weights.sum())))
    return out
