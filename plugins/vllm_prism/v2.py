"""The V2 model runner: token ids are on the device and stay there.

A row of logits is not a request: under speculative decoding a request has one row per draft token,
and only the tokens in ``req_states`` are committed. Every step is a fixed number of launches,
without a copy to the host. What the prompt decides, and where a resumed request stands, is decided
on the host, when a request takes a slot: then its ids are there anyway.

With Triton, which that runner needs on a GPU, the device walks the host's own automata
(``vllm_prism.walk``) and reads its scores. Without, tables of nodes (``vllm_prism.device``) cover
phrases as they are written, in ROT13 and reversed.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from prism.policy import CompiledPolicy
from prism.steer.row import TokenRow
from prism.steer.state import State, States
from vllm_prism import fields
from vllm_prism.device import DeviceTables
from vllm_prism.fields import NEVER
from vllm_prism.guards import Guards

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.worker.gpu.sample.logits_processor.interface import (
        LogitsContext,
        LogitsProcRequestState,
    )

    from prism.steer.guard import TokenGuard

logger = logging.getLogger("vllm.prism")


class Request(NamedTuple):
    """Where a request stands that takes a slot. Positions count prompt and output, from 0."""

    slot: int
    policy: CompiledPolicy
    prompt: int
    """Tokens of the prompt."""
    output: Sequence[int]
    """Tokens after it."""
    state: State
    refuse_from: int
    structured: bool

    @property
    def seen(self) -> int:
        """Tokens that were read."""
        return self.prompt + len(self.output)


class Slots(ABC):
    """Per-slot state on the device."""

    def __init__(
        self, guards: Guards, states: LogitsProcRequestState, speculative_tokens: int = 0
    ) -> None:
        self._guards = guards
        self._states = states
        self._new: list[Request] = []
        self._most = speculative_tokens + 1
        """Tokens that can be committed between two steps."""

    @classmethod
    def of(
        cls, guards: Guards, states: LogitsProcRequestState, speculative_tokens: int = 0
    ) -> Slots:
        """Return the slots that fit: on a GPU vLLM has Triton, or it would not run V2."""
        if find_spec("triton") is not None and states.device.type != "cpu":
            return TritonSlots(guards, states, speculative_tokens)
        logger.warning(
            "without Triton disguised phrases (spaced, leet, repeated letters, characters in "
            "pieces) and scores are left to the text layer, and no model in circles is stopped"
        )
        return TorchSlots(guards, states, speculative_tokens)

    def add(self, slot: int, params: SamplingParams) -> bool:
        """Take over a request, new or resumed after preemption."""
        guard = self._guards.guard(params)
        tokens = _staged(self._states.all_token_ids, slot)
        prompt_len = int(self._states.prompt_len.np[slot])
        prompt = None if tokens is None else tokens[:prompt_len]
        row = TokenRow(guard, prompt, None, self._states_of(guard))
        output = () if tokens is None else tokens[prompt_len:]
        row.advance(output)
        refuse_from = NEVER if row.refused_at is None else prompt_len + row.refused_at
        structured = params.structured_outputs is not None
        self._new.append(
            Request(slot, guard.policy, prompt_len, output, row.state, refuse_from, structured)
        )
        return True

    def _states_of(self, guard: TokenGuard) -> States:
        """Return where the host reads a resumed request's output."""
        return States(guard.output, 1, guard.scores)

    def flush(self) -> None:
        """Write what was added to the device."""
        if self._new:
            self._write(self._new)
            self._new.clear()

    @abstractmethod
    def _write(self, new: Sequence[Request]) -> None: ...

    @abstractmethod
    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> None:
        """Mask and force, in place; ``logits`` is float32 ``[rows, vocabulary]``."""


class TritonSlots(Slots):
    """Everything the host sees, on the device."""

    def __init__(
        self, guards: Guards, states: LogitsProcRequestState, speculative_tokens: int = 0
    ) -> None:
        from vllm_prism.walk import Walk

        super().__init__(guards, states, speculative_tokens)
        compiled = guards.compiled()
        self._index = {guard.policy.digest: i for i, guard in enumerate(compiled)}
        self._walk = Walk(
            compiled, guards.eos, states.max_num_reqs, speculative_tokens, states.device
        )
        self._walk.warm_up(states.vocab_size, states.all_token_ids.gpu)

    def _write(self, new: Sequence[Request]) -> None:
        own = [
            fields.slot(
                self._index[r.policy.digest], prompt=r.prompt, seen=r.seen,
                refuse_from=r.refuse_from, structured=r.structured,
            )
            for r in new
        ]  # fmt: skip
        states = np.stack([self._walk.state(r.state) for r in new])
        self._walk.put([r.slot for r in new], np.array(own), states)

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> None:
        self._walk.step(
            logits,
            self._states.all_token_ids.gpu,
            ctx.expanded_idx_mapping,
            ctx.expanded_local_pos,
            ctx.pos,
            ctx.input_ids,
        )


class TorchSlots(Slots):
    """The state of a slot is a node of its policy's tables (``prism.steer.ranges``)."""

    def __init__(
        self, guards: Guards, states: LogitsProcRequestState, speculative_tokens: int = 0
    ) -> None:
        super().__init__(guards, states, speculative_tokens)
        self._tables = DeviceTables.of(guards, states.vocab_size, states.device)
        n, device = states.max_num_reqs, states.device
        self._node = torch.zeros(n, dtype=torch.int64, device=device)
        self._prompt = torch.zeros(n, dtype=torch.int64, device=device)
        self._seen = torch.zeros(n, dtype=torch.int64, device=device)
        self._refuse_from = torch.full((n,), NEVER, dtype=torch.int64, device=device)
        self._pending = torch.full((n,), NEVER, dtype=torch.int64, device=device)
        """Where a refusal was begun in the last step, if that token turns out to be committed."""
        self._structured = torch.zeros(n, dtype=torch.bool, device=device)

    def _states_of(self, guard: TokenGuard) -> States:
        # Scores are the text layer's here: they must not depend on who was preempted.
        return States(guard.output)

    def _write(self, requests: Sequence[Request]) -> None:
        numbers = []
        for r in requests:
            node = self._tables.start(r.policy.digest)
            for token in r.output:
                node = self._tables.next(r.policy.digest, node, token)
            numbers.append([r.slot, node, r.prompt, r.seen, r.refuse_from, r.structured])
        new = torch.tensor(numbers, dtype=torch.int64)
        if self._states.device.type != "cpu":
            new = new.pin_memory().to(self._states.device, non_blocking=True)
        slot, node_, prompt, seen, refuse_from, structured = new.unbind(1)
        self._node[slot] = node_
        self._prompt[slot] = prompt
        self._seen[slot] = seen
        self._refuse_from[slot] = refuse_from
        self._pending[slot] = NEVER
        self._structured[slot] = structured.bool()

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> None:
        slot = ctx.expanded_idx_mapping.long()
        local = ctx.expanded_local_pos.long()
        here = ctx.pos.long() + 1  # position of the token this row samples
        first = here - local  # … and of the one the request's first row samples
        seen = self._seen[slot]
        # Rows in the middle of a prompt are computed and thrown away: they must change nothing.
        live = first >= seen
        node = self._walk(slot, local, first, seen, ctx)

        begun = self._pending[slot]
        start = torch.where(live & (begun < first), begun, NEVER).minimum(self._refuse_from[slot])
        self._refuse_from[slot] = start
        refusing = here >= start
        # A step was missed: what was sampled in it is unknown.
        lost = live & (first - seen > self._most)

        wanted = logits.argmax(-1)
        self._tables.mask(logits, node)
        stuck = ~(logits.amax(-1) > -torch.inf)
        wants = stuck | lost | self._tables.blocks(node, wanted)
        structured = self._structured[slot]
        # A grammar rejects the refusal's tokens: mask only, and end where nothing else is left.
        begin = wants & ~refusing & live & ~structured
        forced = torch.where(structured, refusing | stuck | lost, refusing | wants)
        index = torch.where(refusing, here - start, 0)
        inside = (start > self._prompt[slot]) | (~refusing & (here > self._prompt[slot]))
        token = self._tables.refusal(node, index, inside, structured)
        logits.masked_fill_(forced[:, None], -torch.inf)
        kept = logits.gather(1, token[:, None])
        logits.scatter_(1, token[:, None], kept.masked_fill(forced[:, None], 0.0))

        self._pending[slot] = NEVER
        self._pending.scatter_reduce_(0, slot, torch.where(begin, here, NEVER), "amin")

    def _walk(
        self,
        slot: torch.Tensor,
        local: torch.Tensor,
        first: torch.Tensor,
        seen: torch.Tensor,
        ctx: LogitsContext,
    ) -> torch.Tensor:
        """Return each row's node: after the committed tokens, then after the drafts before it."""
        ids = self._states.all_token_ids.gpu
        node = self._node[slot]
        for step in range(self._most):
            at = seen + step
            token = ids[slot, at.clamp(max=ids.shape[1] - 1)].long()
            node = torch.where(at < first, self._tables.advance(node, token), node)
        self._node[slot] = node
        self._seen[slot] = torch.maximum(seen, first)
        row = torch.arange(len(slot), device=slot.device)
        for step in range(1, self._most):
            token = ctx.input_ids[(row - local + step).clamp(max=len(row) - 1)].long()
            node = torch.where(step <= local, self._tables.advance(node, token), node)
        return node


def _staged(tensor: Any, slot: int) -> Sequence[int] | None:
    """Return the ids staged for ``slot`` and not yet written to the device, which the host has.

    ``None`` if vLLM keeps them otherwise than it did: then the request fails closed.
    """
    try:
        rows, ends = tensor._staged_write_indices, tensor._staged_write_cu_lens
        starts, contents = tensor._staged_write_starts, tensor._staged_write_contents
        for i in range(len(rows) - 1, -1, -1):
            if rows[i] == slot and starts[i] == 0:
                return [int(t) for t in contents[(ends[i - 1] if i else 0) : ends[i]]]
    except (AttributeError, IndexError, TypeError):
        pass
    return None
