"""Fewer neurons in the upper feed-forward parts: what moves the output least is left out.

A neuron counts by the variance of what it adds to its layer's output, over texts to learn from;
the mean of what is left out goes into the bias. Done between the two stages of training, so that
the second one mends what little was lost.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.encoder import Encoder, encode
from training.rows import Row

NEURONS = (1536, 1536, 1024, 1024)
"""Feed-forward neurons that each layer keeps; the upper two carry little in a third of theirs."""
TEXTS = 600
"""Texts that tell how much a neuron matters."""


def narrow(
    model: Encoder,
    rows: Sequence[Row],
    neurons: Sequence[int] = NEURONS,
    texts: int = TEXTS,
    seed: int = 7,
) -> Encoder:
    """Keep ``neurons`` of each layer's feed-forward part, in place; returns ``model``.

    ``rows``: English ones of the ``train`` split are read, ``texts`` of them drawn with ``seed``.
    """
    learning = [row for row in rows if row.split == "train" and row.lang == "en"]
    drawn = random.Random(seed).sample(learning, min(texts, len(learning)))
    means, variances = _moments(model, encode(drawn))
    body = model.body
    for layer, keep in enumerate(neurons):
        at = f"encoder/layer/{layer}/"
        into, out = f"{at}intermediate/dense/", f"{at}output/dense/"
        weight = body[f"{out}weight"].detach().double()
        worth = variances[layer] * (weight**2).sum(0)
        order = torch.argsort(worth, descending=True, stable=True)
        kept, gone = torch.sort(order[:keep]).values, order[keep:]
        bias = body[f"{out}bias"].detach().double() + weight[:, gone] @ means[layer][gone]
        body[f"{out}bias"] = nn.Parameter(bias.float())
        body[f"{out}weight"] = nn.Parameter(weight[:, kept].float().contiguous())
        for name in (f"{into}weight", f"{into}bias"):
            body[name] = nn.Parameter(body[name].detach()[kept].clone())
    return model


def _moments(
    model: Encoder, encoded: Sequence[tuple[list[int], int]]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return mean and variance of every neuron's activation, float64 ``[neurons]`` per layer."""
    total: list[Tensor] = []
    square: list[Tensor] = []
    count = 0
    with torch.no_grad():
        for ids, start in encoded:
            types = (torch.arange(len(ids)) >= start).long()
            seen: list[Tensor] = []
            model(torch.tensor([ids]), types[None], hidden=seen)
            for layer, hidden in enumerate(seen):
                if layer == len(total):
                    total.append(torch.zeros(hidden.shape[-1], dtype=torch.float64))
                    square.append(torch.zeros_like(total[layer]))
                # A layer of half as many tokens weighs them twice: each layer's mean is its own.
                total[layer] += hidden.double().mean((0, 1)) * len(ids)
                square[layer] += (hidden.double() ** 2).mean((0, 1)) * len(ids)
            count += len(ids)
    means = [one / count for one in total]
    return means, [one / count - mean**2 for one, mean in zip(square, means, strict=True)]
