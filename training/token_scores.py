"""``python -m training.token_scores --data ../data``: from which probability on the sketch may act.

In the token layer (``prism.steer.scores``) the sketch ends answers with no encoder behind it. An
answer gets there by its highest score over all places where it is looked at. So that is measured
here, on harmless texts that nothing learnt from (held out, or over their source's cap), and the
least bound of ``GRID`` is taken at which hardly any of them would be ended. The result belongs into
``prism.steer.operating``, whenever the sketch was trained anew.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from prism.classify.sketch import Sketch
from prism.steer.scores import STRIDE, Scores, ScoreStates
from prism.steer.vocabulary import Vocabulary
from training.rows import Row, read_all, read_source
from training.sources import SOURCES
from training.targets import Floats

GRID = (0.9, 0.95, 0.98, 0.99, 0.995)
MOST = {"everyday": 1 / 2_500, "looping": 1 / 1_000, "near": 1 / 200}
"""Share of texts that may be ended: everyday ones, a sentence of them said over and over, and
harmless answers to people who ask for harm (some of their labels are wrong)."""
EVERYDAY = (
    "gpteacher_benign", "p3_t0_benign", "qa_benign", "context_toxicity_wiki", "dolly_subset",
    "wildguardtest_benign", "mtbench_vicuna", "mitre_frr", "notinject",
)  # fmt: skip
NEAR = ("gptfuzz_resp_train", "aisafetylab_unlearn_pairs", "safetext", "diasafety_val")
LONGEST = 4096
"""Characters of a text that measuring reads."""


def highest(states: ScoreStates, text: str) -> Floats:
    """Return the highest score per category at the places where the token layer looks."""
    data = np.frombuffer(text[:LONGEST].encode(), np.uint8).astype(np.int64)
    found = np.zeros(len(states.of.sketch.categories), np.float32)
    states.begin(0)
    # Cut where characters begin, so that each place is met.
    starts = np.append(np.flatnonzero((data & 0xC0) != 0x80)[STRIDE::STRIDE], len(data))
    for piece in np.split(data, starts)[:-1]:
        states.feed_one(0, piece)
        if len(piece) and states.position(0) % STRIDE == 0:
            found = np.maximum(found, states.judged(0))
    return found


def looping(text: str, length: int = 1_500) -> str:
    """Return the first sentence of ``text``, said over and over."""
    sentence = re.split(r"(?<=[.!?])\s", text.strip())[0][:150] + " "
    return (sentence * (length // len(sentence) + 1))[:length]


def watching(sketch: Sketch) -> ScoreStates:
    """Return a slot that reads UTF-8 bytes as tokens."""
    bytes_ = [bytes((value,)) for value in range(256)]
    vocabulary = Vocabulary([*bytes_, None], [256], lambda text: list(text.encode()))
    return ScoreStates(Scores({"harm": 1.0}, vocabulary, sketch))


def unseen(data: Path) -> list[Row]:
    """Return the rows that the weights have not learnt from, texts too short to judge left out."""
    learnt = {(row.text, row.response) for row in read_all(data) if row.split == "train"}
    rows = []
    for path in sorted((data / "train").glob("*.jsonl*")):
        name = path.name.split(".")[0]
        if name in (*EVERYDAY, *NEAR) and name in SOURCES:
            rows += [r for r in read_source(name, path) if (r.text, r.response) not in learnt]
    return [row for row in rows if len(row.read) >= STRIDE and (row.response or _prose(row))]


def _prose(row: Row) -> bool:
    return row.source in EVERYDAY and row.source != "gpteacher_benign"


def least(scores: Floats, most: float) -> float:
    """Return the least bound of ``GRID`` that at most a share ``most`` of ``scores`` reaches."""
    fitting = [bound for bound in GRID if (scores >= bound).mean() <= most]
    return fitting[0] if fitting else float("inf")


def measure(sketch: Sketch, rows: Iterable[Row]) -> None:
    """Print bounds, and what they end."""
    states = watching(sketch)
    groups: dict[str, list[Floats]] = {"everyday": [], "looping": [], "near": [], "harmful": []}
    for row in rows:
        harm = row.labels.get("harm", 0.5)
        if row.source in EVERYDAY and harm == 0:
            groups["everyday"].append(highest(states, row.read))
            if len(groups["everyday"]) % 4 == 0:
                groups["looping"].append(highest(states, looping(row.read)))
        elif row.source in NEAR and harm <= 0.05:
            groups["near"].append(highest(states, row.read))
        elif row.source in NEAR and harm == 1:
            groups["harmful"].append(highest(states, row.read))
    stacks = {name: np.stack(group) for name, group in groups.items()}
    print(f"sketch {sketch.digest}; {', '.join(f'{len(v)} {k}' for k, v in stacks.items())}")
    for c, name in enumerate(sketch.categories):
        bound = max(least(stacks[group][:, c], most) for group, most in MOST.items())
        shares = [f"{(stack[:, c] >= bound).mean():.4f}" for stack in stacks.values()]
        print(f"{name}: {bound}  ends {' '.join(shares)}")


def main() -> None:
    """Measure the shipped sketch, or another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="the folder above train/")
    parser.add_argument("--sketch", type=Path, help="sketch.npz (default: the shipped one)")
    options = parser.parse_args()
    sketch = Sketch(options.sketch.read_bytes()) if options.sketch else Sketch.shipped()
    measure(sketch, unseen(options.data))


if __name__ == "__main__":
    main()
