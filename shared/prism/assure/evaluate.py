"""From examples and answers to figures: overall, per file, per category, per language."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from prism.assure.dataset import HARM, Answers, Dataset, EvalError, Example, with_scores
from prism.assure.measures import (
    FPR,
    Curve,
    calibration_error,
    difference,
    measured,
    reliability,
)

LEAST = 5
"""Texts that a file or language, unsafe ones that a category must have to get its own figures."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to measure."""

    key: str = HARM  # which score
    threshold: float = 0.5  # of f1, precision, recall and fpr
    bootstrap: int = 1000
    seed: int = 0


def evaluate(dataset: Dataset, systems: Sequence[Answers], options: Options) -> dict[str, Any]:
    """Return the figures of one system, or of two with their difference, as plain data.

    Raises ``EvalError`` where no text has both a label and a score.
    """
    chosen = with_scores(dataset.examples, systems)
    if not chosen:
        raise EvalError(
            f"no row has a score {options.key!r}: is a score model on in the policy (`tiers`)?"
        )
    examples = [dataset.examples[i] for i in chosen]
    labels = np.array([example.unsafe for example in examples])
    scores = [np.array([system.scores[i] for i in chosen], np.float64) for system in systems]
    groups = _groups(examples)
    return {
        "data": {
            "files": dataset.files,
            "rows": len(dataset.examples) + dataset.unlabelled + dataset.bad,
            "measured": len(chosen),
            "unsafe": int(labels.sum()),
            "unlabelled": dataset.unlabelled,
            "bad": dataset.bad,
            "without_score": len(dataset.examples) - len(chosen),
        },
        "options": {**asdict(options), "fpr": FPR},
        "systems": [
            _system(system, chosen, labels, values, groups, options)
            for system, values in zip(systems, scores, strict=True)
        ],
        "difference": _difference(labels, scores, groups, options) if len(systems) == 2 else None,
    }


def _groups(examples: Sequence[Example]) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """Return which rows belong to each file, category and language.

    Categories are usually given for unsafe rows alone, so each is measured against all safe rows.
    """
    unsafe = np.array([example.unsafe for example in examples])
    attributes: dict[str, Callable[[Example], tuple[str | None, ...]]] = {
        "file": lambda e: (e.source,),
        "category": lambda e: e.categories,
        "language": lambda e: (e.lang,),
    }
    result: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
    for kind, of in attributes.items():
        members: dict[str, list[int]] = {}
        for index, example in enumerate(examples):
            for value in of(example):
                if value:
                    members.setdefault(value, []).append(index)
        result[kind] = {}
        for value, indices in sorted(members.items()):
            inside = np.zeros(len(examples), bool)
            inside[indices] = True
            if kind == "category":
                if (inside & unsafe).sum() >= LEAST:
                    result[kind][value] = (inside & unsafe) | ~unsafe
            elif len(indices) >= LEAST:
                result[kind][value] = inside
    return result


def _measure(
    labels: np.ndarray[Any, Any], scores: np.ndarray[Any, Any], options: Options
) -> dict[str, Any]:
    curve = Curve(labels, scores, options.threshold)
    return {
        "unsafe": curve.positives,
        "safe": curve.negatives,
        **measured(curve, options.bootstrap, options.seed),
    }


def _system(
    system: Answers,
    chosen: list[int],
    labels: np.ndarray[Any, Any],
    scores: np.ndarray[Any, Any],
    groups: dict[str, dict[str, np.ndarray[Any, Any]]],
    options: Options,
) -> dict[str, Any]:
    bins = reliability(labels, np.clip(scores, 0, 1))
    times = sorted(system.milliseconds)
    return {
        "name": system.name,
        "overall": _measure(labels, scores, options),
        "groups": {
            kind: {
                value: _measure(labels[inside], scores[inside], options)
                for value, inside in members.items()
            }
            for kind, members in groups.items()
        },
        "actions": _actions([system.actions[i] for i in chosen], labels),
        "curve": Curve(labels, scores, options.threshold).points(),
        "reliability": [asdict(b) for b in bins],
        "calibration_error": calibration_error(bins),
        "tiers": dict(sorted(system.tiers.items())),
        "cost": {
            "cpu_ms_per_text": None
            if system.seconds is None
            else system.seconds * 1000 / max(1, len(system.scores)),
            "single_ms": {
                f"p{q}": float(np.percentile(times, q)) for q in (50, 90, 99)
            } if times else None,
            "single_ms_sample": times,
        },
    }  # fmt: skip


def _actions(actions: list[str | None], labels: np.ndarray[Any, Any]) -> dict[str, dict[str, int]]:
    """Return how often the policy did what, with unsafe and with safe texts."""
    result: dict[str, dict[str, int]] = {"unsafe": {}, "safe": {}}
    for action, unsafe in zip(actions, labels, strict=True):
        if action is not None:
            counts = result["unsafe" if unsafe else "safe"]
            counts[action] = counts.get(action, 0) + 1
    return result


def _difference(
    labels: np.ndarray[Any, Any],
    scores: list[np.ndarray[Any, Any]],
    groups: dict[str, dict[str, np.ndarray[Any, Any]]],
    options: Options,
) -> dict[str, Any]:
    def compare(inside: np.ndarray[Any, Any]) -> dict[str, Any]:
        first, second = (Curve(labels[inside], s[inside], options.threshold) for s in scores)
        return difference(first, second, options.bootstrap, options.seed)

    return {
        "overall": compare(np.ones(len(labels), bool)),
        "groups": {
            kind: {value: compare(inside) for value, inside in members.items()}
            for kind, members in groups.items()
        },
    }
