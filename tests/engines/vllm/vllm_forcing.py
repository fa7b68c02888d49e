"""A logits processor of a script's own, which wants certain tokens and nothing else.

Named before PRISM's: a script can always bias its model so.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor.interface import BatchUpdate, LogitsProcessor

WANTED = "wanted"
"""Under this name the tokens are among a request's extra arguments."""


class Forcing(LogitsProcessor):
    """Makes token ``i`` of an output the likeliest by far, as the request says."""

    def __init__(self, *_: Any) -> None:
        self._rows: dict[int, tuple[list[int], list[int]]] = {}

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Take any."""

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._rows.pop(index, None)
        for index, params, _, output in batch_update.added:
            self._rows.pop(index, None)
            wanted = (params.extra_args or {}).get(WANTED)
            if wanted:
                self._rows[index] = wanted, output
        for source, target, direction in batch_update.moved:
            moved, other = self._rows.pop(source, None), self._rows.pop(target, None)
            if moved is not None:
                self._rows[target] = moved
            if other is not None and direction.name == "SWAP":
                self._rows[source] = other

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        for index, (wanted, output) in self._rows.items():
            if len(output) < len(wanted):
                logits[index, wanted[len(output)]] += 500.0
        return logits
