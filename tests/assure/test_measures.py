"""The measures are those of scikit-learn, and the intervals hold what they should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_recall_curve,
    precision_score,
    recall_score,
    roc_curve,
)

from prism.assure.measures import (
    FPR,
    MEASURES,
    Curve,
    calibration_error,
    difference,
    measured,
    reliability,
    wilson,
)

# Coarse scores, so that there are ties.
ROWS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 20).map(lambda n: n / 20)), min_size=2, max_size=80
).filter(lambda rows: len({label for label, _ in rows}) == 2)


@settings(max_examples=200, deadline=None)
@given(ROWS, st.integers(0, 20).map(lambda n: n / 20))
def test_the_measures_are_scikit_learns(rows, threshold):
    labels, scores = map(np.array, zip(*rows, strict=True))
    got = Curve(labels, scores, threshold).measure()
    said = scores >= threshold
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert got == pytest.approx(
        {
            "auprc": average_precision_score(labels, scores),
            "f1": f1_score(labels, said, zero_division=0),
            "precision": precision_score(labels, said, zero_division=0),
            "recall": recall_score(labels, said),
            "fpr": said[~labels].mean(),
            "recall_at_fpr": tpr[fpr <= FPR].max(),
        }
    )


@settings(max_examples=100, deadline=None)
@given(ROWS, st.data())
def test_weights_are_repeated_rows(rows, data):
    labels, scores = map(np.array, zip(*rows, strict=True))
    weights = np.array(
        data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    )
    repeated = Curve(np.repeat(labels, weights), np.repeat(scores, weights), 0.5).measure()
    assert Curve(labels, scores, 0.5).measure(weights.astype(float)) == pytest.approx(repeated)


@settings(max_examples=50, deadline=None)
@given(ROWS)
def test_the_points_are_scikit_learns(rows):
    labels, scores = map(np.array, zip(*rows, strict=True))
    precision, recall, _ = precision_recall_curve(labels, scores)
    expected = np.array(sorted(zip(recall[:-1], precision[:-1], strict=True)))
    assert np.array(sorted(Curve(labels, scores, 0.5).points())) == pytest.approx(expected)


@pytest.mark.parametrize(("labels", "absent"), [([1, 1], {"auprc", "fpr", "recall_at_fpr"}),
                                                ([0, 0], set(MEASURES) - {"fpr"}),
                                                ([], set(MEASURES))])  # fmt: skip
def test_what_can_t_be_measured_is_absent(labels, absent):
    got = Curve(labels, [0.5] * len(labels), 0.5).measure()
    assert {key for key, value in got.items() if value is None} == absent


def drawn(seed, count=400):
    chance = np.random.default_rng(seed)
    labels = chance.random(count) < 0.3
    return labels, np.clip(chance.normal(0.35 + 0.3 * labels, 0.2), 0, 1)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    # The truth: the measure on very many rows.
    truth = Curve(*drawn(0, 200_000), 0.5).measure()
    hits = dict.fromkeys(("auprc", "f1", "recall"), 0)
    for seed in range(1, 41):
        got = measured(Curve(*drawn(seed), 0.5), 100, seed)
        for key in hits:
            low, high = got[key]["interval"]
            hits[key] += low <= truth[key] <= high
    assert all(count >= 33 for count in hits.values()), hits


def test_the_same_seed_gives_the_same_interval():
    curve = Curve(*drawn(1), 0.5)
    assert measured(curve, 50, 3) == measured(curve, 50, 3) != measured(curve, 50, 4)


def test_a_difference_is_sure_only_where_there_is_one():
    labels, scores = drawn(2)
    noise = np.random.default_rng(3).random(len(scores))
    good, worse = Curve(labels, scores, 0.5), Curve(labels, scores * 0.4 + noise * 0.6, 0.5)
    gap = difference(worse, good, 200, 0)["auprc"]
    assert gap["value"] == pytest.approx(good.measure()["auprc"] - worse.measure()["auprc"])
    assert gap["sure"]
    assert gap["interval"][0] < gap["value"] < gap["interval"][1]
    assert not difference(good, good, 50, 0)["auprc"]["sure"]


def test_reliability_is_scikit_learns():
    labels, scores = drawn(4)
    bins = reliability(labels, scores)
    true, said = calibration_curve(labels, scores, n_bins=10)
    assert [b.true for b in bins] == pytest.approx(list(true))
    assert [b.said for b in bins] == pytest.approx(list(said))
    assert sum(b.count for b in bins) == len(labels)
    assert all(b.interval[0] <= b.true <= b.interval[1] for b in bins)
    exact = sum(b.count * abs(b.said - b.true) for b in bins) / len(labels)
    assert calibration_error(bins) == pytest.approx(exact)
    assert calibration_error([]) is None


def test_wilsons_interval():
    # Wilson 1927; the values are those of statsmodels' proportion_confint.
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
