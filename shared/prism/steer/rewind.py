"""Rewinding: a model that keeps coming back to a phrase is set back to where it begins it.

For engines that sample in process and can take tokens back. A mask lets a greedy model say the
words before what it may not say, and it may say them again and again ("zephyr, zephyr, …"). From
the first time that a mask changes the model's course, the output is watched: what may be the
beginning of a phrase is held back until it is known not to be one, so that nothing is withdrawn
that was handed out. When the model has come back to the phrase in a circle, its attempt is taken
back, and the token that began it is forbidden there. Ordinary text is never held.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from prism.match.automaton import depth_of
from prism.match.kernel import NODE, PLAIN, READ, VIEWS, open_from
from prism.steer.circles import LONGEST, WATCHED
from prism.steer.kernel import DUE
from prism.steer.state import State
from prism.steer.vocabulary import Vocabulary

TRIES = 4
"""Tokens that are forbidden at one place, at most …"""
MOST = 16
"""… and in one answer. A model that begins the phrase even so goes on under the mask alone."""
HELD = 32
"""Tokens held back, at most."""
_HALF = -1
"""In place of a number of characters read: in the middle of one."""


class Place(NamedTuple):
    """Where to go on: behind ``length`` output tokens, and with which token not to."""

    length: int
    token: int


class Rewinder:
    """What of one output is held back, and when it is taken back instead of handed out."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._left = MOST
        self._tries: dict[int, int] = {}
        self.place: Place | None = None
        self._origin: State | None = None
        self._begin = 0  # output tokens before the watch began
        self._said: list[int] = []  # … and those since
        self._out = 0  # of these, how many were handed out
        self._reads: list[int] = []  # characters read before each of them, and behind the last
        self._nodes: set[tuple[int, int]] = set()  # where masks kept the model from the phrase
        self._visits: list[int] = []  # tokens said when it was there
        self._start = 0  # the character at which the last visit began
        self._until = 0  # tokens said when the watch ends
        self._again = 0  # … and until when coming back once is coming back in a circle

    @property
    def held(self) -> int:
        """How many tokens are held back."""
        return len(self._said) - self._out

    def kept_from(self, state: State, length: int) -> None:
        """Watch from here on: a mask keeps the model from its likeliest token.

        ``state`` is the output's, ``length`` tokens long. Only read.
        """
        if self._origin is None or length != self._begin + len(self._said):
            self._origin, self._begin = state.copy(), length
            self._state = state.copy()
            self._said, self._out, self._until, self._again = [], 0, WATCHED, -1
            self._reads = [_read(self._state)]
            self._nodes, self._visits, self._tries = set(), [], {}
            self._start = -1
        self._nodes |= _nodes(self._state)
        start = _open_from(self._state)
        if start != self._start:
            self._start = start
            self._visits.append(len(self._said))

    def push(self, token: int) -> list[int]:
        """Take the output's next token; return the tokens that go out now, in order.

        With ``place`` set nothing goes out: the engine has to go back there, and call ``rewind``.
        """
        if self._origin is None:
            return [token]
        self._said.append(token)
        if token in self._vocabulary.eos_ids or len(self._said) > self._until:
            return self.stop()
        self._state.feed(self._vocabulary, np.array([token], np.int64))
        self._reads.append(_read(self._state))
        start = _open_from(self._state)
        begun = self._boundary(start)
        if start != self._start and self._nodes & _nodes(self._state):
            self._start = start
            if self._circling() and self._may_rewind(begun):
                self.place = Place(self._begin + begun, self._said[begun])
                return []
        keep = len(self._said) - begun if begun >= 0 else 0
        return self._hand_out(len(self._said) - min(keep, HELD))

    def rewind(self) -> None:
        """Take note that the engine went back to ``place``."""
        assert self.place is not None
        assert self._origin is not None
        size = self.place.length - self._begin
        self.place = None
        self._left -= 1
        self._tries[size] = self._tries.get(size, 0) + 1
        self._said, self._reads = self._said[:size], self._reads[: size + 1]
        self._state = self._origin.copy()
        self._state.feed(self._vocabulary, np.array(self._said, np.int64))
        self._visits = [visit for visit in self._visits if visit <= size]
        self._start = _open_from(self._state)
        self._until, self._again = size + WATCHED, size + LONGEST

    def give_up(self) -> None:
        """Hold nothing from the next token on: the refusal has begun."""
        self._until = -1

    def stop(self) -> list[int]:
        """Watch no more; return what was held back."""
        self._origin = self.place = None
        return self._hand_out(len(self._said))

    def _hand_out(self, count: int) -> list[int]:
        """Return those of the first ``count`` tokens that are not out yet."""
        ready = self._said[self._out : count]
        self._out = max(self._out, count)
        return ready

    def _boundary(self, start: int) -> int:
        """Return the last token that begins at character ``start`` or before it, between two.

        -1 where the watch began later.
        """
        for at in range(len(self._reads) - 1, -1, -1):
            if _HALF < self._reads[at] <= start:
                return at
        return -1

    def _circling(self) -> bool:
        """Note that the model is back; return whether it goes in a circle."""
        now = len(self._said)
        size = now - self._visits[-1] if self._visits else 0
        self._visits.append(now)
        if now <= self._again:
            return True
        last, before = self._said[-size:], self._said[-2 * size : -size]
        return 0 < size <= LONGEST and last == before

    def _may_rewind(self, begun: int) -> bool:
        tries = self._tries.get(begun, 0)
        return self._out <= begun < len(self._said) and tries < TRIES and self._left > 0


def _read(state: State) -> int:
    return _HALF if state.utf8[DUE] else int(state.head[READ])


def _open_from(state: State) -> int:
    """Return the character from which on the text may be the beginning of a phrase."""
    phrases = state.states.phrases
    return int(open_from(phrases.plain, phrases.squeezed, state.head, state.ring))


def _nodes(state: State) -> set[tuple[int, int]]:
    """Return which prefixes of phrases, two symbols long at least, each view has just read."""
    phrases = state.states.phrases
    found = set()
    for view in range(VIEWS):
        node = np.int32(state.head[2 + 4 * view + NODE])
        if node and depth_of(phrases.plain if view == PLAIN else phrases.squeezed, node) > 1:
            found.add((view, int(node)))
    return found
