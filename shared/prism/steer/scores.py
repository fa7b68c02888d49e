"""Category scores in the token layer: where the sketch is sure of harm, the row refuses.

The cascade of the text layer may ask an encoder and a guard; a sampler can't wait for them. So the
sketch alone decides here, on output tokens as they come, at every ``STRIDE``-th code point, and
only from a probability on at which it is hardly ever wrong (``prism.steer.operating``). Where both
layers run, the cascade still judges every text by the policy's own thresholds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prism.classify import features
from prism.classify.sketch import Sketch
from prism.steer import operating, score_kernel
from prism.steer.score_kernel import MARKS, POSITION, SEEN, STRIDE
from prism.text.normalise import fold_block
from prism.types import Action, Mode, Stage

if TYPE_CHECKING:
    from prism.classify.sketch import FloatArray
    from prism.policy.compiled import CompiledPolicy
    from prism.steer.vocabulary import Vocabulary

__all__ = ["STRIDE", "ScoreStates", "Scores"]


class Scores:
    """Which scores end an output under one policy. Immutable, shared by all rows."""

    def __init__(self, bounds: dict[str, float], vocabulary: Vocabulary, sketch: Sketch) -> None:
        self.bounds = bounds
        """From which probability on each category ends an output."""
        self.sketch = sketch
        self.vocabulary = vocabulary
        self.longest = int(np.diff(vocabulary.offsets).max(initial=0))
        """Bytes of the longest token."""
        columns = [sketch.categories.index(category) for category in bounds]
        heads, biases = sketch.weights.linear(Stage.OUTPUT)
        probability = np.clip(np.array(list(bounds.values()), np.float64), 1e-9, 1 - 1e-9)
        self.model = (
            sketch.weights.embeddings,
            heads[columns].astype(np.float64),
            biases[columns].astype(np.float64),
            np.log(probability) - np.log1p(-probability),
        )

    @classmethod
    def of(
        cls, policy: CompiledPolicy, vocabulary: Vocabulary, sketch: Sketch | None = None
    ) -> Scores | None:
        """Return what ``policy`` watches; ``None`` where it watches no score in the token layer.

        ``sketch``: the shipped one. Raises ``SketchError`` where it is needed and damaged.
        """
        wanted = _thresholds(policy)
        if not wanted or policy.tiers.get("sketch") != "on" or policy.token_scores == "off":
            return None
        sketch = sketch or Sketch.shipped()
        bounds = {
            key: max(threshold, operating.least(key))
            for key, threshold in wanted.items()
            if key in sketch.categories
        }
        return cls(bounds, vocabulary, sketch) if bounds else None


def _thresholds(policy: CompiledPolicy) -> dict[str, float]:
    """Return the lowest threshold per category from which on an output ends.

    A score has no place in the text: to redact or to steer for it is to end the answer, as in the
    text layer.
    """
    found: dict[str, float] = {}
    for rule in policy.rules_for(Stage.OUTPUT):
        threshold = (rule.thresholds or {}).get(Stage.OUTPUT)
        if threshold is None or rule.plain_language is not None:
            continue
        if rule.mode is Mode.ENFORCE and rule.action >= Action.REDACT:
            found[rule.category] = min(threshold, found.get(rule.category, 1.0))
    return found


class ScoreStates:
    """Slots for rows under one ``Scores``: what each has read, as flat arrays."""

    def __init__(self, scores: Scores, slots: int = 1) -> None:
        width = scores.sketch.weights.embeddings.shape[1]
        self.of = scores
        self._hashes = np.zeros((slots, 2, features.STATE), np.uint64)
        self._sums = np.zeros((slots, 2, width), np.int64)
        self._marks = np.zeros((slots, MARKS), np.int64)
        self._seen = np.zeros((slots, 2, SEEN), np.uint64)
        self._arrays = self._hashes, self._sums, self._seen, self._marks
        self._cps = np.empty(scores.longest + 1, np.int32)
        self._buffer = np.empty(features.BUFFER, np.int32)

    def doubled(self) -> ScoreStates:
        """Return twice as many slots, the first half as they are here."""
        n = len(self._marks)
        twin = ScoreStates(self.of, 2 * n)
        for new, old in zip(twin._arrays, self._arrays, strict=True):
            new[:n] = old
        return twin

    def begin(self, slot: int) -> None:
        """Set a slot to the start of an output."""
        for array in self._arrays:
            array[slot] = 0

    def feed(self, slots: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Read one token into each of ``slots``; return where the score is too high, ``[rows]``."""
        above = np.zeros(len(slots), np.uint8)
        vocabulary = self.of.vocabulary
        score_kernel.feed_rows(
            fold_block(), *self.of.model, *self._arrays, slots, tokens,
            vocabulary.data, vocabulary.offsets, self._cps, self._buffer, above,
        )  # fmt: skip
        return above.astype(np.bool_)

    def feed_one(self, slot: int, tokens: NDArray[np.int64]) -> int:
        """Read tokens into one slot; return how many made the score too high, or -1."""
        vocabulary = self.of.vocabulary
        first = score_kernel.feed_tokens(
            fold_block(), *self.of.model, *self._arrays, slot, tokens,
            vocabulary.data, vocabulary.offsets, self._cps, self._buffer,
        )  # fmt: skip
        return int(first)

    def row(self, slot: int) -> tuple[NDArray[Any], ...]:
        """Return a slot's own hashes, sums, filters and marks (``score_kernel.feed_rows``)."""
        hashes, sums, seen, marks = self._arrays
        return hashes[slot], sums[slot], seen[slot], marks[slot]

    def position(self, slot: int) -> int:
        """Return how many code points of the output are complete."""
        return int(self._marks[slot, POSITION])

    def scores(self, slot: int) -> FloatArray:
        """Return the sketch's probabilities of what was read, as ``SketchStream.scores`` does.

        Like there, of the present segment, an unfinished word ended; float32 ``[categories]``.
        """
        sums, count, _ = self._ended(slot)
        return self.of.sketch.weights.probabilities(Stage.OUTPUT, sums, count)

    def judged(self, slot: int) -> FloatArray:
        """Return the probabilities that bounds are compared with (``score_kernel.damping``)."""
        sums, count, new = self._ended(slot)
        damped = sums * score_kernel.damping(count, new)
        return self.of.sketch.weights.probabilities(Stage.OUTPUT, damped, count)

    def _ended(self, slot: int) -> tuple[NDArray[np.int64], int, int]:
        """Return sums, features and different features of the segment, were it to end here."""
        sums, count, new = score_kernel.ended(
            self.of.sketch.weights.embeddings, self._hashes[slot, 0], self._sums[slot, 0],
            self._seen[slot, 0], self._marks[slot], self._buffer,
        )  # fmt: skip
        return sums, int(count), int(new)
