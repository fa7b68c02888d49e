"""Score models that read their scores off the text: ``[s7]`` for the sketch, ``[e9:inj]`` …

``[s7]`` makes the sketch say 0.7 of ``harm``, ``[e3:prv]`` the encoder 0.3 of ``prv``; a text
without a mark scores 0.01. The sketch is incremental, the encoder sees what it is shown only.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from prism.classify import features
from prism.classify.guard.types import GuardInput, GuardScores
from prism.classify.models import ModelLimits, Models
from prism.classify.sketch import Sketch
from prism.types import Stage

if TYPE_CHECKING:
    from prism.classify.models import FloatArray

CATEGORIES = ("harm", "inj", "prv", "hte")
QUIET = 0.01


def marks(letter: str, text: str, names: Sequence[str] = CATEGORIES) -> list[float]:
    found = dict.fromkeys(names, QUIET)
    for digit, _, category in re.findall(rf"\[{letter}(\d)(:(\w+))?\]", text):
        key = category or "harm"
        if key in found:
            found[key] = max(found[key], int(digit) / 10)
    return list(found.values())


class FakeSketchStream:
    def __init__(self, sketch: FakeSketch) -> None:
        self._sketch, self._text = sketch, ""

    def feed(self, text: str) -> None:
        if self._sketch.fault and self._sketch.fault in self._text + text:
            raise RuntimeError("the sketch is torn")
        self._text += text
        self._sketch.read += len(text)

    def scores(self) -> FloatArray:
        self._sketch.asked += 1
        return np.array(marks("s", self._text, self._sketch.categories), np.float32)


class FakeSketch:
    """``fault``: a text at which it raises."""

    def __init__(self, categories: Sequence[str] = CATEGORIES, fault: str = "") -> None:
        self.categories = tuple(categories)
        self.fault = fault
        self.read = self.asked = 0

    def start(self, stage: Stage) -> FakeSketchStream:
        return FakeSketchStream(self)


class FakeEncoder:
    """``during`` is called in every call: to wait, or to raise."""

    def __init__(
        self,
        categories: Sequence[str] = CATEGORIES,
        during: Callable[[], object] = lambda: None,
    ) -> None:
        self.categories = tuple(categories)
        self._during = during
        self.seen: list[str] = []
        self.given: list[str | None] = []
        self.threads: set[str] = set()

    def prompts(self, texts: Sequence[str]) -> FloatArray:
        return self.responses([(None, text) for text in texts])

    def responses(self, pairs: Sequence[tuple[str | None, str]]) -> FloatArray:
        self.threads.add(threading.current_thread().name)
        self._during()
        self.seen += [text for _, text in pairs]
        self.given += [prompt for prompt, _ in pairs]
        rows = [marks("e", text, self.categories) for _, text in pairs]
        return np.array(rows, np.float32)


class FakeGuard:
    """Says ``[g8]`` of a text's harm, and of a rule in plain language 0.9 if its text is there."""

    name = "fake"
    takes_rules = True

    def __init__(self, during: Callable[[], object] = lambda: None) -> None:
        self._during = during
        self.items: list[GuardInput] = []

    def judge(self, items: Sequence[GuardInput]) -> list[GuardScores]:
        self._during()
        self.items += items
        judged = []
        for item in items:
            text = item.messages[-1][1] if item.response is None else item.response
            scores = dict(zip(("harm",), marks("g", text, ("harm",)), strict=True))
            rules = {key: 0.9 if said.lower() in text.lower() else 0.1 for key, said in item.rules}
            judged.append(GuardScores(scores, rules))
        return judged


def models(
    *,
    sketch: FakeSketch | None = None,
    encoder: FakeEncoder | None = None,
    guard: FakeGuard | None = None,
    limits: ModelLimits | None = None,
    guard_deadline: float = 2.0,
) -> Models:
    """Return models that take nothing from the package's data."""
    return Models(
        sketch=sketch or FakeSketch(),
        encoder=encoder or FakeEncoder(),
        open_guard=None if guard is None else lambda: guard,
        guard_deadline=guard_deadline,
        limits=limits,
    )


def canary_sketch(canary: str, *, harm: float = 0.999) -> Sketch:
    """Return a real sketch that has learnt one thing: two words in a row are harm, in outputs.

    A text that holds them once among 200 characters scores over ``harm``, one without them 0.
    """
    turned = " ".join(reversed(canary.split()))
    embeddings = np.zeros((1 << features.BITS, 2), np.int8)
    embeddings[np.setdiff1d(features.buckets_of(canary), features.buckets_of(turned)), 0] = 100
    heads = np.zeros((2, 2, 2), np.float32)
    heads[1, 0, 0] = (np.log(harm / (1 - harm)) + 20) / 5
    biases = np.full((2, 2), -20.0, np.float32)
    buffer = io.BytesIO()
    names = np.frombuffer(b"harm inj", np.uint8)
    np.savez(buffer, embeddings=embeddings, heads=heads, biases=biases, categories=names)
    return Sketch(buffer.getvalue())
