"""What a step of vLLM's V2 runner costs on the device, without the engine.

    python benchmarks/device.py [--batch N] [--drafts N] [--phrases N] [--tokenizer DIR]

On a GPU the step is Triton's kernels (``vllm_prism.walk``), timed by CUDA events, every step under
``torch.cuda.set_sync_debug_mode("error")``: had it waited for the device, it would have raised. On
a CPU Triton's interpreter (``TRITON_INTERPRET=1``, with a small ``--batch``) shows that the kernels
run, not how fast.

Rows read ordinary words; ``--near`` of these words begin a phrase. The policy watches a score too,
which Triton's kernels read (``--no-scores``: it doesn't). Each step commits one token per row, and
the logits are fresh. Figures are per step, in microseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from prism.policy import CompiledPolicy, load_policy
from prism.steer.guard import TokenGuard
from prism.steer.vocabulary import Vocabulary

WARM_UP = 3
_SYLLABLES = [
    a + b for a in "bcdfghklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "il")
]


def main() -> None:
    """Measure, and print the figures as JSON."""
    options = _options()
    rng = random.Random(options.seed)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    words = ["".join(rng.choices(_SYLLABLES, k=rng.randint(2, 4))) for _ in range(20_000)]
    phrases = sorted({" ".join(rng.sample(words, 2)) for _ in range(options.phrases)})
    vocabulary = _vocabulary(options.tokenizer, options.vocabulary, words, rng)
    guard = TokenGuard.compile(_policy(phrases, options.scores), vocabulary)
    rows = [_tokens(vocabulary, words, phrases, options, rng) for _ in range(options.batch)]
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise SystemExit("Triton's kernels need a GPU, or TRITON_INTERPRET=1 to see that they run")
    began = time.perf_counter()
    under_test = _Kernels(_Given(guard, vocabulary, rows, options, device))
    build = time.perf_counter() - began
    figures = _measure(under_test.step, vocabulary.size, options, device)
    result = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "path": _Kernels.NAME,
        "batch": options.batch,
        "drafts": options.drafts,
        "phrases": len(phrases),
        "scores": options.scores,
        "vocabulary": vocabulary.size,
        "steps": options.steps,
        "build_s": round(build, 2),
        "memory_mib": round(under_test.memory / 2**20, 1),
        **figures,
    }
    text = json.dumps(result, indent=2)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=256, help="requests at once")
    parser.add_argument("--drafts", type=int, default=0, help="draft tokens per request")
    parser.add_argument("--phrases", type=int, default=1000, help="blocked phrases of two words")
    parser.add_argument(
        "--near", type=float, default=0.1, help="share of words that begin a phrase"
    )
    parser.add_argument(
        "--scores", action=argparse.BooleanOptionalAction, default=True, help="watch a score"
    )
    parser.add_argument("--steps", type=int, default=50, help="steps measured")
    parser.add_argument("--tokenizer", type=Path, help="a directory with a tokenizer.json")
    parser.add_argument("--vocabulary", type=int, default=131_072, help="tokens, without one")
    parser.add_argument("--device", help="cuda or cpu; a GPU if there is one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser.parse_args()


def _policy(phrases: list[str], scores: bool) -> CompiledPolicy:
    rule = {"id": "p", "category": "prv", "stages": ["output"], "action": "steer"}
    rules: list[dict[str, Any]] = [{**rule, "phrases": phrases}]
    if scores:
        rules.append({**rule, "id": "h", "category": "harm", "thresholds": {"output": 0.9}})
    tiers = {"sketch": "on" if scores else "off"}
    document = {"prism": 1, "id": "device", "tiers": tiers, "rules": rules}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.yaml"
        path.write_text(json.dumps({**document, "messages": {"en": "No."}}), encoding="utf-8")
        return load_policy(path)


def _vocabulary(
    tokenizer: Path | None, size: int, words: list[str], rng: random.Random
) -> Vocabulary:
    """Return a tokenizer's vocabulary; without one, bytes, words and pieces of words."""
    if tokenizer is not None:
        from transformers import AutoTokenizer

        return Vocabulary.from_tokenizer(AutoTokenizer.from_pretrained(tokenizer))
    pieces = {bytes([byte]): None for byte in range(256)}
    while len(pieces) < size - 1:
        word = rng.choice(words)
        cut = rng.randint(1, len(word))
        piece = rng.choice(("", " ")) + (word[:cut] + rng.choice(words)[: rng.randint(0, 4)])
        pieces[piece.encode()] = None
    tokens = list(pieces)
    index = {token: i for i, token in enumerate(tokens)}

    def encode(text: str) -> list[int]:
        data, at, ids = text.encode(), 0, []
        while at < len(data):
            end = next(e for e in range(min(len(data), at + 12), at, -1) if data[at:e] in index)
            ids.append(index[data[at:end]])
            at = end
        return ids

    return Vocabulary([*tokens, None], [len(tokens)], encode)


def _tokens(
    vocabulary: Vocabulary,
    words: list[str],
    phrases: list[str],
    options: argparse.Namespace,
    rng: random.Random,
) -> list[int]:
    """Return what one row reads: words, and among them phrases that break off."""
    ids: list[int] = []
    while len(ids) < WARM_UP + options.steps + options.drafts + 1:
        text = f" {rng.choice(words)}"
        if rng.random() < options.near:
            first, second = rng.choice(phrases).split()
            text = f" {first} {second[: len(second) // 2]}"
        ids += vocabulary.encode(text)
    return ids


class _Given(NamedTuple):
    """What is measured: requests that read ``rows``, a list of tokens for each."""

    guard: TokenGuard
    vocabulary: Vocabulary
    rows: list[list[int]]
    options: argparse.Namespace
    device: torch.device

    @property
    def eos(self) -> int:
        return min(self.vocabulary.eos_ids)

    def ids(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the tokens of all rows on the device, ``[batch, length]``."""
        length = min(map(len, self.rows))
        return torch.tensor([row[:length] for row in self.rows], dtype=dtype, device=self.device)


class _Kernels:
    """All that the host sees, by Triton."""

    NAME = "triton"

    def __init__(self, given: _Given) -> None:
        from vllm_prism.fields import slot
        from vllm_prism.walk import Walk

        options, device = given.options, given.device
        batch, drafts = options.batch, options.drafts
        self._walk = Walk([given.guard], given.eos, batch, drafts, device)
        self.memory = self._walk.memory
        self._ids = given.ids(torch.int32)
        self._walk.warm_up(given.vocabulary.size, self._ids)
        fields = np.array([slot(0)] * batch)
        self._walk.put(range(batch), fields, np.stack([self._walk.start(0, ())] * batch))
        places = drafts + 1
        slots = torch.arange(batch, dtype=torch.int32, device=device)
        self._mapping = slots.repeat_interleave(places)
        self._local = torch.arange(places, dtype=torch.int32, device=device).repeat(batch)
        # Laid out before the clock runs, as vLLM does before the sampler.
        self._layout = []
        for step in range(WARM_UP + options.steps):
            pos = self._local.long() + step
            fed = self._ids[self._mapping.long(), pos].contiguous()
            self._layout.append((pos, fed))

    def step(self, logits: torch.Tensor, step: int) -> None:
        pos, fed = self._layout[step]
        self._walk.step(logits, self._ids, self._mapping, self._local, pos, fed)


def _measure(
    step: Callable[[torch.Tensor, int], None],
    columns: int,
    options: argparse.Namespace,
    device: torch.device,
) -> dict[str, Any]:
    """Return the median and the 99th percentile of a step, on the device and on the host."""
    rows = options.batch * (options.drafts + 1)
    fresh = torch.randn((rows, columns), dtype=torch.float32, device=device)
    logits = torch.empty_like(fresh)
    cuda = device.type == "cuda"
    host, events = [], []
    for i in range(WARM_UP + options.steps):
        logits.copy_(fresh)
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
        began = time.perf_counter()
        step(logits, i)
        host.append(1e6 * (time.perf_counter() - began))
        if cuda:
            end.record()
            torch.cuda.set_sync_debug_mode("default")
            events.append((begin, end))
    if not cuda:
        return {"step_us": _spread(host[WARM_UP:])}
    torch.cuda.synchronize()
    times = [1e3 * begin.elapsed_time(end) for begin, end in events[WARM_UP:]]
    return {"step_us": _spread(times), "launch_us": _spread(host[WARM_UP:])}


def _spread(times: list[float]) -> dict[str, float]:
    ranked = sorted(times)
    return {
        "median": round(statistics.median(ranked), 1),
        "p99": round(ranked[min(len(ranked) - 1, int(0.99 * len(ranked)))], 1),
        "least": round(ranked[0], 1),
    }


if __name__ == "__main__":
    main()
