"""The compiled combination says what its formula says, and hides no broken number."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from prism.classify.combination import BOUND, combine, combine_features

COLUMNS, CATEGORIES = 23, 19
HAZARDS = np.array([3, 8, 5], np.int64)


def drawn(seed: int) -> tuple[NDArray[np.float32], ...]:
    """Logits, the sketch's, weights and biases; some logits far beyond the bound."""
    rng = np.random.default_rng(seed)
    shapes = (COLUMNS, CATEGORIES, (CATEGORIES, COLUMNS + 1 + CATEGORIES), CATEGORIES)
    scales = (9.0, 9.0, 0.2, 1.0)
    return tuple(
        rng.normal(0, scale, shape).astype(np.float32)
        for scale, shape in zip(scales, shapes, strict=True)
    )


@pytest.mark.parametrize("seed", range(20))
def test_features_are_the_columns_the_highest_hazard_and_the_sketch_within_bounds(
    seed: int,
) -> None:
    logits, sketch, _, _ = drawn(seed)
    every = np.concatenate((logits, logits[HAZARDS].max(keepdims=True), sketch))

    found = combine_features(logits, HAZARDS, sketch)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.clip(every, -BOUND, BOUND))


@pytest.mark.parametrize("foreign", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(20))
def test_probabilities_are_the_logistic_of_the_sum_and_of_the_sketch_for_what_is_foreign(
    seed: int, foreign: float
) -> None:
    logits, sketch, weights, biases = drawn(seed)
    features = combine_features(logits, HAZARDS, sketch).astype(np.float64)
    surest = np.log((1 - 1e-6) / 1e-6)
    joint = (1 - foreign) * (weights @ features + biases)
    joint += foreign * np.clip(sketch, -surest, surest)

    found = combine(logits, HAZARDS, sketch, weights, biases, foreign)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-joint)), rtol=1e-5, atol=1e-9)


def test_sure_models_give_probabilities_still() -> None:
    logits, sketch, weights, biases = drawn(1)
    for far in (1e30, -1e30, np.inf, -np.inf):
        scores = combine(
            np.full_like(logits, far), HAZARDS, np.full_like(sketch, far), weights, biases, 0.5
        )
        assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("at", [0, 5, COLUMNS - 1])
def test_what_is_no_number_is_not_taken_for_a_low_score(at: int) -> None:
    logits, sketch, weights, biases = drawn(2)
    logits[at] = np.nan

    assert np.isnan(combine(logits, HAZARDS, sketch, weights, biases, 0.0)).all()
