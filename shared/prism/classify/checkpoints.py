"""q(Y)'s scores of one channel of an answer, while it comes.

Decisions fall at fixed places of the channel (every ``STRIDE`` code points, and its end), so how
the text was cut into pieces can't change one. Between them text flows as long as the sketch says
that it is surely harmless so far; once it doesn't, what follows is held until the next checkpoint
passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from prism.classify.cascade import OVERLAP, SEGMENT, SKETCH, Asked, Cascade, Reading
from prism.classify.languages import UNDETERMINED

if TYPE_CHECKING:
    from prism.classify.models import FloatArray

STRIDE = 128
"""Code points between checkpoints: about 32 tokens."""

GUARD_STRIDE = 512
"""The same where every checkpoint asks a guard, because a rule is in plain language."""

WINDOW = 384
"""Code points before a checkpoint that the encoder reads, about one window of its own: three times
each text, however long."""

GUARD_WINDOW = 2_048

LOOK = 32
"""Code points after which the sketch is asked again whether text may flow; at first it's sooner."""


class Checkpoints:
    """One channel. Read up to :attr:`room` code points, then :meth:`settle`. For one thread."""

    __slots__ = (
        "_asked", "_cascade", "_failed", "_left", "_look", "_quiet", "_reading", "_sketch",
        "_stride", "_tail", "_told", "_unseen", "_window", "passed", "position", "quiet", "room",
        "sure",
    )  # fmt: skip

    # The sketch's segments begin at checkpoints: SEGMENT is a multiple of both strides.

    def __init__(self, cascade: Cascade, asked: Asked) -> None:
        self._cascade = cascade
        self._asked = asked
        guarded = bool(cascade.plain)
        self._stride = GUARD_STRIDE if guarded else STRIDE
        self._window = GUARD_WINDOW if guarded else WINDOW
        self._failed: Reading | None = None
        self._tail: list[str] = []
        self._told: tuple[int, FloatArray] | None = None  # what it said, and where
        self._unseen = 0  # code points read since the sketch was asked
        self._look = 1  # after how many it is asked again
        self._left = SEGMENT  # code points that the sketch's present stream still takes
        self._sketch = cascade.begin()
        self.position = 0
        """Code points read."""
        self.passed = 0
        """Where the last checkpoint that passed lies."""
        self.room = self._stride
        """Code points that may be read before the next checkpoint; 0: settle it first."""
        self.sure = False
        """Whether text flows: what was read the sketch finds surely harmless."""
        self.quiet = False
        """Whether the last checkpoint said nothing new: no tier but the sketch was asked."""
        self._reading = Reading()
        self._quiet: FloatArray | None = None  # the sketch's highest scores at quiet checkpoints

    @property
    def limit(self) -> int:
        """How far text may go out as far as scores are concerned."""
        return self.position if self.sure or not self._cascade.holds else self.passed

    @property
    def reading(self) -> Reading:
        """The highest scores of all checkpoints so far."""
        if self._quiet is None:
            return self._reading
        return self._reading.worst(self._cascade.named(self._quiet))

    def read(self, text: str) -> None:
        """Read up to ``room`` code points."""
        length = len(text)
        if self._sketch is not None:
            try:
                if not self._left:
                    self._renew()
                self._sketch.feed(text)
            except Exception:
                self._lose_sketch()
        self._left -= length
        self._unseen += length
        self.position += length
        self.room -= length
        self._tail.append(text)
        if self._unseen >= self._look and self.room:
            self.glance()

    def doubtful(self) -> bool:
        """Return whether settling this place may wait for a model; until then nothing flows."""
        if not self._cascade.may_wait:
            return False
        doubt = bool(self._cascade.plain) or not self._harmless(self._scores())
        self.sure = self.sure and not doubt
        return doubt

    def settle(self) -> bool:
        """Judge the text up to here, which is a checkpoint or the end; return whether it passes."""
        cascade = self._cascade
        scores = self._scores()
        harmless = self._harmless(scores)
        self._unseen = 0
        self.room = self._stride - self.position % self._stride
        spoken = self._reading.language not in (None, UNDETERMINED)
        self.quiet = harmless and spoken and not cascade.plain and not cascade.watches_languages
        if self.quiet and scores is not None:  # nothing new: only how high the scores are
            self._quiet = scores if self._quiet is None else np.maximum(self._quiet, scores)
            self.passed = self.position
            self.sure = True
            return True
        sketched = self._failed or Reading() if scores is None else cascade.named(scores)
        now = cascade.output(
            sketched, self._asked, self._latest(), settled=harmless, language=not spoken
        )
        self._reading = self._reading.worst(now)
        passes = not cascade.stops(now)
        if passes:
            self.passed = self.position
        self.sure = passes and harmless and not cascade.plain
        return passes

    def glance(self) -> None:
        """See whether text may flow on."""
        self._unseen, self._look = 0, min(LOOK, 2 * self._look)
        harmless = self._harmless(self._scores())
        # The first checkpoint tells the language, where that matters.
        told = self.passed > 0 or not self._cascade.stops_languages
        self.sure = harmless and told and not self._cascade.plain

    def _scores(self) -> FloatArray | None:
        if self._told is not None and self._told[0] == self.position:
            return self._told[1]
        if self._sketch is not None:
            try:
                scores = self._sketch.scores()
            except Exception:
                self._lose_sketch()
            else:
                self._told = (self.position, scores)
                return scores
        return None

    def _harmless(self, scores: FloatArray | None) -> bool:
        if scores is None:
            return not self._cascade.tiers
        return self._cascade.harmless(scores)

    def _renew(self) -> None:
        """Give the sketch a fresh stream that knows the end of the last one."""
        stream = self._cascade.begin()
        assert stream is not None
        stream.feed(self._latest()[-OVERLAP:])
        self._sketch = stream
        self._left = SEGMENT

    def _latest(self) -> str:
        """Return the end of what was read, as much as the dearest tier looks at."""
        text = "".join(self._tail)[-self._window :]
        self._tail = [text]
        return text

    def _lose_sketch(self) -> None:
        self._failed = self._cascade.failed(SKETCH)
        self._sketch = self._told = None
        self.sure = False
