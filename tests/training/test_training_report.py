"""The figures of the report, on made-up scores."""

from __future__ import annotations

import numpy as np
import pytest
from training.labels import CATEGORIES
from training.report import ALIKE, DANGER, PER_ALIKE, PER_SOURCE, plain, sample
from training.rows import Row


def scored(rows: list[tuple[Row, float]]) -> tuple[list[Row], np.ndarray]:
    scores = np.zeros((len(rows), len(CATEGORIES)), np.float32)
    scores[:, 0] = [score for _, score in rows]
    return [row for row, _ in rows], scores


def test_danger_and_look_alikes_are_counted_above_what_one_instruction_in_a_hundred_reaches() -> (
    None
):
    calm = [(Row("dolly_subset", "zephyr", None, {"harm": 0.0}), k / 1000) for k in range(100)]
    other = [
        (Row(DANGER[0], "gloom", None, {"harm": 1.0}), 0.9),
        (Row(DANGER[0], "murk", None, {"harm": 1.0}), 0.05),
        (Row(DANGER[2], "blight", None, {"harm": 1.0}), 0.3),
        (Row(ALIKE, "lantern", None, {"harm": 0.0}), 0.4),
        (Row(ALIKE, "kettle", None, {"harm": 0.0}), 0.6),
        (Row("dolly_subset", "ask", "answer", {"harm": 0.0}), 0.99),
    ]
    rows, scores = scored(calm + other)
    found = plain(rows, scores, scores)["encoder"]

    assert found["instructions"] == 100
    assert found["threshold"] == pytest.approx(0.098, abs=1e-4)
    for group, shares in (
        ("all dangerous", (3, 0.667, [0.0, 1.0], 0.333)),
        (DANGER[0], (2, 0.5, [0.0, 1.0], 0.5)),
        (ALIKE, (2, 1.0, [1.0, 1.0], 0.5)),
    ):
        assert tuple(found[group].values()) == shares


def test_without_everyday_instructions_there_is_nothing_to_compare_with() -> None:
    rows, scores = scored([(Row(DANGER[0], "gloom", None, {"harm": 1.0}), 0.9)])

    assert plain(rows, scores, scores) == {}


def test_look_alikes_are_sampled_more_fully_than_other_sets() -> None:
    rows = [Row(name, f"text {k}", split="test") for name in (ALIKE, "edos") for k in range(600)]
    kept = [row.source for row in sample(rows, "test")]

    assert (kept.count(ALIKE), kept.count("edos")) == (PER_ALIKE, PER_SOURCE)
