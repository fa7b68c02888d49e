"""What the models say of rows: the shipped code, with the weights just made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prism.classify.encoder import Encoder
from prism.classify.sketch import Sketch
from prism.types import Stage
from training.rows import Row
from training.targets import Floats

LONGEST = 1500
"""Characters of a text that measuring reads."""


def stage_of(row: Row) -> Stage:
    """Return the stage that a row is of."""
    return Stage.PROMPT if row.response is None else Stage.OUTPUT


def sketch_scores(sketch: Sketch, rows: Sequence[Row]) -> Floats:
    """Return probabilities, float32 ``[rows, categories]``."""
    return np.stack([sketch.score(row.read[:LONGEST], stage_of(row)) for row in rows])


def sketch_logits(sketch: Sketch, rows: Sequence[Row]) -> Floats:
    """Return log odds, float32 ``[rows, categories]``."""
    p = np.clip(sketch_scores(sketch, rows), 1e-6, 1 - 1e-6)
    return np.asarray(np.log(p) - np.log1p(-p), np.float32)


def encoder_logits(encoder: Encoder, rows: Sequence[Row]) -> Floats:
    """Return the model's own outputs, float32 ``[rows, columns]``."""
    out = []
    for index, row in enumerate(rows):
        prompt = None if row.response is None else row.text[:LONGEST]
        out.append(encoder.logits(prompt, row.read[:LONGEST]))
        if index % 1000 == 999:
            print(f"encoder: read {index + 1} of {len(rows)}", flush=True)
    return np.stack(out)


def encoder_scores(encoder: Encoder, rows: Sequence[Row], logits: Floats) -> Floats:
    """Return probabilities from outputs already computed, float32 ``[rows, categories]``."""
    return np.stack(
        [
            encoder.combined(one, stage_of(row), row.read[:LONGEST])
            for one, row in zip(logits, rows, strict=True)
        ]
    )
