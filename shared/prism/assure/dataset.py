"""Labelled texts, and what a policy or a file of results says of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prism.assure.batch import BATCH, Judge, Row, RowError, name
from prism.assure.scan import ScanError, numbered, opened

HARM = "harm"
_TIMED = 200  # texts that are timed one by one


class EvalError(ScanError):
    """What was given can't be measured; ``str()`` says why and what to do."""


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled row. ``unsafe`` is the truth; ``categories`` are the source's own words."""

    row: Row
    unsafe: bool
    source: str
    categories: tuple[str, ...] = ()
    lang: str | None = None


@dataclass(slots=True)
class Dataset:
    """All labelled rows of some files, and how many had no label or were bad."""

    examples: list[Example] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    unlabelled: int = 0
    bad: int = 0

    @classmethod
    def read_all(cls, paths: Sequence[str]) -> Dataset:
        """Return what is in the files. Raises ``ScanError``, and ``EvalError`` if nothing is."""
        dataset = cls()
        for path in paths:
            dataset.read(path)
        if not dataset.examples:
            raise EvalError("no row has a label: `label` must be 1 (unsafe) or 0 (safe)")
        return dataset

    def read(self, path: str) -> None:
        """Add the rows of a file of JSON lines, gzipped or not. Raises ``ScanError``."""
        source = Path(path).name.removesuffix(".gz").removesuffix(".jsonl")
        self.files.append(path)
        with opened(path) as stream:
            for line, raw in numbered(stream):
                try:
                    row = Row.parse(line, raw)
                except RowError:
                    self.bad += 1
                    continue
                data = json.loads(raw)
                label = data.get("label")
                if label is None:
                    self.unlabelled += 1
                elif label not in (0, 1):
                    self.bad += 1
                else:
                    lang = data.get("lang")
                    lang = None if lang is None else str(lang)
                    self.examples.append(
                        Example(row, bool(label), source, _words(data.get("category")), lang)
                    )


def _words(category: Any) -> tuple[str, ...]:
    if category is None:
        return ()
    return tuple(map(str, category if isinstance(category, list) else [category]))


@dataclass(slots=True)
class Answers:
    """What a system says of the examples, in their order; ``None``: it says nothing."""

    name: str
    scores: list[float | None] = field(default_factory=list)
    actions: list[str | None] = field(default_factory=list)
    tiers: dict[str, int] = field(default_factory=dict)  # the last tier that ran -> texts
    milliseconds: list[float] = field(default_factory=list)  # of single texts, a sample
    seconds: float | None = None  # processor time of all texts together

    def add(self, result: dict[str, Any], key: str) -> None:
        """Take one result of a scan; ``key`` says which score counts."""
        value: Any = (
            result.get("score") if key == HARM else (result.get("categories") or {}).get(key)
        )
        told = isinstance(value, int | float) and not isinstance(value, bool)
        self.scores.append(value if told else None)
        action = result.get("action")
        self.actions.append(action if isinstance(action, str) else None)
        if isinstance(states := result.get("tiers"), dict):
            ran = [tier.split(".")[-1] for tier, state in states.items() if state == "ran"]
            last = next((t for t in ("guard", "encoder", "sketch", "patterns") if t in ran), None)
            if last:
                self.tiers[last] = self.tiers.get(last, 0) + 1


def ask(
    judge: Judge, called: str, examples: Sequence[Example], key: str, done: Callable[[int], None]
) -> Answers:
    """Judge all examples; call ``done`` with how many that were, now and then."""
    answers = Answers(called)
    rows = [example.row for example in examples]
    step = max(1, len(rows) // _TIMED)
    for row in rows[:3]:
        list(judge.judge([row]))  # the first calls load and compile
    for row in rows[::step][:_TIMED]:
        start = time.perf_counter()
        list(judge.judge([row]))
        answers.milliseconds.append((time.perf_counter() - start) * 1000)
    start = time.process_time()
    for at in range(0, len(rows), BATCH):
        part = rows[at : at + BATCH]
        for result in judge.judge(part):
            answers.add(result, key)
        done(len(part))
    answers.seconds = time.process_time() - start
    return answers


def read_results(path: str, examples: Sequence[Example], key: str) -> Answers:
    """Return what a file of ``prism scan``'s results says of the examples.

    Results are found by id, or line. Raises ``EvalError`` where none is one of theirs.
    """
    found: dict[str, dict[str, Any]] = {}
    with opened(path) as stream:
        for line, raw in numbered(stream):
            try:
                result = json.loads(raw)
                called = {k: result[k] for k in ("id", "line") if k in result}
            except (ValueError, TypeError):
                raise EvalError(f"{path}:{line} is not a result of a scan") from None
            if "error" not in result:
                found[json.dumps(called)] = result
    answers = Answers(os.path.relpath(path))
    keys = [json.dumps(name(e.row.line, e.row.id)) for e in examples]
    if len(set(keys)) < len(keys):
        raise EvalError("ids must be different to be compared with results: give one data file")
    if not found.keys() & set(keys):
        raise EvalError(f"{path} has no result of these rows: scan the data file itself")
    for each in keys:
        answers.add(found.get(each, {}), key)
    return answers


def with_scores(examples: Sequence[Example], systems: Iterable[Answers]) -> list[int]:
    """Return which examples every system has a score of."""
    all_scores = [system.scores for system in systems]
    return [i for i in range(len(examples)) if all(s[i] is not None for s in all_scores)]
