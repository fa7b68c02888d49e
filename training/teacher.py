"""Soft targets from alt-profanity-check (MIT): what a bag of words says of the tone.

It was trained on comments that our sets don't hold, so its opinion of our texts, labelled or not,
and of its own vocabulary set into ordinary sentences, carries that knowledge over (distillation).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from training.rows import Row


def _model() -> tuple[Any, Any]:
    module = import_module("profanity_check.profanity_check")
    return module.vectorizer, module.model


def opinions(texts: Sequence[str]) -> list[float]:
    """Return the teacher's probability that each text is offensive."""
    if not texts:
        return []
    predict = import_module("profanity_check").predict_prob
    return [float(p) for p in predict(list(texts))]


def teach(rows: Sequence[Row]) -> None:
    """Set the ``apc`` label of every English row."""
    english = [row for row in rows if row.lang == "en"]
    for row, p in zip(english, opinions([row.read[:2000] for row in english]), strict=True):
        row.labels["apc"] = p


def vocabulary_rows(rows: Sequence[Row], count: int, seed: int = 5) -> list[Row]:
    """Return ``count`` rows: ordinary texts with one to three of the teacher's words set in.

    Half of the words are drawn from the 3,000 that move the teacher most, half from all. They
    teach ``apc`` alone.
    """
    vectorizer, model = _model()
    words = np.array(sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.get))
    estimators = getattr(model, "calibrated_classifiers_", None)
    if estimators:
        inner = getattr(estimators[0], "estimator", None) or estimators[0].base_estimator
    else:
        inner = model
    strong = words[np.argsort(-np.abs(np.asarray(inner.coef_).ravel()), kind="stable")[:3000]]
    carriers = [r.read for r in rows if r.split == "train" and r.lang == "en"
                and r.labels.get("harm") == 0.0 and 10 < len(r.read) < 160]  # fmt: skip
    rng = random.Random(seed)
    out = []
    for _ in range(count if carriers else 0):
        text = rng.choice(carriers).split()
        for _ in range(rng.randint(1, 3)):
            word = str(rng.choice(strong if rng.random() < 0.5 else words))
            text.insert(rng.randint(0, len(text)), word)
        out.append(Row("vocabulary", " ".join(text[:40]), None, {}, 0.8))
    return out
