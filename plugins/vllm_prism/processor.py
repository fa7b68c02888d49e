"""The logits processor: one class that both of vLLM's model runners accept.

The V1 runner makes it with ``(vllm_config, device, is_pin_memory)``, the V2 runner with
``(vllm_config, req_states)``, and each checks for its own base class. So the class has both bases
and hands everything to the implementation that fits its arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.v1.sample.logits_processor.interface import LogitsProcessor as V1Base
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as V2Base

from vllm_prism import checks, params
from vllm_prism.guards import Guards

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.sampling_params import SamplingParams
    from vllm.v1.sample.logits_processor.interface import BatchUpdate
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext


class PrismLogitsProcessor(V1Base, V2Base):  # type: ignore[misc]
    """Masks what the stamped policy blocks and forces refusals, in either runner.

    Loading it twice (entry point and ``--logits-processors``) is harmless: masks and forced tokens
    are functions of the request's tokens, so the second instance agrees with the first.
    """

    def __init__(
        self, vllm_config: VllmConfig, device_or_states: Any, is_pin_memory: bool | None = None
    ) -> None:
        checks.require_installed()
        checks.examine(vllm_config)
        guards = Guards.of(vllm_config)
        self._rows: Any
        if is_pin_memory is None:
            from vllm_prism.v2 import Slots

            self._rows = Slots.of(guards, device_or_states, vllm_config.num_speculative_tokens)
        else:
            from vllm_prism.v1 import Rows

            self._rows = Rows(guards)

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Front end: stamp the request, refuse what can't be moderated."""
        params.prepare(sampling_params)

    def is_argmax_invariant(self) -> bool:
        """Greedy sampling must be moderated too."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """V1: rows were removed, added or moved."""
        self._rows.update(batch_update)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """V2: a request took a slot."""
        return bool(self._rows.add(req_idx, sampling_params))

    def apply_staged_writes(self) -> None:
        """V2: flush to the device, once per step."""
        self._rows.flush()

    def apply(self, logits: torch.Tensor, ctx: LogitsContext | None = None) -> torch.Tensor:
        """Edit the logits in place."""
        self._rows.apply(logits, ctx)
        return logits
