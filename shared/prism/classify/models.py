"""What a process has loaded: one sketch, one encoder and at most one guard, for all policies."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Protocol, TypeVar

from pydantic import Field

from prism.classify.deadline import ModelPool
from prism.documents import Model, Problem, ProblemsError
from prism.types import Stage

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    from prism.classify.guard.types import Guard, GuardInput, GuardScores
    from prism.policy.compiled import CompiledPolicy

    FloatArray = NDArray[float32]

GUARD_SLACK = 1.0
"""Seconds over its own deadline that a guard is waited for: time to say that it timed out."""

T = TypeVar("T")


class ModelsError(ProblemsError):
    """A policy needs a tier that this process can't load; see ``problems``."""


class SketchStreamLike(Protocol):
    """One text under a sketch; see ``prism.classify.sketch.SketchStream``."""

    def feed(self, text: str) -> None:
        """Read more of the text; any chunking gives the same scores."""
        ...

    def scores(self) -> FloatArray:
        """Return the probabilities of the text so far, float32 ``[categories]``."""
        ...


class SketchLike(Protocol):
    """What the cascade needs of a sketch: microseconds, incremental."""

    @property
    def categories(self) -> tuple[str, ...]:
        """Column order of the scores."""
        ...

    def start(self, stage: Stage) -> SketchStreamLike:
        """Begin a text."""
        ...


class EncoderLike(Protocol):
    """What the cascade needs of an encoder: milliseconds, thread-safe."""

    @property
    def categories(self) -> tuple[str, ...]:
        """Column order of the scores."""
        ...

    def prompts(self, texts: Sequence[str]) -> FloatArray:
        """Return the probabilities of prompts, float32 ``[n, categories]``."""
        ...

    def responses(self, pairs: Sequence[tuple[str | None, str]]) -> FloatArray:
        """Return those of responses, each given its prompt, float32 ``[n, categories]``."""
        ...


class ModelLimits(Model):
    """How models are run: ``models`` in the configuration file.

    ``workers`` threads, ``waiting`` calls that may wait for one, milliseconds until a call counts
    as failed.
    """

    workers: int = Field(default=2, ge=1, le=256, examples=["workers: 2"])
    waiting: int = Field(default=64, ge=0, le=10_000, examples=["waiting: 64"])
    deadline_ms: int = Field(default=2_000, ge=1, le=600_000, examples=["deadline_ms: 2000"])


class Models:
    """The models of a process, loaded when a policy first needs them. Thread-safe.

    What isn't given is the shipped one; there is no shipped guard. ``open_guard`` makes it when it
    is first needed, and ``guard_deadline`` is how long it gives itself, in seconds. Encoder and
    guard have threads of their own each: a slow guard must not keep the encoder from its work.
    """

    def __init__(
        self,
        *,
        sketch: SketchLike | None = None,
        encoder: EncoderLike | None = None,
        open_guard: Callable[[], Guard] | None = None,
        guard_deadline: float = 2.0,
        limits: ModelLimits | None = None,
    ) -> None:
        self.limits = limits or ModelLimits()
        self._sketch, self._encoder = sketch, encoder
        self._open_guard = open_guard
        self._guard: Guard | None = None
        self._guard_deadline = guard_deadline + GUARD_SLACK
        self._loading = threading.Lock()
        self._pool = ModelPool(self.limits.workers, self.limits.waiting, "prism-encoder")
        self._guards = ModelPool(self.limits.workers, self.limits.waiting, "prism-guard")

    @staticmethod
    def shared() -> Models:
        """Return the process's own models: the shipped ones, no guard."""
        return _shared()

    @property
    def sketch(self) -> SketchLike:
        """The sketch. Raises ``ModelsError``."""
        with self._loading:
            if self._sketch is None:
                self._sketch = _load("sketch", _shipped_sketch)
            return self._sketch

    @property
    def encoder(self) -> EncoderLike:
        """The encoder. Raises ``ModelsError``."""
        with self._loading:
            if self._encoder is None:
                self._encoder = _load("encoder", _shipped_encoder)
            return self._encoder

    @property
    def guard(self) -> Guard | None:
        """The guard, where one is configured. Raises ``ModelsError``."""
        with self._loading:
            if self._guard is None and self._open_guard is not None:
                self._guard = _load("guard", self._open_guard)
            return self._guard

    def require(self, policy: CompiledPolicy) -> None:
        """Load every tier that is on in ``policy``. Raises ``ModelsError`` with all that fail."""
        problems: list[Problem] = []
        for tier in ("sketch", "encoder", "guard"):
            if policy.tiers.get(tier) == "on":
                try:
                    getattr(self, tier)
                except ModelsError as error:
                    problems += [_of_policy(policy, tier, p) for p in error.problems]
                else:
                    problems += self._guard_problems(policy) if tier == "guard" else []
        if problems:
            raise ModelsError(problems)

    def _guard_problems(self, policy: CompiledPolicy) -> list[Problem]:
        if self._guard is None:
            return [no_guard(policy)]
        plain = _plain(policy)
        if plain and not getattr(self._guard, "takes_rules", True):
            message = f"the guard {self._guard.name!r} can't judge the plain-language rule "
            fix = "choose a guard that takes policies of one's own (docs/guards.md)"
            name = f"policy {policy.id!r}"
            return [Problem(name, 0, 0, "tiers.guard", message + repr(plain[0]), fix)]
        return []

    def prompts(self, texts: Sequence[str]) -> FloatArray:
        """Return the encoder's scores of prompts. Raises ``Busy``, ``DeadlineError``."""
        encoder = self.encoder
        return self._encode(lambda: encoder.prompts(texts), patient=False)

    def responses(self, pairs: Sequence[tuple[str | None, str]]) -> FloatArray:
        """Return the encoder's scores of responses; an answer that has begun waits for room."""
        encoder = self.encoder
        return self._encode(lambda: encoder.responses(pairs), patient=True)

    def judge(self, item: GuardInput) -> GuardScores:
        """Return the guard's judgement. Raises ``Busy``, ``DeadlineError`` and ``GuardError``."""
        guard = self.guard
        if guard is None:
            raise LookupError("no guard is set")
        patient = item.response is not None
        work = lambda: guard.judge([item])[0]  # noqa: E731
        return self._guards.run(work, self._guard_deadline, patient=patient)

    def _encode(self, work: Callable[[], T], *, patient: bool) -> T:
        return self._pool.run(work, self.limits.deadline_ms / 1000, patient=patient)


def no_guard(policy: CompiledPolicy) -> Problem:
    """Return the problem of a policy that needs a guard where none is configured."""
    plain = _plain(policy)
    why = f" (rule {plain[0]!r} is in plain language)" if plain else ""
    message = f"needs a guard model, and none is set{why}"
    fix = "name one under `guard:` in prism.yaml, or write `tiers: {guard: off}`"
    return Problem(f"policy {policy.id!r}", 0, 0, "tiers.guard", message, fix)


def _plain(policy: CompiledPolicy) -> list[str]:
    return [rule.id for rule in policy.rules if rule.plain_language is not None]


def _of_policy(policy: CompiledPolicy, tier: str, problem: Problem) -> Problem:
    mend = "see docs/guards.md" if tier == "guard" else "reinstall the package"
    fix = f"{mend}, or write `tiers: {{{tier}: off}}`"
    return Problem(f"policy {policy.id!r}", 0, 0, f"tiers.{tier}", problem.message, fix)


def _load(tier: str, load: Callable[[], T]) -> T:
    try:
        return load()
    except Exception as error:  # whatever keeps it from loading, nothing starts without it
        message = f"the {tier} can't be loaded: {type(error).__name__}: {error}"
        raise ModelsError([Problem(tier, 0, 0, "", message, "reinstall the package")]) from error


def _shipped_sketch() -> SketchLike:
    from prism.classify.sketch import Sketch

    return Sketch.shipped()


def _shipped_encoder() -> EncoderLike:
    from prism.classify.encoder import Encoder  # takes onnxruntime along

    return Encoder.shipped()


@cache
def _shared() -> Models:
    return Models(limits=ModelLimits(workers=max(2, min(8, (os.cpu_count() or 2) // 2))))
