"""The V1 model runner: rows of the batch are requests, token ids are on the host."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from prism.steer.guard import Step, TokenRow
from vllm_prism.guards import Guards

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.sample.logits_processor.interface import BatchUpdate

logger = logging.getLogger("vllm.prism")

_SWAP = "SWAP"


class Row:
    """One request in the batch. ``output`` is vLLM's own list and grows as tokens are sampled."""

    def __init__(
        self,
        guards: Guards,
        params: SamplingParams,
        prompt: Sequence[int] | None,
        output: list[int],
    ) -> None:
        self._guards = guards
        self._params = params
        self._prompt = prompt
        self._output = output
        # A grammar rejects the refusal's tokens, which would be an error of the engine's: mask
        # only, and end the request where the grammar leaves nothing else.
        self._structured = params.structured_outputs is not None
        self._row: TokenRow | None = None
        self._refused_at: int | None = None
        """Length of the output at which a likely token was answered by a refusal."""
        self._dead = False

    def apply(self, logits: torch.Tensor) -> None:
        """Edit this request's row, shape ``[vocabulary]``; whatever fails ends the request."""
        if not self._dead:
            try:
                self._apply(logits)
                return
            except Exception:
                self._dead = True
                logger.exception("PRISM: a request is ended because its moderation failed")
        logits.fill_(-torch.inf)
        logits[self._guards.eos] = 0.0

    def _apply(self, logits: torch.Tensor) -> None:
        if self._refused_at is not None and len(self._output) <= self._refused_at:
            # The refusal's first token was thrown away, as after a chunk of a long prompt.
            self._row = self._refused_at = None
        if self._row is None:
            self._row = self._guards.guard(self._params).row(self._prompt)
        self._row.advance(self._output)
        step = self._row.step()
        if step.forced is None and not len(step.banned):
            return
        host = logits.cpu()  # itself, on the CPU
        if self._structured:
            self._mask(step, host.numpy())
        else:
            self._steer(self._row, host.numpy())
        if host is not logits:
            logits.copy_(host)

    def _steer(self, row: TokenRow, logits: NDArray[np.float32]) -> None:
        refusing = row.refusing
        row.apply(logits)
        if not row.refusing and not _any_left(logits):
            row.refuse()
            row.apply(logits)
        if row.refusing and not refusing:
            self._refused_at = len(self._output)

    def _mask(self, step: Step, logits: NDArray[np.float32]) -> None:
        if step.forced is None:
            step.write(logits)
        if step.forced is not None or not _any_left(logits):
            Step(self._guards.eos, step.banned).write(logits)


class Rows:
    """The batch. Order of updates: removed, added, moved."""

    def __init__(self, guards: Guards) -> None:
        self._guards = guards
        self._rows: dict[int, Row] = {}

    def update(self, update: BatchUpdate | None) -> None:
        """Take over a change of the batch."""
        if update is None:
            return
        for index in update.removed:
            self._rows.pop(index, None)
        for index, params, prompt, output in update.added:
            self._rows[index] = Row(self._guards, params, prompt, output)
        for source, target, direction in update.moved:
            moved, other = self._rows.pop(source, None), self._rows.pop(target, None)
            if moved is not None:
                self._rows[target] = moved
            if other is not None and direction.name == _SWAP:
                self._rows[source] = other

    def apply(self, logits: torch.Tensor, _: object = None) -> None:
        """Edit the rows of all requests, shape ``[requests, vocabulary]``."""
        for index, row in self._rows.items():
            row.apply(logits[index])


def _any_left(logits: NDArray[np.float32]) -> bool:
    return bool(logits.max() > -np.inf)
