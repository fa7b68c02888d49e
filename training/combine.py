"""From the encoder's columns to calibrated categories, with the sketch's word beside them.

Fitted on rows that neither model learnt from, whole unseen sources among them. Every weight is
non-negative and few are allowed: a category is its own column and the sketch's; ``harm`` is also
intent or answer, tone, the distilled teacher and the likeliest hazard.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from prism.classify.combination import combine_features
from prism.types import Stage
from training.calibrate import DEFAULT_SHARE, SHARE, fit_one
from training.labels import CATEGORIES, COLUMN, COLUMNS, HAZARDS
from training.rows import Row
from training.targets import Floats, mix

HIGHEST = len(COLUMNS)
SKETCH = len(COLUMNS) + 1
FEATURES = SKETCH + len(CATEGORIES)
HAZARD_COLUMNS = np.array([COLUMN[name] for name in HAZARDS], np.int64)
_HARM = {
    Stage.PROMPT: ("harm", "intent", "tone", "apc"),
    Stage.OUTPUT: ("harm", "resp", "tone", "apc"),
}


def allowed(stage: Stage, category: str) -> list[int]:
    """Return the features that may speak for ``category``."""
    own = SKETCH + CATEGORIES.index(category)
    if category != "harm":
        return [COLUMN[category], own]
    return [*(COLUMN[name] for name in _HARM[stage]), HIGHEST, own]


def features_of(logits: Floats, sketch: Floats) -> Floats:
    """Return the features of each row, float32 ``[rows, FEATURES]``."""
    pairs = zip(logits, sketch, strict=True)
    return np.stack([combine_features(one, HAZARD_COLUMNS, other) for one, other in pairs])


def combine(rows: Sequence[Row], stages: Sequence[Stage], logits: Floats, sketch: Floats) -> bytes:
    """Return the bytes of ``encoder.npz``; arrays are of ``rows``, each read at its stage."""
    x = features_of(logits, sketch)
    weights = np.zeros((2, len(CATEGORIES), FEATURES), np.float32)
    biases = np.zeros((2, len(CATEGORIES)), np.float32)
    for at, stage in enumerate((Stage.PROMPT, Stage.OUTPUT)):
        here = np.array([s is stage for s in stages])
        picked = [row for row, ok in zip(rows, here, strict=True) if ok]
        for c, category in enumerate(CATEGORIES):
            columns = allowed(stage, category)
            known, labels, mixed = mix(picked, category, SHARE.get(category, DEFAULT_SHARE))
            if labels.sum() < 5 or len(labels) - labels.sum() < 5:
                weights[at, c, columns] = 1.0 / len(columns)
                continue
            w, biases[at, c] = fit_one(x[here][known][:, columns], labels, mixed)
            weights[at, c, columns] = w
    return pack(weights, biases)


def pack(weights: Floats, biases: Floats) -> bytes:
    """Return the bytes of the shipped ``encoder.npz``."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        weights=weights,
        biases=biases,
        hazards=HAZARD_COLUMNS,
        categories=np.frombuffer(" ".join(CATEGORIES).encode("ascii"), np.uint8),
        columns=np.frombuffer(" ".join(COLUMNS).encode("ascii"), np.uint8),
    )
    return buffer.getvalue()
