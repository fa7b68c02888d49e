"""The sketch: a hashed n-gram model that reads a text as it comes, about a microsecond a word.

Each feature (``prism.classify.features``) has a row of 16 int8 numbers; a text is the sum of its
features' rows over the square root of their number, and each category a linear function of that,
one set for prompts and one for responses, then a calibrated probability. The sums are integers, so
any chunking of a text gives the same scores to the bit.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from prism.classify import features
from prism.text.normalise import code_points, fold_block
from prism.types import Stage

FloatArray = NDArray[np.float32]
_STAGES = (Stage.PROMPT, Stage.OUTPUT)
_FILE = "sketch.npz"


class SketchError(ValueError):
    """The file with the sketch's weights is damaged or of another version."""


@dataclass(frozen=True, slots=True)
class Weights:
    """``embeddings`` int8 [buckets, d]; ``heads`` float32 [stage, category, d]; ``biases``."""

    embeddings: NDArray[np.int8]
    heads: NDArray[np.float32]
    biases: NDArray[np.float32]

    def probabilities(
        self, stage: Stage, sums: NDArray[np.int64] | NDArray[np.float64], count: int
    ) -> FloatArray:
        """Return the scores of a text of ``count`` features with these ``sums``, ``[d]``."""
        at = _STAGES.index(stage)
        logits = self.heads[at] @ (sums / np.sqrt(max(count, 1))) + self.biases[at]
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -30.0, 30.0))), np.float32)

    def linear(self, stage: Stage) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the linear functions of ``stage``: ``[category, d]``, and ``[category]``."""
        at = _STAGES.index(stage)
        return self.heads[at], self.biases[at]


class Sketch:
    """Scores of a text per category, for prompts and for outputs. Immutable; share it freely."""

    def __init__(self, data: bytes) -> None:
        """Read the weights from the bytes of an ``.npz`` file. Raises ``SketchError``."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                weights = Weights(arrays["embeddings"], arrays["heads"], arrays["biases"])
                names = bytes(arrays["categories"]).decode("ascii").split()
        except (KeyError, ValueError, OSError, EOFError) as error:
            raise SketchError(f"these are no weights of a sketch: {error}") from None
        shape = (len(_STAGES), len(names), weights.embeddings.shape[-1])
        if weights.embeddings.shape[0] != 1 << features.BITS or weights.heads.shape != shape:
            raise SketchError("these weights belong to another version of the sketch's features")
        self.categories: tuple[str, ...] = tuple(names)
        """Column order of every scores array; has ``harm`` and ``inj``."""
        self.digest: str = hashlib.sha256(data).hexdigest()
        """SHA-256 of the weights' file, hex."""
        self.weights = weights

    @classmethod
    def shipped(cls) -> Sketch:
        """Return the sketch that the package ships, loaded once per process."""
        return _shipped()

    def start(self, stage: Stage) -> SketchStream:
        """Begin a text of ``stage``."""
        return SketchStream(self.weights, stage)

    def score(self, text: str, stage: Stage) -> FloatArray:
        """Return the calibrated probabilities of a whole text, float32 ``[categories]``."""
        stream = self.start(stage)
        stream.feed(text)
        return stream.scores()

    def logits(self, text: str, stage: Stage) -> FloatArray:
        """Return the log odds of a whole text, float32 ``[categories]``, in one compiled call."""
        heads, biases = self.weights.linear(stage)
        found: FloatArray = features.whole(
            fold_block(), self.weights.embeddings, heads, biases, code_points(text)
        )
        return found


class SketchStream:
    """One text, read in any chunks. For one thread at a time."""

    __slots__ = ("_buffer", "_count", "_stage", "_state", "_sums", "_weights")

    def __init__(self, weights: Weights, stage: Stage) -> None:
        self._weights = weights
        self._stage = stage
        self._state = np.zeros(features.STATE, np.uint64)
        self._sums = np.zeros(weights.embeddings.shape[1], np.int64)
        self._count = 0
        self._buffer = np.empty(features.BUFFER, np.int32)

    def feed(self, text: str) -> None:
        """Read more of the text."""
        self._count += features.feed(
            fold_block(),
            self._weights.embeddings,
            self._state,
            code_points(text),
            self._buffer,
            self._sums,
        )

    def scores(self) -> FloatArray:
        """Return the probabilities of the text so far, float32 ``[categories]``.

        An unfinished last word counts as if it ended here; the stream itself is not changed.
        """
        sums = self._sums.copy()
        found = features.finish(self._state.copy(), self._buffer)
        features.accumulate(self._weights.embeddings, self._buffer, found, sums)
        return self._weights.probabilities(self._stage, sums, self._count + found)


@cache
def _shipped() -> Sketch:
    return Sketch((files("prism.classify") / "data" / _FILE).read_bytes())
