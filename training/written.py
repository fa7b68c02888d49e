"""Examples written for this project: grammars drawn from with a fixed seed, and lines as they are.

See ``training/written/README.md`` for what is in them and how to add to them.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from training.labels import HAZARDS
from training.rows import Row

HERE = Path(__file__).parent / "written"
WEIGHT = 0.6
"""Share of the passes that a drawn row is in: there are many of one pattern."""
_SLOT = re.compile(r"\{(\w+)\}")
_NOTHING = {"harm": 0.0, "inj": 0.0, "tone": 0.0, "intent": 0.0, **dict.fromkeys(HAZARDS, 0.0)}
_FRAMES = (
    "{}", "{}", "{}", "{}?", "{}.", "please {}", "Can you tell me: {}", "Hey, {}", "{} thanks",
    "I need this for work. {}", "Question: {}", "{} Answer briefly.", "ok so {}",
)  # fmt: skip


def second(seed: int = 11) -> list[Row]:
    """Return the rows of ``written/second``: contrast pairs for the encoder's second stage."""
    rows = generate(HERE / "second", seed)
    for row in rows:
        row.source = "contrast"
    return rows


def generate(folder: Path = HERE, seed: int = 11) -> list[Row]:
    """Return all written rows of a folder, in a fixed order for a fixed seed."""
    rows: list[Row] = []
    for path in sorted(folder.glob("*.yaml")):
        grammar = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
        rng = random.Random(f"{seed}/{path.stem}")
        for group in grammar["groups"]:
            rows += _draw(group, grammar, rng)
    rows += _paragraphs(rows, random.Random(f"{seed}/paragraphs"))
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                rows.append(_given(json.loads(line)))
    return rows


def _fill(template: str, slots: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    text = template
    while match := _SLOT.search(text):
        text = text[: match.start()] + rng.choice(slots[match[1]]) + text[match.end() :]
    return re.sub(r"  +", " ", text).strip()


def _draw(group: Mapping[str, Any], grammar: Mapping[str, Any], rng: random.Random) -> list[Row]:
    slots, templates = grammar["slots"], list(group["templates"])
    kind, lang = group["kind"], grammar.get("lang", "en")
    output = grammar.get("stage") == "output"
    seen: set[tuple[str, str]] = set()
    rows: list[Row] = []
    for index in range(3 * int(group["count"])):
        if len(rows) >= int(group["count"]):
            break
        text = _fill(templates[index % len(templates)], slots, rng)
        if kind in ("request", "benign") and lang == "en":
            text = rng.choice(_FRAMES).format(text)
        if rng.random() < 0.3:
            text = text.lower()
        elif rng.random() < 0.5:
            text = text[:1].upper() + text[1:]
        prompt = _fill(rng.choice(group["prompts"]), slots, rng) if "prompts" in group else ""
        if (prompt, text) in seen:
            continue
        seen.add((prompt, text))
        labels = _labels(kind, group.get("labels", {}), float(group.get("harm", 1.0)), output)
        row = Row("written", prompt if output else text, text if output else None, labels)
        row.lang, row.weight = lang, WEIGHT
        row.family = templates[index % len(templates)]
        rows.append(row)
    return rows


def _labels(kind: str, named: Mapping[str, float], harm: float, output: bool) -> dict[str, float]:
    if kind in ("benign", "scene"):
        return {**_NOTHING} | ({"resp": 0.0} if kind == "scene" else {})
    # A group that names no hazard says only that there is harm.
    labels = {**_NOTHING} if named else {"inj": 0.0}
    labels |= {"harm": harm}
    if kind == "request":
        labels |= {"intent": harm}
        labels.pop("tone", None)
    else:
        labels |= {"resp": harm}
        if not output:
            labels.pop("intent", None)
            labels.pop("tone", None)
    if named:
        labels.pop("tox", None)  # often there beside what is named, seldom said
    return labels | {key: float(value) for key, value in named.items()}


def _paragraphs(rows: Sequence[Row], rng: random.Random) -> list[Row]:
    """Return longer texts of several scenes, half of them with one harmful statement in it."""
    prose = [row for row in rows if row.response is None and "resp" in row.labels]
    scenes = [row for row in prose if row.labels["harm"] == 0.0]
    statements = [row for row in prose if row.labels["harm"] >= 0.9]
    out = []
    for index in range(1400 if scenes and statements else 0):
        parts = [rng.choice(scenes) for _ in range(rng.randint(2, 4))]
        marked = rng.choice(statements) if index % 2 else parts[0]
        if index % 2:
            parts.insert(rng.randint(0, len(parts)), marked)
        text = " ".join(part.text[:1].upper() + part.text[1:] for part in parts)
        out.append(Row("written", text, None, dict(marked.labels), family=marked.family))
    return out


def _given(raw: Mapping[str, Any]) -> Row:
    labels = {key: float(value) for key, value in raw.get("labels", {}).items()}
    harm = float(raw["harm"])
    if harm < 0.5:
        labels = {**_NOTHING, **labels}
    labels |= {"harm": harm, "inj": labels.get("inj", 0.0)}
    if raw["stage"] == "output":
        return Row("written", str(raw.get("prompt", "")), str(raw["text"]), labels | {"resp": harm})
    return Row("written", str(raw["text"]), None, labels)
