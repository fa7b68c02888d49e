"""What the shipped files reach on rows that nothing learnt from: tables and operating points.

Figures are of the ``test`` split (a twelfth of each source, and half of the sources that were kept
from training altogether; the other half calibrates). Written as ``report.md`` and ``report.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prism.classify.encoder import Encoder
from prism.classify.sketch import Sketch
from prism.types import Stage
from training.calibrate import (
    DEFAULT_SHARE,
    SHARE,
    auprc,
    best_f1,
    recall_at,
    reliability,
    threshold_at,
)  # fmt: skip
from training.labels import CATEGORIES
from training.rows import Row, with_answers
from training.scores import encoder_logits, encoder_scores, sketch_scores, stage_of
from training.targets import Floats, mix

PER_SOURCE, PER_EVERYDAY, PER_ALIKE = 80, 240, 500
"""Rows of a source that are measured; thresholds need more of everyday traffic."""
RATES = (0.005, 0.01, 0.02)
RESAMPLED = 1000
"""Times that rows are drawn anew for an interval."""
KEPT = 0.99
"""Share of the encoder's own recall that the cascade has to keep."""


def sample(rows: Iterable[Row], split: str) -> list[Row]:
    """Return the rows of a split, at most ``PER_SOURCE`` or ``PER_EVERYDAY`` of each source."""
    kept, count = [], dict[str, int]()
    for row in rows:
        if row.split == split and row.source != "vocabulary":
            count[row.source] = count.get(row.source, 0) + 1
            if count[row.source] <= _most(row.source):
                kept.append(row)
    return kept


def _most(source: str) -> int:
    if source == ALIKE:
        return PER_ALIKE
    return PER_EVERYDAY if source in EVERYDAY or source in DANGER else PER_SOURCE


EVERYDAY = frozenset(
    {
        "awesome_chatgpt_prompts", "bfcl_tools_benign", "cyberseceval_instruct_benign",
        "dolly_subset", "gpteacher_benign", "gsm8k_test", "humaneval", "mtbench_vicuna",
        "p3_t0_benign", "qa_benign", "slabs_injection",
    }
)  # fmt: skip
"""Sets of ordinary requests and answers; look-alikes of harm are measured apart."""
INSTRUCTIONS = EVERYDAY - {
    "awesome_chatgpt_prompts", "bfcl_tools_benign", "cyberseceval_instruct_benign", "p3_t0_benign",
}  # fmt: skip
"""Of these, what people ask in their own words: no personas, tool schemas or task formats."""
DANGER = ("jailbreakbench", "tdc2023", "dangerousqa", "ailuminate_demo")
"""Plainly dangerous prompts; of the last other rows were trained on."""
ALIKE = "wildguardtest_benign"
"""Harmless prompts that look harmful, kept from training altogether."""


def everyday(row: Row) -> bool:
    """Whether a row stands for everyday traffic."""
    return row.source in EVERYDAY and row.labels.get("harm") == 0.0


def figures(scores: Floats, labels: Floats) -> dict[str, float]:
    """Return AUPRC, best F1 and recall at 1 % of false positives, with the counts."""
    return {
        "rows": len(labels),
        "positive": int(labels.sum()),
        "auprc": round(auprc(scores, labels), 3),
        "f1": round(best_f1(scores, labels), 3) if labels.any() else float("nan"),
        "recall_at_1pct_fpr": round(recall_at(scores, labels, 0.01), 3),
    }


def known(rows: Sequence[Row], column: str) -> tuple[np.ndarray, Floats]:
    """Return which rows know ``column`` surely enough, and their 0/1 labels."""
    ok, labels, _ = mix(rows, column, 0.5)
    return np.flatnonzero(ok), labels


def report(rows: list[Row], files: Path, work: Path) -> None:
    """Measure the four files in ``files``; write the report into ``work``."""
    sketch = Sketch((files / "sketch.npz").read_bytes())
    names = ("encoder.onnx", "encoder.tokenizer.json", "encoder.npz")
    model, tokenizer, combination = ((files / name).read_bytes() for name in names)
    encoder = Encoder(model, tokenizer, combination, sketch)
    held = with_answers(sample(rows, "test"))
    quick = sketch_scores(sketch, held)
    logits = encoder_logits(encoder, held)
    full = encoder_scores(encoder, held, logits)
    np.savez_compressed(work / "test_scores.npz", quick=quick, full=full, logits=logits)
    out: dict[str, Any] = {"categories": list(CATEGORIES)}
    stages = np.array([stage_of(row) is Stage.OUTPUT for row in held])
    calm = np.array([everyday(row) for row in held])
    for stage, name in ((False, "prompt"), (True, "output")):
        here = np.flatnonzero(stages == stage)
        picked = [held[i] for i in here]
        out[name] = {
            "categories": _by_category(picked, quick[here], full[here]),
            "sources": _grouped(picked, quick[here], full[here], lambda row: row.source),
            "languages": _grouped(picked, quick[here], full[here], lambda row: row.lang),
            "reliability": _reliability(picked, full[here]),
            "thresholds": _thresholds(full[here][calm[here]], quick[here][calm[here]]),
            "skip": _skip(picked, quick[here], full[here], calm[here]),
        }
    out["plain"] = plain(held, quick, full)
    (work / "report.json").write_text(json.dumps(out, indent=1), encoding="utf-8")
    (work / "report.md").write_text(_markdown(out), encoding="utf-8")
    print(f"written: {work / 'report.md'}")


def plain(rows: Sequence[Row], quick: Floats, full: Floats) -> dict[str, Any]:
    """``harm`` of dangerous prompts and of look-alikes, where 1 % of instructions are flagged."""
    out: dict[str, Any] = {}
    prompts = np.array([row.response is None for row in rows])
    sources = np.array([row.source for row in rows])
    calm = prompts & np.array([row.source in INSTRUCTIONS and everyday(row) for row in rows])
    if not calm.any():
        return out
    for tier, scores in (("encoder", full[:, 0]), ("sketch", quick[:, 0])):
        bar = threshold_at(scores[calm], np.zeros(int(calm.sum()), np.float32), 0.01)
        entry: dict[str, Any] = {"instructions": int(calm.sum()), "threshold": round(bar, 4)}
        danger = prompts & np.isin(sources, DANGER)
        groups = {"all dangerous": danger}
        groups |= {name: prompts & (sources == name) for name in (*DANGER, ALIKE)}
        for name, at in groups.items():
            if at.any():
                shares = [round(float((scores[at] >= to).mean()), 3) for to in (bar, 0.5)]
                entry[name] = {
                    "rows": int(at.sum()),
                    "above": shares[0],
                    "interval": _interval(scores[calm], scores[at]),
                    "above_half": shares[1],
                }
        out[tier] = entry
    return out


def _interval(calm: Floats, others: Floats, seed: int = 0) -> list[float]:
    """Return the 95 % bootstrap interval of the share of ``others`` above 1 % of ``calm``.

    Both are drawn anew each time: what 1 % of the instructions reach is uncertain too.
    """
    rng = np.random.default_rng(seed)
    zeros = np.zeros(len(calm), np.float32)
    shares = []
    for _ in range(RESAMPLED):
        bar = threshold_at(rng.choice(calm, len(calm)), zeros, 0.01)
        shares.append(float((rng.choice(others, len(others)) >= bar).mean()))
    return [round(float(share), 3) for share in np.quantile(shares, (0.025, 0.975))]


def _by_category(rows: Sequence[Row], quick: Floats, full: Floats) -> dict[str, Any]:
    out = {}
    for c, name in enumerate(CATEGORIES):
        index, labels = known(rows, name)
        if labels.sum() >= 5:
            out[name] = {
                "sketch": figures(quick[index, c], labels),
                "encoder": figures(full[index, c], labels),
            }
    return out


def _grouped(
    rows: Sequence[Row], quick: Floats, full: Floats, key: Callable[[Row], str]
) -> dict[str, Any]:
    """Figures of ``harm`` per group; mean scores where a group has one label only."""
    index, labels = known(rows, "harm")
    out = {}
    groups = np.array([key(rows[i]) for i in index])
    for group in sorted(set(groups.tolist())):
        at = groups == group
        y = labels[at]
        both = 0 < y.sum() < len(y)
        entry: dict[str, Any] = {"rows": len(y), "positive": int(y.sum())}
        for name, scores in (("sketch", quick), ("encoder", full)):
            s = scores[index[at], 0]
            entry[name] = (
                figures(s, y) if both else {"above_half": round(float((s > 0.5).mean()), 3)}
            )
        out[group] = entry
    return out


def _reliability(rows: Sequence[Row], full: Floats) -> dict[str, Any]:
    out = {}
    for c, name in enumerate(CATEGORIES[:2]):
        ok, labels, weights = mix(rows, name, SHARE.get(name, DEFAULT_SHARE))
        bins = reliability(full[ok, c], labels, weights)
        error = sum(share * abs(mean - rate) for mean, rate, share in bins)
        out[name] = {"bins": [[round(v, 4) for v in b] for b in bins], "error": round(error, 4)}
    return out


def _thresholds(full: Floats, quick: Floats) -> dict[str, Any]:
    """Thresholds at which so much of everyday traffic is flagged, per category."""
    zeros = np.zeros(len(full), np.float32)
    out: dict[str, Any] = {"rows": len(full)}
    for c, name in enumerate(CATEGORIES):
        out[name] = {
            tier: [round(threshold_at(scores[:, c], zeros, rate), 4) for rate in RATES]
            for tier, scores in (("encoder", full), ("sketch", quick))
        }
    return out


def _skip(rows: Sequence[Row], quick: Floats, full: Floats, calm: np.ndarray) -> dict[str, Any]:
    """The sketch's score under which a text is surely harmless, per category.

    Kept: of the texts that the encoder alone catches at 1 % of everyday traffic, the share that
    the sketch hands on. Runs: the share of everyday traffic that it hands on.
    """
    out: dict[str, Any] = {}
    open_ = np.zeros(int(calm.sum()), bool)
    for c, name in enumerate(CATEGORIES):
        index, labels = known(rows, name)
        english = np.array([rows[i].lang == "en" for i in index])
        index, labels = index[english], labels[english]
        if labels.sum() < 10 or not calm.any():
            continue
        bar = threshold_at(full[calm, c], np.zeros(int(calm.sum()), np.float32), 0.01)
        caught = index[(labels > 0.5) & (full[index, c] >= bar)]
        if len(caught) < 10:
            continue
        at = float(np.sort(quick[caught, c])[int(np.floor((1 - KEPT) * len(caught)))])
        out[name] = {
            "threshold": round(at, 4),
            "caught_alone": len(caught),
            "kept": round(float((quick[caught, c] >= at).mean()), 4),
            "runs_on_everyday": round(float((quick[calm, c] >= at).mean()), 4),
        }
        if name in ("harm", "inj"):
            open_ |= quick[calm, c] >= at
    out["runs_on_everyday_harm_or_inj"] = round(float(open_.mean()), 4) if len(open_) else None
    return out


def _markdown(out: dict[str, Any]) -> str:
    lines = _plain_lines(out.get("plain", {}))
    for stage in ("prompt", "output"):
        lines += [f"### {stage}: categories", "", _HEAD, _RULE]
        for name, tiers in out[stage]["categories"].items():
            lines.append(_line(name, tiers["encoder"], tiers["sketch"]))
        lines += ["", f"### {stage}: `harm` by source", "", _HEAD, _RULE]
        lines += [_line(n, e["encoder"], e["sketch"], e) for n, e in out[stage]["sources"].items()]
        lines += ["", f"### {stage}: `harm` by language", "", _HEAD, _RULE]
        lines += [
            _line(n, e["encoder"], e["sketch"], e) for n, e in out[stage]["languages"].items()
        ]
        lines += [
            "",
            f"### {stage}: reliability of `harm`",
            "",
            "| score | positive | share |",
            "|-|-|-|",
        ]
        bins = out[stage]["reliability"]["harm"]["bins"]
        lines += [f"| {a:.2f} | {b:.2f} | {c:.3f} |" for a, b, c in bins]
        lines += [
            "",
            f"Expected calibration error {out[stage]['reliability']['harm']['error']}.",
            "",
        ]
    return "\n".join(lines)


def _plain_lines(plain: dict[str, Any]) -> list[str]:
    if not plain:
        return []
    one, two = plain["encoder"], plain["sketch"]
    lines = [
        "### Dangerous prompts and look-alikes",
        "",
        f"1 % of {one['instructions']} everyday instructions score {one['threshold']} or more with "
        f"the encoder, {two['threshold']} with the sketch. Shares of other prompts above that, and "
        "above 0.5 (in brackets 95 % bootstrap intervals, instructions drawn anew too):",
        "",
        "| | rows | encoder | | above 0.5 | sketch | above 0.5 |",
        "|-|-|-|-|-|-|-|",
    ]
    for name in ("all dangerous", *DANGER, ALIKE):
        if name in one:
            a, b = one[name], two[name]
            low, high = a["interval"]
            lines.append(
                f"| {name} | {a['rows']} | {a['above']} | [{low}, {high}] | {a['above_half']} | "
                f"{b['above']} | {b['above_half']} |"
            )
    return [*lines, ""]


_HEAD = "| | rows | positive | AUPRC | F1 | recall at 1 % | sketch AUPRC | sketch recall at 1 % |"
_RULE = "|-|-|-|-|-|-|-|-|"


def _line(
    name: str, full: dict[str, Any], quick: dict[str, Any], entry: dict[str, Any] | None = None
) -> str:
    if "auprc" in full:
        return (
            f"| {name} | {full['rows']} | {full['positive']} | {full['auprc']} | {full['f1']} | "
            f"{full['recall_at_1pct_fpr']} | {quick['auprc']} | {quick['recall_at_1pct_fpr']} |"
        )
    assert entry is not None
    a, b = (f"{tier['above_half']} above 0.5" for tier in (full, quick))
    return f"| {name} | {entry['rows']} | {entry['positive']} | {a} | | | {b} | |"
