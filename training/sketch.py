"""Training the sketch: logistic regression through 16 shared dimensions, by Adagrad.

It reads texts with the shipped feature code. One pass is seconds on one core, in a fixed order, so
equal seeds give equal weights.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prism.classify import features
from training.calibrate import DEFAULT_SHARE, SHARE, fit_one
from training.kernel import one_pass
from training.labels import CATEGORIES, COLUMN, COLUMNS
from training.rows import Row
from training.targets import Floats, matrix, mix

WIDTH = 16
"""Dimensions of a feature's row."""
LONGEST = 6000
"""Characters of a text that training reads."""


def examples(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """Return (row, stage) pairs; a comment teaches both stages, since a model may write it too."""
    out = []
    for index, row in enumerate(rows):
        if row.response is not None:
            out.append((index, 1))
        else:
            out.append((index, 0))
            if "resp" in row.labels:
                out.append((index, 1))
    return out


def flatten(rows: Sequence[Row]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return all rows' features in one array, and where each row's begin, int64 ``[rows + 1]``."""
    parts = [features.buckets_of(row.read[:LONGEST]) for row in rows]
    starts = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=starts[1:])
    return np.concatenate(parts) if parts else np.zeros(0, np.int32), starts


def train(
    rows: Sequence[Row], passes: int = 6, rate: float = 0.04, dropout: float = 0.3, seed: int = 7
) -> bytes:
    """Return the bytes of ``sketch.npz`` trained and calibrated on ``rows``."""
    learning = [row for row in rows if row.split == "train"]
    flat, starts = flatten(learning)
    pairs = np.array(examples(learning), np.int64)
    targets = matrix(learning)
    weights = np.array([row.weight for row in learning], np.float32)
    rng = np.random.default_rng(seed)
    columns = len(COLUMNS)
    emb = rng.normal(0, 0.02, (1 << features.BITS, WIDTH)).astype(np.float32)
    heads = rng.normal(0, 0.3, (2, columns, WIDTH)).astype(np.float32)
    heads[1] = heads[0]
    biases = np.full((2, columns), -2.0, np.float32)
    squares = [np.full(a.shape, 1e-3, np.float32) for a in (emb[:, 0], heads, biases)]
    for number in range(passes):
        order = rng.permutation(len(pairs))
        loss = one_pass(
            flat, starts, pairs[order, 0], pairs[order, 1], targets, weights, emb, squares[0],
            heads, squares[1], biases, squares[2], np.float32(rate * (1 - number / passes)),
            dropout, seed + number,
        )  # fmt: skip
        print(f"sketch: pass {number + 1} of {passes}, loss {loss:.4f}", flush=True)
    # A feature never met keeps its random start, which is noise: it says nothing instead.
    met = np.zeros(len(emb), bool)
    met[flat] = True
    emb[~met] = 0
    small, heads, biases = quantise(emb, heads, biases)
    return calibrated(small, heads, biases, rows)


def quantise(emb: Floats, heads: Floats, biases: Floats) -> tuple[NDArray[np.int8], Floats, Floats]:
    """Return int8 rows, and heads scaled so that the product stays what it was."""
    used = np.abs(emb).max(axis=1) > 0
    scale = np.quantile(np.abs(emb[used]), 0.9995, axis=0) / 127.0
    small = np.clip(np.rint(emb / scale), -127, 127).astype(np.int8)
    return small, (heads * scale).astype(np.float32), biases


HARM = (("harm", "intent", "tone", "apc"), ("harm", "resp", "tone", "apc"))
"""Columns whose weighted sum is the ``harm`` of each stage."""


def calibrated(
    small: NDArray[np.int8], heads: Floats, biases: Floats, rows: Sequence[Row]
) -> bytes:
    """Combine and calibrate on the ``calibrate`` split; all of it linear, so folded into the heads.

    A category is its own column; ``harm`` a non-negative sum of ``HARM``.
    """
    held = [row for row in rows if row.split == "calibrate"]
    texts = embed(small, held)
    out = np.zeros((2, len(CATEGORIES), heads.shape[2]), np.float32)
    out_biases = np.zeros((2, len(CATEGORIES)), np.float32)
    for stage in (0, 1):
        here = [i for i, row in enumerate(held) if stage in stages_of(row)]
        picked = [held[i] for i in here]
        for c, name in enumerate(CATEGORIES):
            columns = [COLUMN[part] for part in (HARM[stage] if name == "harm" else (name,))]
            known, labels, weights = mix(picked, name, SHARE.get(name, DEFAULT_SHARE))
            index = np.array(here, int)[known]
            logits = texts[index] @ heads[stage, columns].T + biases[stage, columns]
            if labels.sum() >= 5 and (1 - labels).sum() >= 5:
                w, bias = fit_one(logits, labels, weights)
            else:
                w, bias = np.full(len(columns), 1 / len(columns), np.float32), 0.0
            out[stage, c] = w @ heads[stage, columns]
            out_biases[stage, c] = w @ biases[stage, columns] + bias
    return pack(small, out, out_biases)


def stages_of(row: Row) -> tuple[int, ...]:
    """Return the stages a row speaks of: 0 prompt, 1 output."""
    if row.response is not None:
        return (1,)
    return (0, 1) if "resp" in row.labels else (0,)


def embed(small: NDArray[np.int8], rows: Sequence[Row]) -> Floats:
    """Return each row's sum over the square root of its number of features."""
    out = np.zeros((len(rows), small.shape[1]), np.float32)
    for index, row in enumerate(rows):
        buckets = features.buckets_of(row.read[:LONGEST])
        out[index] = small[buckets].sum(axis=0, dtype=np.int64) / np.sqrt(max(len(buckets), 1))
    return out


def pack(small: NDArray[np.int8], heads: Floats, biases: Floats) -> bytes:
    """Return the bytes of the shipped ``.npz``."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        embeddings=small,
        heads=heads,
        biases=biases,
        categories=np.frombuffer(" ".join(CATEGORIES).encode("ascii"), np.uint8),
    )
    return buffer.getvalue()
