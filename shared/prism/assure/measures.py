"""How good scores are: precision and recall, with how sure one can be of them.

All measures are functions of the counts above each threshold, so a bootstrap replicate is one pass
over the sorted scores with other weights, and two systems are compared on the same replicates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FPR = 0.01
"""The false-positive rate at which recall is told."""
BINS = 10
"""Bins of the reliability diagram, of equal width."""
MEASURES = ("auprc", "f1", "precision", "recall", "fpr", "recall_at_fpr")
_MOST_WORK = 2e8  # rows times replicates: fewer replicates for very many rows


class Curve:
    """Labels and scores, sorted once. Equal scores fall on one side of a threshold together."""

    def __init__(self, labels: npt.ArrayLike, scores: npt.ArrayLike, threshold: float) -> None:
        truth, values = np.asarray(labels, bool), np.asarray(scores, np.float64)
        self._order = np.argsort(-values, kind="stable")
        self.scores = values[self._order]
        self._truth = truth[self._order].astype(np.float64)
        self._ends = np.flatnonzero(np.append(np.diff(self.scores) != 0, True)) if len(
            values
        ) else np.zeros(0, np.int64)  # fmt: skip
        self._cut = int(np.searchsorted(-self.scores, -threshold, side="right"))
        self.positives = int(truth.sum())
        self.negatives = len(truth) - self.positives

    def counts(self, weights: Floats | None = None) -> tuple[Floats, Floats]:
        """Return true and false positives at each distinct score, from the highest down."""
        each = np.ones(len(self._order)) if weights is None else weights[self._order]
        hits = np.cumsum(each * self._truth)
        return hits[self._ends], (np.cumsum(each) - hits)[self._ends]

    def measure(self, weights: Floats | None = None) -> dict[str, float | None]:
        """Return every measure; ``None`` where there is nothing to measure.

        ``auprc`` is average precision. ``f1``, ``precision``, ``recall`` and ``fpr`` are at the
        threshold; ``recall_at_fpr`` is the best recall with at most ``FPR`` false positives.
        """
        hits, misses = self.counts(weights)
        positives, negatives = (hits[-1], misses[-1]) if len(hits) else (0.0, 0.0)
        result: dict[str, float | None] = dict.fromkeys(MEASURES)
        at = int(np.searchsorted(self._ends, self._cut - 1, side="right")) - 1
        hit, miss = (hits[at], misses[at]) if at >= 0 else (0.0, 0.0)
        if negatives:
            result["fpr"] = float(miss / negatives)
        if not positives:
            return result
        result["recall"] = float(hit / positives)
        result["precision"] = float(hit / (hit + miss)) if hit + miss else 0.0
        result["f1"] = float(2 * hit / (hit + miss + positives))
        if negatives:
            recall = hits / positives
            precision = hits / np.maximum(hits + misses, 1e-300)
            result["auprc"] = float(np.sum(np.diff(recall, prepend=0.0) * precision))
            fits = misses / negatives <= FPR
            result["recall_at_fpr"] = float(recall[fits].max()) if fits.any() else 0.0
        return result

    def points(self, most: int = 400) -> list[tuple[float, float]]:
        """Return (recall, precision) along the curve, thinned to at most ``most`` points."""
        hits, misses = self.counts()
        if not self.positives or not len(hits):
            return []
        keep = np.unique(np.linspace(0, len(hits) - 1, most).astype(int))
        recall = hits / self.positives
        precision = hits / (hits + misses)
        return [(float(recall[i]), float(precision[i])) for i in keep]


def replicates(count: int, times: int, seed: int) -> Iterator[Floats]:
    """Yield how often each of ``count`` rows was drawn in each of ``times`` resamplings."""
    chance = np.random.default_rng(seed)
    for _ in range(min(times, int(_MOST_WORK / max(1, count)))):
        drawn = chance.integers(0, count, count)
        yield np.bincount(drawn, minlength=count).astype(np.float64)


def _interval(values: list[float]) -> list[float] | None:
    if not values:
        return None
    return [float(v) for v in np.percentile(values, [2.5, 97.5])]


def measured(curve: Curve, times: int, seed: int) -> dict[str, Any]:
    """Return each measure with its 95 % percentile interval: ``{"value", "interval"}``."""
    drawn: dict[str, list[float]] = {key: [] for key in MEASURES}
    for weights in replicates(curve.positives + curve.negatives, times, seed):
        for key, value in curve.measure(weights).items():
            if value is not None:
                drawn[key].append(value)
    return {
        key: None if value is None else {"value": value, "interval": _interval(drawn[key])}
        for key, value in curve.measure().items()
    }


def difference(first: Curve, second: Curve, times: int, seed: int) -> dict[str, Any]:
    """Return how much more the second has of each measure, on the same rows, with intervals.

    ``sure`` says that the interval leaves out zero.
    """
    drawn: dict[str, list[float]] = {key: [] for key in MEASURES}
    for weights in replicates(first.positives + first.negatives, times, seed):
        one, two = first.measure(weights), second.measure(weights)
        for key in MEASURES:
            if (a := one[key]) is not None and (b := two[key]) is not None:
                drawn[key].append(b - a)
    one, two = first.measure(), second.measure()
    result: dict[str, Any] = {}
    for key in MEASURES:
        a, b, interval = one[key], two[key], _interval(drawn[key])
        sure = interval is not None and not interval[0] <= 0 <= interval[1]
        result[key] = (
            None if a is None or b is None else {"value": b - a, "interval": interval, "sure": sure}
        )
    return result


@dataclass(frozen=True, slots=True)
class Bin:
    """Texts whose scores lie between ``low`` and ``high``: what was said of them, and what is."""

    low: float
    high: float
    count: int
    said: float  # mean score
    true: float  # share that is unsafe
    interval: tuple[float, float]  # of ``true``: Wilson's, 95 %


def reliability(labels: npt.ArrayLike, scores: npt.ArrayLike) -> list[Bin]:
    """Return the bins that hold any text."""
    truth, values = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    which = np.minimum((values * BINS).astype(int), BINS - 1)
    bins = []
    for index in range(BINS):
        inside = which == index
        if count := int(inside.sum()):
            true = float(truth[inside].mean())
            said = float(values[inside].mean())
            bins.append(
                Bin(index / BINS, (index + 1) / BINS, count, said, true, wilson(true, count))
            )
    return bins


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share."""
    z = 1.959964
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    half = float(half) / (1 + z * z / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def calibration_error(bins: list[Bin]) -> float | None:
    """Return the expected calibration error: the mean gap, by how many texts have it."""
    total = sum(b.count for b in bins)
    return sum(b.count * abs(b.said - b.true) for b in bins) / total if total else None
