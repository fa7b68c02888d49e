"""Made-up data sets and a made-up pretrained model, small enough to train in seconds."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from training_rows import BAD, GOOD, SHIPPED, sentence

from training import encoder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with two sets that training/sources.py knows, and one that it doesn't."""
    rng = random.Random(2)
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    sets = {
        "dolly_subset": [{"prompt": sentence(rng, GOOD), "label": 0} for _ in range(60)],
        "advbench": [{"prompt": sentence(rng, BAD), "label": 1} for _ in range(60)],
        "unheard_of": [{"prompt": "zephyr", "label": 1}],
    }
    sets["dolly_subset"].append(sets["dolly_subset"][0])
    for name, rows in sets.items():
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as handle:
            handle.writelines(json.dumps(row) + "\n" for row in rows)
    return tmp_path / "data"


@pytest.fixture
def pretrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of the real shape with random weights; the real tokenizer, which is shipped."""
    generator = torch.Generator().manual_seed(3)
    width = encoder.WIDTH

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.05

    state = {
        "embeddings.word_embeddings.weight": made(30522, width),
        "embeddings.position_embeddings.weight": made(512, width),
        "embeddings.token_type_embeddings.weight": made(2, width),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(6):
        at = f"encoder.layer.{i}."
        norms += [at + "attention.output.LayerNorm", at + "output.LayerNorm"]
        shapes = {f"attention.self.{part}": (width, width) for part in ("query", "key", "value")}
        shapes |= {"attention.output.dense": (width, width), "output.dense": (width, 4 * width)}
        shapes["intermediate.dense"] = (4 * width, width)
        for name, shape in shapes.items():
            state[f"{at}{name}.weight"] = made(*shape)
            state[f"{at}{name}.bias"] = made(shape[0])
    for name in norms:
        state[f"{name}.weight"] = torch.ones(width)
        state[f"{name}.bias"] = torch.zeros(width)
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "tokenizer.json").write_bytes((SHIPPED / "encoder.tokenizer.json").read_bytes())
    monkeypatch.setattr(encoder, "pretrained", lambda: folder)
    return folder
