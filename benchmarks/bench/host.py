"""vLLM's V1 processor, driven outside the engine: rows that say recorded texts.

What is timed is all that the layer does in a step: read every row's last token, find what the next
one may not be, and edit the logits.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

from bench.inputs import vocabulary
from prism.policy.compiled import CompiledPolicy
from prism.steer.vocabulary import Vocabulary
from vllm_prism.guards import Guards
from vllm_prism.v1 import Rows

WARM = 8
"""Steps of a drive that aren't counted: the first ones load what numba has compiled."""
_WANTED = 30.0
"""Logit of the token that a row says; all others are noise."""


class RecordedGuards(Guards):
    """Guards without an engine: a request's policy is what its parameters say."""

    def __init__(self, words: Vocabulary, default: CompiledPolicy) -> None:
        self.vocabulary = words
        self.eos = min(words.eos_ids)
        self._default = default

    def policy(self, params: Any) -> CompiledPolicy:
        """Return the policy of a row."""
        found: CompiledPolicy = getattr(params, "policy", None) or self._default
        return found


class Host:
    """A batch of rows, one step at a time."""

    def __init__(self, model: str, policy: CompiledPolicy, rows: int) -> None:
        self.vocabulary = vocabulary(model)
        self.policy = policy
        self.rows = Rows(RecordedGuards(self.vocabulary, policy))
        self.outputs: list[list[int]] = [[] for _ in range(rows)]
        noise = torch.randn(self.vocabulary.size, generator=torch.Generator().manual_seed(0))
        self.logits = noise.repeat(rows, 1)
        self.assign([policy])

    def _params(self, policy: CompiledPolicy) -> Any:
        return SimpleNamespace(structured_outputs=None, extra_args=None, policy=policy)

    def assign(self, policies: Sequence[CompiledPolicy]) -> None:
        """Begin anew with row ``i`` under the ``i``-th policy, over and over."""
        added: list[Any] = []
        for i, output in enumerate(self.outputs):
            output.clear()
            added.append((i, self._params(policies[i % len(policies)]), [], output))
        self.rows.update(_update(added))

    @property
    def refusing(self) -> int:
        """How many rows have begun a refusal: the texts are harmless, but scores can err."""
        rows = self.rows._rows.values()
        return sum(row.row is not None and row.row.refusing for row in rows)

    def drive(self, texts: Sequence[Sequence[int]]) -> tuple[list[float], list[float]]:
        """Have row ``i`` say the ``i``-th text; return wall and CPU microseconds of each step.

        What it says is what its logits want, else a text of harmless words would be refused
        wherever a phrase could end.
        """
        wall, cpu = [], []
        rows = torch.arange(len(texts))
        for step in range(len(texts[0])):
            said = rows, torch.tensor([text[step] for text in texts])
            others = self.logits[said]
            self.logits[said] = _WANTED
            start, used = time.perf_counter(), time.process_time()
            self.rows.apply(self.logits)
            wall.append((time.perf_counter() - start) * 1e6)
            cpu.append((time.process_time() - used) * 1e6)
            self.logits[said] = others
            for output, text in zip(self.outputs, texts, strict=True):
                output.append(text[step])
        return wall[WARM:], cpu[WARM:]


def _update(added: list[Any]) -> Any:
    return SimpleNamespace(removed=[], added=added, moved=[])
