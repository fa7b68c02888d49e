"""``python -m training --data ../data``: from data sets to the weights that the package ships.

``--work`` keeps rows, checkpoints and the report. Steps can be run alone: ``rows``, ``sketch``,
``encoder`` and ``polish`` (its two stages, hours on two cores, minutes on many), ``ship`` (export,
combine, calibrate, write ``shared/prism/classify/data``) and ``report``. ``--quick`` goes through
all of them with a few rows in a few minutes, into a folder of its own: it shows that everything
runs, and its weights are good for nothing.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from prism.classify.encoder import Encoder as Runtime
from prism.classify.sketch import Sketch
from training.rows import Row, read_all, split_of, with_answers
from training.sources import SOURCES

SHIPPED = Path(__file__).parent.parent / "shared" / "prism" / "classify" / "data"
STEPS = ("rows", "sketch", "encoder", "polish", "ship", "report")
BATCHES = 4267
"""Batches that the shipped encoder was trained for."""
SECOND = 600
"""Batches of the second stage."""
VOCABULARY = 6000
"""Rows that carry the teacher's vocabulary."""
QUICK_ROWS, QUICK_BATCHES = 4, 2
"""Of a quick run: rows of each source, split and label, and batches of each stage."""


def make_rows(data: Path, work: Path, most: int | None = None) -> list[Row]:
    """Read all sets and written examples, add the teacher's opinions, keep them in ``work``.

    ``most``: of each source, split and label no more than so many rows (a quick run).
    """
    from training.teacher import teach, vocabulary_rows
    from training.written import generate

    rows = read_all(data, generate())
    if most is not None:
        rows = few(rows, most)
    rows += vocabulary_rows(rows, VOCABULARY if most is None else 5 * most)
    teach(rows)
    with (work / "rows.jsonl").open("w", encoding="utf-8") as handle:
        for row in rows:
            handle.write(json.dumps(asdict(row)) + "\n")
    return rows


def kept_rows(work: Path) -> list[Row]:
    """Return what ``make_rows`` kept in ``work``."""
    with (work / "rows.jsonl").open(encoding="utf-8") as handle:
        return [Row(**json.loads(line)) for line in handle]


def make_sketch(rows: list[Row], work: Path) -> None:
    """Train the sketch into ``work``."""
    from training.sketch import train

    (work / "sketch.npz").write_bytes(train(rows))


def make_encoder(rows: list[Row], work: Path, batches: int | None) -> None:
    """Fine-tune the encoder into ``work``."""
    from training.encoder import save, train

    save(train(rows, batches, out=work), work / "encoder.first.safetensors")


def polish(rows: list[Row], work: Path, batches: int = SECOND) -> None:
    """Go on from the encoder in ``work``, narrower and more slowly, with contrast pairs too.

    They come last because they are few and their sentences alike: from the start they would be
    learnt by heart. So do the look-alikes of which most rows are kept for measuring.
    """
    from training.encoder import load, save, train
    from training.narrow import narrow
    from training.teacher import teach
    from training.written import second

    pairs = [row for row in second() if split_of(SOURCES["contrast"], row.family) == "train"]
    teach(pairs)
    late = [replace(row, split="train") for row in rows if row.split == "late"]
    first = narrow(load(work / "encoder.first.safetensors"), rows)
    mixed = [*rows, *pairs * 5, *late * 8]
    save(train(mixed, batches, peak=5e-5, seed=8, start=first), work / "encoder.safetensors")


def few(rows: list[Row], most: int) -> list[Row]:
    """Return at most ``most`` rows of each source, split, stage and label, in their order."""
    count: dict[object, int] = {}
    kept: list[Row] = []
    for row in rows:
        label = row.labels.get("harm", row.labels.get("tone", row.labels.get("inj")))
        key = row.source, row.split, row.response is None, label
        count[key] = count.get(key, 0) + 1
        if count[key] <= most:
            kept.append(row)
    return kept


def held_out(rows: list[Row], split: str) -> list[Row]:
    """Return the rows of a split that the encoder is measured on: English, 90 of most sources."""
    kept: list[Row] = []
    count: dict[str, int] = {}
    for row in rows:
        if row.split == split and row.lang == "en" and row.source != "vocabulary":
            count[row.source] = count.get(row.source, 0) + 1
            if count[row.source] <= (240 if row.source in LARGER else 90):
                kept.append(row)
    return kept


LARGER = ("written", "surge_toxicity", "wildguardtest_benign", "slabs_injection")


def ship(rows: list[Row], work: Path, to: Path) -> None:
    """Export, combine and calibrate; write the four files into ``to``."""
    from training.combine import FEATURES, combine, pack
    from training.encoder import load, pretrained
    from training.export import to_onnx
    from training.labels import CATEGORIES
    from training.scores import encoder_logits, sketch_logits, stage_of

    sketch = Sketch((work / "sketch.npz").read_bytes())
    model = to_onnx(load(work / "encoder.safetensors"))
    tokenizer = (pretrained() / "tokenizer.json").read_bytes()
    shape = (2, len(CATEGORIES))
    blank = pack(np.zeros((*shape, FEATURES), np.float32), np.zeros(shape, np.float32))
    runtime = Runtime(model, tokenizer, blank, sketch)
    held = with_answers(held_out(rows, "calibrate"))
    logits = encoder_logits(runtime, held)
    stages = [stage_of(row) for row in held]
    combination = combine(held, stages, logits, sketch_logits(sketch, held))
    to.mkdir(parents=True, exist_ok=True)
    files = {
        "sketch.npz": (work / "sketch.npz").read_bytes(),
        "encoder.onnx": model,
        "encoder.tokenizer.json": tokenizer,
        "encoder.npz": combination,
    }
    for name, data in files.items():
        (to / (name + ".part")).write_bytes(data)
    for name in files:
        (to / (name + ".part")).replace(to / name)


def main() -> None:
    """Run the steps asked for."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with train/*.jsonl.gz")
    parser.add_argument("--work", type=Path, help="default: build/training")
    parser.add_argument("--to", type=Path, help="where the weights go; default: into the package")
    parser.add_argument("--steps", nargs="*", choices=STEPS, default=STEPS)
    parser.add_argument("--batches", type=int, help=f"of the first stage; default: {BATCHES}")
    parser.add_argument("--threads", type=int, default=1, help="torch's; sums differ with them")
    parser.add_argument("--quick", action="store_true", help="few rows, into build/training-quick")
    options = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    quick: bool = options.quick
    work: Path = options.work or Path("build/training-quick" if quick else "build/training")
    to: Path = options.to or (work / "shipped" if quick else SHIPPED)
    if quick and to.resolve() == SHIPPED.resolve():
        parser.error("--quick makes weights that are good for nothing: give --to another folder")
    batches = options.batches
    if batches is None:
        batches = QUICK_BATCHES if quick else BATCHES
    work.mkdir(parents=True, exist_ok=True)
    if "rows" in options.steps:
        if options.data is None:
            parser.error("--data names the folder of the data sets, as in `make train DATA=...`")
        rows = make_rows(options.data, work, QUICK_ROWS if quick else None)
    else:
        rows = kept_rows(work)
    if {"encoder", "polish"} & set(options.steps):
        import torch

        torch.set_num_threads(options.threads)
    if "sketch" in options.steps:
        make_sketch(rows, work)
    if "encoder" in options.steps:
        make_encoder(rows, work, batches or None)
    if "polish" in options.steps:
        polish(rows, work, QUICK_BATCHES if quick else SECOND)
    if "ship" in options.steps:
        ship(rows, work, to)
    if "report" in options.steps:
        from training.report import report

        report(rows, to, work)


if __name__ == "__main__":
    main()
