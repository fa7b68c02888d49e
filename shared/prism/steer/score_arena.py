"""Scores of several policies as plain arrays, for kernels that run on a device.

What ``Scores`` and ``ScoreStates`` have is laid out so that a mixed batch is one launch. A state is
one run of int64: marks, then of two segments each their fields, their sums, and their filters.
Segment ``k`` of a text is number ``k % 2`` of the two, so that none has to be moved when the next
one begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prism.classify import features
from prism.classify.cascade import SEGMENT
from prism.steer import score_kernel
from prism.steer.guard import TokenGuard
from prism.steer.score_kernel import SEEN
from prism.steer.scores import ScoreStates

MARKS = 8
"""Numbers before the segments: those of ``score_kernel`` from ``DUE`` to ``POSITION``."""
COUNT, NEW = features.STATE, features.STATE + 1
"""Of a segment: its hashes (``features``), how many features it has, how many different ones."""
SEGMENT_FIELDS = 16
_POSITION = score_kernel.POSITION


@dataclass(frozen=True, slots=True)
class ScoreArena:
    """What guards over one vocabulary watch. Policy ``p`` is the ``p``-th of them."""

    embeddings: NDArray[np.int8]  # [buckets, dimensions]
    heads: NDArray[np.float64]  # [policies, watched, dimensions]
    biases: NDArray[np.float64]  # [policies, watched]
    bounds: NDArray[np.float64]  # [policies, watched], log odds; infinite where nothing is watched
    watched: NDArray[np.int32]  # [policies], how many categories are
    data: NDArray[np.uint8]  # the bytes of all tokens …
    offsets: NDArray[np.int32]  # [vocabulary + 1], … and where each one's begin

    @classmethod
    def of(cls, guards: Sequence[TokenGuard]) -> ScoreArena | None:
        """Lay out ``guards``, which share vocabulary and sketch; ``None`` if none watches a score.

        Raises ``ValueError`` where they don't share their sketch.
        """
        scores = [guard.scores for guard in guards if guard.scores is not None]
        if not scores:
            return None
        if len({s.sketch.digest for s in scores}) > 1:
            raise ValueError("the policies' scores come from different sketches")
        vocabulary, embeddings = scores[0].vocabulary, scores[0].model[0]
        # Devices compute in powers of two; what is added to fill them up is zero.
        width = _power(embeddings.shape[1])
        most = _power(max(len(s.bounds) for s in scores))
        heads = np.zeros((len(guards), most, width), np.float64)
        biases = np.zeros((len(guards), most), np.float64)
        bounds = np.full((len(guards), most), np.inf, np.float64)
        watched = np.zeros(len(guards), np.int32)
        for i, guard in enumerate(guards):
            if guard.scores is not None:
                _, its_heads, its_biases, its_bounds = guard.scores.model
                n = watched[i] = len(its_bounds)
                heads[i, :n, : its_heads.shape[1]] = its_heads
                biases[i, :n], bounds[i, :n] = its_biases, its_bounds
        return cls(
            np.pad(embeddings, ((0, 0), (0, width - embeddings.shape[1]))),
            heads,
            biases,
            bounds,
            watched,
            vocabulary.data,
            vocabulary.offsets.astype(np.int32),
        )

    @property
    def dimensions(self) -> int:
        """Numbers of an embedding."""
        return int(self.embeddings.shape[1])

    @property
    def most(self) -> int:
        """Categories that are watched, at most, and those that fill them up."""
        return int(self.bounds.shape[1])

    @property
    def width(self) -> int:
        """Numbers in a state."""
        return MARKS + 2 * (SEGMENT_FIELDS + self.dimensions + SEEN)

    def state(self, states: ScoreStates | None, slot: int = 0) -> NDArray[np.int64]:
        """Return where a host's row stands, int64 ``[width]``; at the start for ``None``."""
        marks = np.zeros(MARKS, np.int64)
        fields = np.zeros((2, SEGMENT_FIELDS), np.int64)
        sums = np.zeros((2, self.dimensions), np.int64)
        seen = np.zeros((2, SEEN), np.int64)
        if states is not None:
            hashes, its_sums, its_seen, its_marks = states.row(slot)
            position = int(its_marks[_POSITION])
            marks[: _POSITION + 1] = its_marks[: _POSITION + 1]
            # The host turns to the next segment when the first character of it is read.
            odd = max(position - 1, 0) // SEGMENT % 2
            order = [odd, 1 - odd]
            fields[order, : features.STATE] = hashes.view(np.int64)
            fields[order, COUNT] = its_marks[[score_kernel.COUNT, score_kernel.NEXT_COUNT]]
            fields[order, NEW] = its_marks[[score_kernel.NEW, score_kernel.NEXT_NEW]]
            sums[order, : its_sums.shape[1]] = its_sums
            seen[order] = its_seen.view(np.int64)
        parts = marks, fields, sums, seen
        return np.concatenate([part.reshape(-1) for part in parts])


def _power(n: int) -> int:
    """Return the least power of two that is at least ``n``."""
    return 1 << (n - 1).bit_length()
