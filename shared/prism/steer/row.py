"""One row of a batch: it follows its output ids and says what the next token may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prism.steer import seam
from prism.steer.circles import stuck
from prism.steer.kernel import ANY_OTHER, STATE
from prism.steer.state import Masks, State, States
from prism.steer.utf8 import BROKEN

if TYPE_CHECKING:
    from prism.steer.guard import TokenGuard

_RECOGNISE = 3
"""Tokens of a refusal that must be there before a resumed request is taken to be refusing."""
_NOTHING = np.zeros(0, np.int64)
COMMON = 4096
"""Tokens that are looked at first: tokenizers number common ones low, past those of bytes."""


def is_likeliest(row: NDArray[np.float32], token: int) -> bool:
    """Return whether no logit of ``row``, ``[vocabulary]``, is above that of ``token``."""
    return bool(row[:COMMON].max() <= row[token] and row.max() <= row[token])


def any_left(row: NDArray[np.float32]) -> bool:
    """Return whether a token is left that may be sampled."""
    return bool(row[:COMMON].max() > -np.inf or row.max() > -np.inf)


@dataclass(frozen=True, slots=True)
class Step:
    """What the next token may be. ``forced`` wins over ``banned``."""

    forced: int | None
    banned: NDArray[np.int64]  # token ids, ascending
    allowed: NDArray[np.int64] | None = None  # within a character: the only ones

    @property
    def empty(self) -> bool:
        """Whether any token may be sampled."""
        return self.forced is None and self.allowed is None and not len(self.banned)

    def bans(self, token: int) -> bool:
        """Return whether ``token`` may not be sampled."""
        if self.forced is not None:
            return token != self.forced
        if self.allowed is not None:
            return not (self.allowed == token).any()
        return bool((self.banned == token).any())

    def write(self, row: NDArray[np.float32], value: float = -np.inf) -> None:
        """Apply to one row of logits in place, shape ``[vocabulary]``, strided views included.

        ``value``: what those get that may not be sampled.
        """
        if self.forced is not None:
            row[:] = value
            row[self.forced] = 0.0
        elif self.allowed is not None:
            kept = row[self.allowed]
            row[:] = value
            row[self.allowed] = kept
        elif len(self.banned):
            row[self.banned] = value


def _step_of(masks: Masks, i: int) -> Step:
    """Return what row ``i`` of ``masks`` may say next."""
    if masks.only[i] == ANY_OTHER:
        return Step(None, masks.row(i))
    return Step(None, _NOTHING, masks.row(i))


class TokenRow:
    """One row. Made by ``TokenGuard.row``, or by ``Batch.row`` where many decode together."""

    def __init__(
        self,
        guard: TokenGuard,
        prompt_ids: Sequence[int] | None,
        locale: str | None,
        states: States | None = None,
        slot: int = 0,
    ) -> None:
        self._guard = guard
        self._locale = locale
        if states is None:
            states = States(guard.output, 1, guard.scores)
        self.state = State(guard.output, states, slot)
        self._refusal: list[int] = []
        self._refused_at: int | None = None
        self._step: Step | None = None
        known = guard.vocabulary
        if (
            prompt_ids is None
            or guard.blocks_prompt(prompt_ids)
            or seam.within_character(known, prompt_ids)
        ):
            self._start_refusal(0)
        else:
            self.state.begin_behind(seam.behind(guard.output, known, prompt_ids))

    @property
    def refusing(self) -> bool:
        """Whether the refusal is being forced."""
        return self._refused_at is not None

    @property
    def refused_at(self) -> int | None:
        """How many tokens were out when the refusal began, ``None`` where it has not."""
        return self._refused_at

    def refuse(self) -> None:
        """Force the refusal from the next token on."""
        if self._refused_at is None:
            self._start_refusal(self.state.length)

    def begins_refusal(self, token: int) -> bool:
        """Return whether a refusal that began now would begin with ``token``."""
        refusal = self._guard.refusal(self._locale, inside=self.state.length > 0)
        return token == (refusal[0] if refusal else self._guard.eos)

    def _start_refusal(self, at: int) -> None:
        self._refused_at = at
        self._refusal = self._guard.refusal(self._locale, inside=at > 0)
        self._step = None
        self.state.refusing = True

    def advance(self, output_ids: Sequence[int]) -> None:
        """Take note of the whole output so far, shape ``[length]``.

        Costs what is new; a list that isn't a continuation is read anew. Placeholders (ids below
        zero, which engines use for tokens still on the device) can't be judged: the row refuses.
        """
        self._step = None  # a batch may have read on since it was made
        state = self.state
        length = len(output_ids)
        if length == state.length and (length == 0 or output_ids[-1] == state.last):
            return
        if self._refused_at is not None and length >= self._refused_at:
            state.length = length
            state.last = int(output_ids[-1])
            return
        if length < state.count or (state.count and output_ids[state.count - 1] != state.last):
            self._restart()
        count = state.count
        new = np.asarray(output_ids[count:], np.int64)
        state.length = length
        state.last = int(output_ids[-1]) if length else -1
        if len(new) and (new.min() < 0 or new.max() >= self._guard.vocabulary.size):
            self._start_refusal(length)
            return
        state.count = length
        if count == 0 and length > 1:
            self._recognise(list(map(int, output_ids)))
        try:
            self._read(new, output_ids)
        except BaseException:
            state.restart()  # nobody knows how far it was read: next time from the start
            raise

    def _read(self, new: NDArray[np.int64], output_ids: Sequence[int]) -> None:
        """Read the last tokens ``new``; nothing may follow a phrase, or a score that is too high.

        Nor what is no UTF-8. A phrase is only found where tokens were appended past the mask.
        """
        found = self.state.feed(self._guard.vocabulary, new) or self.state.broken
        above = self.state.feed_scores(new)
        if above >= 0 and self._refused_at is None:
            at = len(output_ids) - len(new) + above
            said = list(map(int, output_ids[at:]))
            # A request that comes back may have begun to refuse there.
            begun = said == self._guard.refusal(self._locale, inside=True)[: len(said)]
            self._start_refusal(at if begun else len(output_ids))
        elif found:
            self.refuse()
        if self.state.states.circles_due(self.state.slots)[0]:
            self.stop_circles(output_ids)

    def stop_circles(self, output_ids: Sequence[int]) -> None:
        """Refuse where the output goes in circles since a mask changed the model's course."""
        if stuck(output_ids, int(self.state.states.turned[self.state.slot])):
            self.refuse()

    def rewind(self, output_ids: Sequence[int]) -> None:
        """Go back to ``output_ids``, the first of those that were read, shape ``[length]``.

        That a mask changed the course there stays on note, so that circles are still found.
        """
        turned = int(self.state.states.turned[self.state.slot])
        self._restart()
        self.advance(output_ids)
        self.state.states.turned[self.state.slot] = min(turned, len(output_ids))

    def _restart(self) -> None:
        self.state.restart()
        if self._refused_at:
            self._refused_at = None
            self.state.refusing = False

    def _recognise(self, ids: list[int]) -> None:
        """After preemption a request comes back with its output: was it refusing already?

        A refusal that is out may have ends of text behind it, where there is a least length.
        """
        ends = 0
        while ends < len(ids) and ids[-1 - ends] in self._guard.vocabulary.eos_ids:
            ends += 1
        said = ids[: len(ids) - ends]
        whole = self._guard.refusal(self._locale, inside=False)
        if _RECOGNISE <= len(said) <= len(whole) and said == whole[: len(said)]:
            if not ends or said == whole:
                self._start_refusal(0)
            return
        refusal = self._guard.refusal(self._locale, inside=True)
        least = len(refusal) if ends else _RECOGNISE
        for size in range(min(len(refusal), len(said)), least - 1, -1):
            if said[-size:] == refusal[:size]:
                self._start_refusal(len(said) - size)
                return

    def step(self) -> Step:
        """Return what the next token may be; changes nothing."""
        if self._step is None:
            self._step = self._make_step()
        return self._step

    def _make_step(self) -> Step:
        if self._refused_at is not None:
            index = self.state.length - self._refused_at
            forced = self._refusal[index] if index < len(self._refusal) else self._guard.eos
            return Step(forced, _NOTHING)
        return _step_of(self._guard.banned(self.state.states, self.state.slots), 0)

    def prepare(self, masks: Masks, i: int) -> None:
        """Take the ``i``-th of ``masks``, found out for the whole batch, as the next step's."""
        self._step = None if self.refusing else _step_of(masks, i)

    def apply(self, row: NDArray[np.float32]) -> bool:
        """Steer one row of logits in place, shape ``[vocabulary]``.

        Where the likeliest token would complete a phrase of a rule that blocks, the refusal begins;
        return whether it is kept from one of a rule that steers.
        """
        step, turned = self.step(), False
        top = self._kept_from(step, row)
        if top is not None:
            if self.blocks(top):
                self.refuse()
                step = self.step()
            else:
                self.state.turn()
                turned = True
        step.write(row)
        return turned

    def _kept_from(self, step: Step, row: NDArray[np.float32]) -> int | None:
        """Return the likeliest token, if it would complete a phrase."""
        if step.forced is not None:
            return None
        if step.allowed is None:
            if not len(step.banned):
                return None
            top = int(step.banned[np.argmax(row[step.banned])])
            return top if is_likeliest(row, top) else None
        # Of those that go on with the character: others it can't be.
        within, words = int(self.state.utf8[STATE]), self._guard.vocabulary
        if within == BROKEN:
            return None
        others = np.setdiff1d(words.continuing, step.allowed, assume_unique=True)
        others = others[words.follows[within, others] != BROKEN]
        if not len(others):
            return None
        top = int(others[np.argmax(row[others])])
        return top if -np.inf < row[top] >= row[step.allowed].max(initial=-np.inf) else None

    def blocks(self, token: int) -> bool:
        """Return whether a banned token would break a rule that blocks, not one that steers."""
        return self._guard.stops(self.state.rules_behind(self._guard.vocabulary, token))
