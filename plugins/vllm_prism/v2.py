"""The V2 model runner: token ids are on the device and stay there.

A row of logits is not a request: under speculative decoding a request has one row per draft token,
and only the tokens in ``req_states`` are committed. Every step is a fixed number of launches,
without a copy to the host. What the prompt decides, and where a resumed request stands, is decided
on the host, when a request takes a slot: then its ids are there anyway.

With Triton, which that runner needs, the device walks the host's own automata
(``vllm_prism.walk``) and reads its scores. Without, the host reads the tokens in every step.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from prism.policy import CompiledPolicy
from prism.steer.row import Step, TokenRow, any_left
from prism.steer.state import State
from vllm_prism import fields
from vllm_prism.fields import NEVER
from vllm_prism.guards import Guards

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.worker.gpu.sample.logits_processor.interface import (
        LogitsContext,
        LogitsProcRequestState,
    )

logger = logging.getLogger("vllm.prism")
_NOTHING = np.zeros(0, np.int64)


class Request(NamedTuple):
    """Where a request stands that takes a slot. Positions count prompt and output, from 0."""

    slot: int
    policy: CompiledPolicy
    prompt: int
    """Tokens of the prompt."""
    output: Sequence[int]
    """Tokens after it."""
    row: TokenRow
    """The host's, behind the output …"""
    make: Callable[[], TokenRow]
    """… and what makes one behind the prompt."""
    refuse_from: int
    structured: bool

    @property
    def state(self) -> State:
        """Where the row stands."""
        return self.row.state

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
            "without Triton every step waits for its tokens to be read on the host, which is slow"
        )
        return HostSlots(guards, states, speculative_tokens)

    def add(self, slot: int, params: SamplingParams) -> bool:
        """Take over a request, new or resumed after preemption."""
        guard = self._guards.guard(params)
        tokens = _staged(self._states.all_token_ids, slot)
        prompt_len = int(self._states.prompt_len.np[slot])
        prompt = None if tokens is None else tokens[:prompt_len]

        def make() -> TokenRow:
            return guard.row(prompt)

        row = make()
        output = () if tokens is None else tokens[prompt_len:]
        row.advance(output)
        refuse_from = NEVER if row.refused_at is None else prompt_len + row.refused_at
        structured = params.structured_outputs is not None
        self._new.append(
            Request(slot, guard.policy, prompt_len, output, row, make, refuse_from, structured)
        )
        return True

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


class HostSlots(Slots):
    """The same on the host, for devices without Triton: every step waits for its tokens.

    A row is what the V1 runner's would be; one behind drafts is read anew.
    """

    def __init__(
        self, guards: Guards, states: LogitsProcRequestState, speculative_tokens: int = 0
    ) -> None:
        super().__init__(guards, states, speculative_tokens)
        self._held: dict[int, _Held] = {}

    def _write(self, new: Sequence[Request]) -> None:
        for request in new:
            self._held[request.slot] = _Held(request)

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> None:
        slots = ctx.expanded_idx_mapping.tolist()
        local, here = ctx.expanded_local_pos.tolist(), (ctx.pos + 1).tolist()
        ids, fed = self._states.all_token_ids.gpu, ctx.input_ids.tolist()
        for row, (slot, place) in enumerate(zip(slots, local, strict=True)):
            held, first = self._held[slot], here[row] - place
            # Rows in the middle of a prompt are computed and thrown away: they must change nothing.
            if first < held.seen:
                continue
            if place == 0:
                # A step was missed: what was sampled in it is unknown.
                held.lost = first - held.seen > self._most
                held.commit(ids[slot, held.prompt : first].tolist())
            self._steer(held, fed[row - place + 1 : row + 1], logits[row])

    def _steer(self, held: _Held, drafts: list[int], logits: torch.Tensor) -> None:
        row, host = held.behind(drafts), logits.float().cpu().numpy().copy()
        begun = not row.refusing
        if held.lost:
            row.refuse()
        if held.structured:
            # A grammar rejects the refusal's tokens: mask only, and end where nothing is left.
            step = row.step()
            if step.forced is None:
                step.write(host)
            if step.forced is not None or not any_left(host):
                Step(self._guards.eos, _NOTHING).write(host)
        else:
            turned = row.apply(host)
            if not row.refusing and not any_left(host):
                row.refuse()
                row.apply(host)
            held.note(len(drafts), refused=begun and row.refusing, turned=turned)
        logits.copy_(torch.from_numpy(host))


class _Held:
    """A request of ``HostSlots``: its output, and the row behind that."""

    def __init__(self, request: Request) -> None:
        self.prompt, self.structured = request.prompt, request.structured
        self.lost = False
        self._make, self._output = request.make, list(request.output)
        self._row: TokenRow | None = request.row
        self._turned = int(request.state.states.turned[request.state.slot])
        self._begun: set[int] = set()
        self._turning: set[int] = set()
        """Lengths of the output at which the last step began refusals, and at which a mask changed
        the course; behind drafts they count if these were committed."""

    @property
    def seen(self) -> int:
        """Tokens of prompt and output that were read."""
        return self.prompt + len(self._output)

    def commit(self, output: list[int]) -> None:
        """Take over the whole output so far."""
        row = self._row or self._fresh()
        for size in range(len(self._output), len(output)):
            if size in self._turning:
                row.state.turn()
            if size in self._begun and row.begins_refusal(output[size]):
                row.refuse()
            row.advance(output[: size + 1])
        self._begun.clear()
        self._turning.clear()
        self._row, self._output = row, output
        self._turned = int(row.state.states.turned[row.state.slot])

    def behind(self, drafts: list[int]) -> TokenRow:
        """Return the row behind the output and ``drafts``."""
        row = self._row
        if row is not None and (row.refusing or not drafts):
            row.advance([*self._output, *drafts])
            return row
        row = self._fresh()
        for size in range(1, len(drafts) + 1):
            row.advance([*self._output, *drafts[:size]])
        return row

    def note(self, drafts: int, *, refused: bool, turned: bool) -> None:
        """Note what a row decided behind so many drafts."""
        size = len(self._output) + drafts
        if refused:
            self._begun.add(size)
            self._row = None  # what it begins counts once it is committed
        if turned:
            self._turning.add(size)

    def _fresh(self) -> TokenRow:
        row = self._make()
        row.advance(self._output)
        row.state.states.turned[row.state.slot] = self._turned
        return row


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
