"""Made-up rows to learn from in seconds."""

from __future__ import annotations

import random
from pathlib import Path

from training.rows import Row

SHIPPED = Path(__file__).parents[2] / "shared" / "prism" / "classify" / "data"
GOOD = ("lantern", "kettle", "meadow", "ribbon")
BAD = ("zephyr", "gloom", "murk", "blight")


def sentence(rng: random.Random, words: tuple[str, ...]) -> str:
    return " ".join([rng.choice(words), "and", rng.choice(words), str(rng.randint(0, 9999))])


def made_up_rows(count: int = 160) -> list[Row]:
    """Half of them harmful by their words, one in four a response; splits as in real data."""
    rng = random.Random(1)
    rows = []
    for index in range(count):
        bad = index % 2
        text = sentence(rng, BAD if bad else GOOD)
        labels = {"harm": float(bad), "inj": 0.0, "tone": float(bad), "hte": float(bad)}
        split = ("train", "train", "calibrate", "test")[index // 2 % 4]
        if index // 2 % 3 == 0:
            rows.append(Row("made up", "ask", text, labels | {"resp": float(bad)}, split=split))
        else:
            rows.append(Row("made up", text, None, labels | {"intent": float(bad)}, split=split))
    return rows
