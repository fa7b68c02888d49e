"""The token tables of all policies as tensors, joined so that one lookup serves a mixed batch.

Everything here is a fixed number of operations of fixed shape, so that one fused kernel can take
its place without a change to its callers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from prism.steer.ranges import TokenTables, TokenTexts, compile_tables, patterns_of
from vllm_prism.guards import Guards, tokens_of

if TYPE_CHECKING:
    from prism.policy import CompiledPolicy

_ROWS = 32
"""Rows masked at once: bounds the scratch memory."""


class DeviceTables:
    """Nodes of policy ``p`` are numbered from ``offset[p]``; tokens count by kind."""

    def __init__(
        self,
        policies: Sequence[CompiledPolicy],
        tokens: TokenTexts,
        refusals: Sequence[tuple[Sequence[int], Sequence[int]]],
        eos: int,
        width: int,
        device: torch.device,
    ) -> None:
        tables = [compile_tables(patterns_of(p), tokens) for p in policies]
        sizes = [len(t.after_space) for t in tables]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).tolist()[:-1]
        self._host: dict[str, tuple[TokenTables, int]] = {
            p.digest: (t, o) for p, t, o in zip(policies, tables, offsets, strict=True)
        }
        self._eos = eos
        self._kinds = k = len(tokens.texts) + 1
        # The model may have more logits than there are tokens: those add no text.
        kind = np.full(width, k - 1, np.int64)
        kind[: len(tokens.kind)] = tokens.kind[:width]
        self._kind_np = kind

        def put(parts: Sequence[Any]) -> torch.Tensor:
            return torch.from_numpy(np.concatenate(parts)).to(device)

        self._kind = put([kind])
        self._policy = put([np.repeat(np.arange(len(tables)), sizes)])
        self._spaced = put([t.after_space for t in tables]).long()
        self._still = put([tables[0].still])
        self._base = put([t.base[None].astype(np.int64) + o for t, o in _each(tables, offsets)])
        self._whole = put([t.whole[None] for t in tables])
        self._whole_blocking = put([t.whole_blocking[None] for t in tables])
        # A sentinel, so that a search always lands somewhere.
        last = np.array([np.iinfo(np.int64).max])
        self._pair_key = put([*(t.pair_key + o * k for t, o in _each(tables, offsets)), last])
        self._pair_node = put(
            [*(t.pair_state.astype(np.int64) + o for t, o in _each(tables, offsets)), [0]]
        )
        counts = np.concatenate([np.diff(t.range_start) for t in tables])
        self._most_ranges = int(counts.max(initial=0))
        self._range_start = put([[0], np.cumsum(counts)])
        empty = np.array([[k, k, 0]])
        self._ranges = put([*(t.ranges.astype(np.int64) for t in tables), empty])
        longest = max(len(ids) for pair in refusals for ids in pair) + 1
        self._refusals = put(
            [[[[*ids, *[eos] * (longest - len(ids))] for ids in pair]] for pair in refusals]
        )

    @classmethod
    def of(cls, guards: Guards, width: int, device: torch.device) -> DeviceTables:
        """Build the tables of every policy the operator configured."""
        compiled = guards.compiled()
        policies = [guard.policy for guard in compiled]
        refusals = [(g.refusal(None, inside=False), g.refusal(None, inside=True)) for g in compiled]
        texts = TokenTexts.of(tokens_of(guards.vocabulary))
        return cls(policies, texts, refusals, guards.eos, width, device)

    def start(self, digest: str) -> int:
        """Return the node of an empty output."""
        tables, offset = self._host[digest]
        return tables.start + offset

    def next(self, digest: str, node: int, token: int) -> int:
        """Return the node after ``token``, on the host."""
        tables, offset = self._host[digest]
        if not 0 <= token < len(self._kind_np):
            return node
        return tables.next(node - offset, int(self._kind_np[token])) + offset

    def advance(self, node: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """Return the nodes after ``token``, both ``[rows]``."""
        kind = self._kind[token.clamp(0, len(self._kind) - 1)]
        spaced = self._spaced[node]
        key = node * self._kinds + kind
        at = torch.searchsorted(self._pair_key, key)
        alone = self._base[self._policy[node], spaced, kind]
        after = torch.where(self._pair_key[at] == key, self._pair_node[at], alone)
        return torch.where(self._still[spaced, kind], node, after)

    def mask(self, logits: torch.Tensor, node: torch.Tensor) -> None:
        """Set to -inf what would complete a phrase; ``logits`` is ``[rows, vocabulary]``."""
        for at in range(0, len(node), _ROWS):
            part = node[at : at + _ROWS]
            banned = self._whole[self._policy[part], self._spaced[part]]
            if self._most_ranges:
                low, high, _ = self._of(part).unbind(-1)
                shape = (len(part), self._kinds + 1)
                edges = torch.zeros(shape, dtype=torch.int16, device=node.device)
                one = torch.ones_like(low, dtype=torch.int16)
                edges.scatter_add_(1, low, one).scatter_add_(1, high, -one)
                banned = banned | (edges.cumsum(1, dtype=torch.int16)[:, :-1] > 0)
            logits[at : at + _ROWS].masked_fill_(banned[:, self._kind], -torch.inf)

    def blocks(self, node: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """Return whether ``token`` would complete a phrase that is refused, ``[rows]`` bool."""
        kind = self._kind[token]
        whole = self._whole_blocking[self._policy[node], self._spaced[node], kind]
        low, high, blocking = self._of(node).unbind(-1)
        inside = (low <= kind[:, None]) & (kind[:, None] < high)
        return whole | (inside & (blocking > 0)).any(-1)

    def refusal(
        self,
        node: torch.Tensor,
        index: torch.Tensor,
        inside: torch.Tensor,
        structured: torch.Tensor,
    ) -> torch.Tensor:
        """Return the refusal's token at ``index``, then the end of text; ``[rows]``."""
        index = index.clamp(0, self._refusals.shape[-1] - 1)
        token = self._refusals[self._policy[node], inside.long(), index]
        return torch.where(structured, self._eos, token)

    def _of(self, node: torch.Tensor) -> torch.Tensor:
        """Return the ranges of each node, ``[rows, most, 3]``, filled up with empty ones."""
        at = self._range_start[node][:, None] + torch.arange(self._most_ranges, device=node.device)
        at = torch.where(at < self._range_start[node + 1][:, None], at, len(self._ranges) - 1)
        return self._ranges[at]


def _each(tables: Sequence[TokenTables], offsets: Sequence[int]) -> zip[tuple[TokenTables, int]]:
    return zip(tables, offsets, strict=True)
