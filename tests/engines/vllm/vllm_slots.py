"""vLLM's V2 runner as far as a logits processor sees it, on CPU tensors."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch


@contextmanager
def no_pinned_memory():
    """vLLM's own fallback for platforms without pinned memory, as this one."""
    import vllm.v1.worker.gpu.buffer_utils as buffers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buffers, "is_uva_available", lambda: False)
        yield


class Runner:
    """What vLLM's runner does around a logits processor, with requests by name.

    It fills the request states, lays out rows, and commits tokens on the "device" only.
    """

    def __init__(self, guards, kind, spec, *, width, slots=8, longest=64):
        from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcRequestState
        from vllm.v1.worker.gpu.states import RequestState

        self.states = RequestState(slots, longest, longest, spec, width, torch.device("cpu"))
        self.width = width
        shared = LogitsProcRequestState.from_request_state(self.states)
        self.slots = kind(guards, shared, spec)

    def add(self, name, prompt, output=(), params=None):
        from vllm import SamplingParams

        tokens = [*prompt, *output]
        self.states.add_request(name, len(prompt), tokens, 0, 64)
        slot = self.states.req_id_to_index[name]
        assert self.slots.add(slot, params or SamplingParams())
        # The kernels that write staged tokens need Triton.
        self.states.all_token_ids.gpu[slot, : len(tokens)] = torch.tensor(tokens)
        self.states.total_len.gpu[slot] = len(tokens)
        self.states.prompt_len.copy_to_uva()
        self.states.prefill_len.copy_to_uva()
        for staged in (self.states.all_token_ids, self.states.total_len):
            staged.clear_staged_writes()
        self.states.num_computed_tokens.clear_staged_writes()
        self.slots.flush()

    def step(self, wants, drafts=None, upto=None):
        """Return, per request in ``wants``, the tokens left in its rows; nothing is committed."""
        rows = {}
        for name, want in wants.items():
            places = len((drafts or {}).get(name, [])) + 1
            rows[name] = torch.zeros((places, self.width))
            for place in range(places):
                rows[name][place, want[place] if isinstance(want, list) else want] = 5.0
        done = self.run(rows, drafts, upto)
        return [set(torch.where(row > -torch.inf)[0].tolist()) for row in done]

    def run(self, rows, drafts=None, upto=None):
        """Return the logits of all ``rows`` (per request ``[drafts + 1, width]``) after a step."""
        from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext

        drafts, upto = drafts or {}, upto or {}
        slots, local, pos, ids = [], [], [], []
        for name in rows:
            slot = self.states.req_id_to_index[name]
            length = upto.get(name, int(self.states.total_len.gpu[slot]))
            fed = [int(self.states.all_token_ids.gpu[slot, length - 1]), *drafts.get(name, [])]
            for place, token in enumerate(fed):
                slots.append(slot)
                local.append(place)
                pos.append(length - 1 + place)
                ids.append(token)
        batch = np.array([self.states.req_id_to_index[name] for name in rows], np.int32)
        context = LogitsContext(
            expanded_idx_mapping=torch.tensor(slots, dtype=torch.int32),
            idx_mapping=torch.from_numpy(batch),
            idx_mapping_np=batch,
            expanded_local_pos=torch.tensor(local, dtype=torch.int32),
            input_ids=torch.tensor(ids, dtype=torch.int32),
            pos=torch.tensor(pos, dtype=torch.int64),
            seq_lens_upper_bound_np=np.zeros(len(batch), np.int32),
        )
        logits = torch.cat(list(rows.values()))
        self.slots.apply(logits, context)
        return logits

    def commit(self, name, *tokens):
        slot = self.states.req_id_to_index[name]
        length = int(self.states.total_len.gpu[slot])
        self.states.all_token_ids.gpu[slot, length : length + len(tokens)] = torch.tensor(tokens)
        self.states.total_len.gpu[slot] = length + len(tokens)

    def drop(self, name):
        self.states.remove_request(name)
