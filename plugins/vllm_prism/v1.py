"""The V1 model runner: rows of the batch are requests, token ids are on the host."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from prism.steer.batch import Batch, Line
from prism.steer.guard import TokenGuard
from prism.steer.row import Step, TokenRow, any_left
from prism.steer.state import Masks
from vllm_prism import edits
from vllm_prism.guards import Guards

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.sample.logits_processor.interface import BatchUpdate

logger = logging.getLogger("vllm.prism")

_SWAP = "SWAP"
_NOTHING = np.zeros(0, np.int64)


class Row:
    """One request in the batch. ``output`` is vLLM's own list and grows as tokens are sampled."""

    def __init__(
        self,
        guards: Guards,
        params: SamplingParams,
        prompt: Sequence[int] | None,
        output: list[int],
    ) -> None:
        self.output = output
        self.batch: Batch | None = None
        self.row: TokenRow | None = None
        self._guards = guards
        self._params = params
        self._prompt = prompt
        # A grammar rejects the refusal's tokens, which would be an error of the engine's: mask
        # only, and end the request where the grammar leaves nothing else.
        self._structured = params.structured_outputs is not None
        self._refused_at: int | None = None
        """Length of the output at which a likely token was answered by a refusal."""
        self._dead = False

    @cached_property
    def guard(self) -> TokenGuard:
        """The guard of the request's policy."""
        return self._guards.guard(self._params)

    def join(self, batch: Batch) -> TokenRow:
        """Return this request's row of ``batch``, made where there is none yet."""
        if self.thrown_away:
            self.leave()
        if self.row is None:
            self.batch, self.row = batch, batch.row(self._prompt)
        return self.row

    def leave(self) -> None:
        """Give back the place in the batch."""
        if self.batch is not None and self.row is not None:
            self.batch.release(self.row)
        self.batch = self.row = self._refused_at = None

    def steer(self, logits: torch.Tensor, masks: Masks, i: int) -> None:
        """Edit this request's logits, shape ``[vocabulary]``, by the ``i``-th of ``masks``."""
        assert self.row is not None
        self.row.prepare(masks, i)
        self._apply(self.row, logits)

    def apply_alone(self, batch: Batch, logits: torch.Tensor) -> None:
        """Do the same without the batch; whatever fails ends this request and no other."""
        if not self._dead:
            try:
                row = self.join(batch)
                row.advance(self.output)
                self._apply(row, logits)
                return
            except Exception:
                self._dead = True
                logger.exception("PRISM: a request is ended because its moderation failed")
        logits.fill_(-torch.inf)
        logits[self._guards.eos] = 0.0

    @property
    def forced(self) -> int:
        """The one token that a row that refuses may output next."""
        assert self.row is not None
        forced = self.row.step().forced
        return self._guards.eos if self._structured or forced is None else forced

    @property
    def begun(self) -> bool:
        """Whether a refusal began because of what was likely."""
        return self._refused_at is not None

    @property
    def thrown_away(self) -> bool:
        """Whether its first token was thrown away, as after a chunk of a long prompt."""
        return self._refused_at is not None and len(self.output) <= self._refused_at

    @property
    def alone(self) -> bool:
        """Whether this request can't go with the others any more."""
        return self._dead

    def _apply(self, row: TokenRow, logits: torch.Tensor) -> None:
        step = row.step()
        if step.empty:
            return
        host = logits.float().cpu()  # itself, where it is of that kind and there
        if self._structured:
            self._mask(step, host.numpy())
        else:
            self._steer(row, host.numpy())
        if host is not logits:
            logits.copy_(host)

    def _steer(self, row: TokenRow, logits: NDArray[np.float32]) -> None:
        refusing = row.refusing
        row.apply(logits)
        if not row.refusing and not any_left(logits):
            row.refuse()
            row.apply(logits)
        if row.refusing and not refusing:
            self._refused_at = len(self.output)

    def _mask(self, step: Step, logits: NDArray[np.float32]) -> None:
        if step.forced is None:
            step.write(logits)
        if step.forced is not None or not any_left(logits):
            Step(self._guards.eos, _NOTHING).write(logits)


class Group:
    """The requests of one guard and their places in the batch, until these change."""

    def __init__(self, batch: Batch, members: list[tuple[int, Row]]) -> None:
        self._batch = batch
        self._members = members
        self._together: list[tuple[int, Row]] = []
        self._alone: list[tuple[int, Row]] = []
        self._line: Line | None = None  # of those together; ``None``: to be found anew
        self._places = np.zeros(0, np.int64)
        self._begun: set[Row] = set()
        """Rows whose refusal began here: what they sampled then may have been thrown away."""

    def apply(self, logits: torch.Tensor) -> None:
        """Edit its rows, shape ``[requests, vocabulary]``."""
        try:
            self._apply_together(logits)
            rest = self._alone
        except Exception:
            # One by one, to find out whose fault it is; what was edited is edited again.
            self._line, rest = None, self._members
        for index, row in rest:
            row.apply_alone(self._batch, logits[index])

    def _apply_together(self, logits: torch.Tensor) -> None:
        if self._line is None or any(row.thrown_away for row in self._begun):
            self._line = self._join()
        masks = self._batch.step_line(self._line)
        refusing = self._batch.refusing(self._line)
        done = edits.mask(logits, self._places, masks)
        forced = np.flatnonzero(refusing)
        if len(forced):
            tokens = np.array([self._together[i][1].forced for i in forced.tolist()], np.int64)
            edits.force(logits, self._places[forced], tokens)
        # Those that want what is banned.
        for i in np.flatnonzero(~(done | refusing)).tolist():
            index, row = self._together[i]
            row.steer(logits[index], masks, i)
            if row.begun:
                self._begun.add(row)

    def _join(self) -> Line:
        self._alone = [member for member in self._members if member[1].alone]
        self._together = [member for member in self._members if not member[1].alone]
        self._places = np.array([index for index, _ in self._together], np.int64)
        rows = [row for _, row in self._together]
        line = Line([row.join(self._batch) for row in rows], [row.output for row in rows])
        self._begun = {row for row in rows if row.begun}
        return line


class Rows:
    """The batch. Order of updates: removed, added, moved."""

    def __init__(self, guards: Guards) -> None:
        self._guards = guards
        self._rows: dict[int, Row] = {}
        self._batches: dict[TokenGuard, Batch] = {}
        self._groups: list[Group] | None = None

    def update(self, update: BatchUpdate | None) -> None:
        """Take over a change of the batch."""
        if update is None:
            return
        for index in update.removed:
            self._drop(index)
        for index, params, prompt, output in update.added:
            self._drop(index)
            self._rows[index] = Row(self._guards, params, prompt, output)
        for source, target, direction in update.moved:
            moved, other = self._rows.pop(source, None), self._rows.pop(target, None)
            if moved is not None:
                self._rows[target] = moved
            if other is not None:
                if direction.name == _SWAP:
                    self._rows[source] = other
                else:
                    other.leave()
        self._groups = None

    def apply(self, logits: torch.Tensor, _: object = None) -> None:
        """Edit the rows of all requests, shape ``[requests, vocabulary]``."""
        if self._groups is None:
            self._groups = self._group()
        for group in self._groups:
            group.apply(logits)

    def _group(self) -> list[Group]:
        """Return who goes together; batches that nobody is left in are let go."""
        members: dict[TokenGuard, list[int]] = defaultdict(list)
        for index, row in self._rows.items():
            members[row.guard].append(index)
        batches = {guard: self._batches.get(guard) or Batch(guard) for guard in members}
        self._batches = batches
        return [
            Group(batches[guard], [(index, self._rows[index]) for index in indices])
            for guard, indices in members.items()
        ]

    def _drop(self, index: int) -> None:
        row = self._rows.pop(index, None)
        if row is not None:
            row.leave()
