"""The V2 model runner: token ids are on the device and stay there.

The state of a slot is a node of its policy's tables (``prism.steer.ranges``); every step is a fixed
number of tensor operations of fixed shape, without a copy to the host. A row of logits is not a
request: under speculative decoding a request has one row per draft token, and only the tokens in
``req_states`` are committed. What the prompt decides is decided on the host, when a request takes a
slot: then its ids are there anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from vllm_prism.device import DeviceTables
from vllm_prism.guards import Guards

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.worker.gpu.sample.logits_processor.interface import (
        LogitsContext,
        LogitsProcRequestState,
    )

NEVER = 2**30
"""Later than any position of a text."""


class _New(NamedTuple):
    slot: int
    node: int
    prompt: int
    seen: int
    refuse_from: int
    structured: bool


class Slots:
    """Per-slot state on the device. Positions count prompt and output tokens, from 0."""

    def __init__(
        self, guards: Guards, states: LogitsProcRequestState, speculative_tokens: int = 0
    ) -> None:
        self._guards = guards
        self._states = states
        self._tables = DeviceTables.of(guards, states.vocab_size, states.device)
        self._new: list[_New] = []
        self._most = speculative_tokens + 1
        """Tokens that can be committed between two steps."""
        n, device = states.max_num_reqs, states.device
        self._node = torch.zeros(n, dtype=torch.int64, device=device)
        self._prompt = torch.zeros(n, dtype=torch.int64, device=device)
        self._seen = torch.zeros(n, dtype=torch.int64, device=device)
        self._refuse_from = torch.full((n,), NEVER, dtype=torch.int64, device=device)
        self._pending = torch.full((n,), NEVER, dtype=torch.int64, device=device)
        """Where a refusal was begun in the last step, if that token turns out to be committed."""
        self._structured = torch.zeros(n, dtype=torch.bool, device=device)

    def add(self, slot: int, params: SamplingParams) -> bool:
        """Take over a request, new or resumed after preemption."""
        policy = self._guards.policy(params)
        tokens = _staged(self._states.all_token_ids, slot)
        prompt_len = int(self._states.prompt_len.np[slot])
        node, refuse_from = self._tables.start(policy.digest), NEVER
        if tokens is None or self._guards.guard(params).blocks_prompt(tokens[:prompt_len]):
            refuse_from = prompt_len
        else:
            for token in tokens[prompt_len:]:
                node = self._tables.next(policy.digest, node, token)
        seen = prompt_len if tokens is None else len(tokens)
        structured = params.structured_outputs is not None
        self._new.append(_New(slot, node, prompt_len, seen, refuse_from, structured))
        return True

    def flush(self) -> None:
        """Write what was added to the device."""
        if not self._new:
            return
        new = torch.tensor(self._new, dtype=torch.int64)
        if self._states.device.type != "cpu":
            new = new.pin_memory().to(self._states.device, non_blocking=True)
        self._new.clear()
        slot, node, prompt, seen, refuse_from, structured = new.unbind(1)
        self._node[slot] = node
        self._prompt[slot] = prompt
        self._seen[slot] = seen
        self._refuse_from[slot] = refuse_from
        self._pending[slot] = NEVER
        self._structured[slot] = structured.bool()

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> None:
        """Mask and force, in place; ``logits`` is ``[rows, vocabulary]``."""
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
