"""Rows, and reading the files they come from: dedup, splits, caps per source."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from training.sources import SOURCES, Source

HELD_OUT_SHARE = 12
"""Every how-manieth row of a source is kept from training, to calibrate and to measure."""


@dataclass(slots=True)
class Row:
    """One text. ``labels`` holds only what its source knows: column → probability.

    ``response`` is None for prompts; ``text`` may be "" for a response without its prompt.
    ``split``: ``train``, ``late`` (the encoder's second stage), ``calibrate`` or ``test``. Rows of
    one ``family`` share a split.
    """

    source: str
    text: str
    response: str | None = None
    labels: dict[str, float] = field(default_factory=dict)
    weight: float = 1.0
    lang: str = "en"
    split: str = "train"
    family: str = ""

    @property
    def read(self) -> str:
        """The text that is judged."""
        return self.text if self.response is None else self.response


def _key(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big")


def split_of(source: Source, key: str) -> str:
    """Return the split of a text: by its hash, so that it never moves between runs."""
    at = _hash(key) % (2 * HELD_OUT_SHARE)
    if source.late and at in range(7, 24, 2):
        return "late"
    if source.held_out:
        return "calibrate" if at % 2 else "test"
    if at == 0:
        return "calibrate"
    return "test" if at == 1 else "train"


def _lines(path: Path) -> Iterator[dict[str, object]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as handle:
        for line in handle:
            yield json.loads(line)


def read_source(name: str, path: Path) -> list[Row]:
    """Read one file of the data's ``train`` folder as its ``Source`` says, without its cap."""
    source = SOURCES[name]
    rows: list[Row] = []
    for raw in _lines(path):
        label = raw.get("label")
        category = raw.get("category")
        prompt, response = raw.get("prompt"), raw.get("response")
        given = source.labels(
            None if label is None else int(str(label)), str(category) if category else ""
        )
        if given is None:
            continue
        lang = str(raw.get("lang") or source.lang)
        text, answer = str(prompt or ""), str(response) if response else None
        if source.pairs and answer:
            rows.append(Row(name, text, answer, dict(given), source.weight, lang))
            if source.benign_prompts and text:
                benign = source.labels(0, "prompt") or {}
                rows.append(Row(name, text, None, dict(benign), source.weight, lang))
        elif text:
            rows.append(Row(name, text, None, dict(given), source.weight, lang))
    return rows


def read_all(data: Path, written: Iterable[Row] = (), seed: int = 7) -> list[Row]:
    """Read every known source under ``data/train``, drop duplicates, split, and apply caps.

    A text that appears twice keeps its first reading, rarer sources before larger ones. Raises
    ``FileNotFoundError`` naming the folder when nothing is there.
    """
    folder = data / "train"
    files = {path.name.split(".")[0]: path for path in sorted(folder.glob("*.jsonl*"))}
    if not files:
        raise FileNotFoundError(f"no data sets under {folder}")
    unknown = sorted(set(files) - set(SOURCES))
    if unknown:
        print(f"not used, since training/sources.py does not know them: {', '.join(unknown)}")
    by_source = {name: read_source(name, path) for name, path in files.items() if name in SOURCES}
    by_source["written"] = list(written)
    seen: set[int] = set()
    rows: list[Row] = []
    for name in sorted(by_source, key=lambda name: (len(by_source[name]), name)):
        source = SOURCES[name]
        kept: list[Row] = []
        for row in by_source[name]:
            key = _key(row.text) + "\0" + _key(row.response or "")
            if len(key) < 3 or (at := _hash(key)) in seen:
                continue
            seen.add(at)
            row.split = split_of(source, row.family or _key(row.text) or key)
            kept.append(row)
        rng = random.Random(f"{seed}/{name}")
        rng.shuffle(kept)
        rows += _cap(kept, source.cap)
    return rows


def _cap(rows: list[Row], cap: int) -> list[Row]:
    """Keep at most ``cap`` rows to train on of each overall label, and all held-out rows."""
    kept: list[Row] = []
    count: dict[object, int] = {}
    for row in rows:
        label = row.labels.get("harm", row.labels.get("tone")), row.response is None
        if row.split == "train":
            count[label] = count.get(label, 0) + 1
            if count[label] > cap:
                continue
        kept.append(row)
    return kept


def with_answers(rows: Iterable[Row]) -> list[Row]:
    """Add to comments and prose the same text as an answer: a model may write it too.

    The sketch learns so; for both models answers are calibrated and measured so.
    """
    out = []
    for row in rows:
        out.append(row)
        if row.response is None and "resp" in row.labels:
            out.append(replace(row, text="", response=row.text))
    return out
