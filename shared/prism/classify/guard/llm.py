"""``LlmGuard``: a format and a back end put together, batched, cached, and held to a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from prism.classify.guard.cache import KeyedCache
from prism.classify.guard.types import (
    Ask,
    Backend,
    Completion,
    Format,
    GuardError,
    GuardInput,
    GuardScores,
    GuardTimeout,
    GuardUnreachable,
    GuardUnreadable,
    Steps,
    Talk,
    Verdict,
)
from prism.classify.guard.windows import talks


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """Bounds of one guard. ``window`` is in characters, ``deadline`` in seconds per ``judge``."""

    deadline: float = 2.0
    cache: int = 10_000
    window: int = 6_000


@dataclass(slots=True)
class _Job:
    """One judgement under way."""

    key: bytes
    steps: Steps[Verdict]
    asks: Sequence[Ask] = ()


class LlmGuard:
    """A guard model behind its own prompt format. Thread-safe.

    ``judge`` asks all questions of all items round by round: as many at once as the back end
    takes. The same conversation is asked once, within a call and for as long as the cache holds it.
    """

    def __init__(
        self, form: Format, backend: Backend, limits: GuardLimits | None = None, *, name: str = ""
    ) -> None:
        self._form, self._backend = form, backend
        self._limits = limits or GuardLimits()
        self._name = name or form.name
        self._cache: KeyedCache[Verdict] = KeyedCache(self._limits.cache)
        self._counting = threading.Lock()
        self._hits = self._misses = 0

    @property
    def name(self) -> str:
        """The format's name, or what it was given."""
        return self._name

    @property
    def categories(self) -> tuple[str, ...]:
        """Category keys that it may score; ``"harm"`` is one of them."""
        return self._form.categories

    @property
    def takes_rules(self) -> bool:
        """Whether plain-language rules can be put to it."""
        return self._form.takes_rules

    @property
    def hits(self) -> int:
        """Judgements that came from the cache."""
        return self._hits

    @property
    def misses(self) -> int:
        """Judgements that the model was asked for."""
        return self._misses

    def judge(self, items: Sequence[GuardInput]) -> list[GuardScores]:
        """Return one judgement per item. Raises ``GuardError`` (``GuardTimeout`` at the deadline).

        What was settled before an error stays in the cache. Raises ``ValueError`` for an item with
        nothing to judge.
        """
        until = time.monotonic() + self._limits.deadline
        jobs: dict[bytes, _Job] = {}
        plans = [self._plan(item, jobs) for item in items]
        known: dict[bytes, Verdict] = {}
        for key in jobs:
            if (found := self._cache.get(key)) is not None:
                known[key] = found
        missing = [job for key, job in jobs.items() if key not in known]
        with self._counting:
            self._hits += len(known)
            self._misses += len(missing)
        known |= self._run(missing, until)
        return [_gather(plan, known) for plan in plans]

    def close(self) -> None:
        """Let go of the back end."""
        self._backend.close()

    def _plan(self, item: GuardInput, jobs: dict[bytes, _Job]) -> dict[str, list[bytes]]:
        """Return the judgements that ``item`` needs: by rule id, ``""`` for the model's own."""
        if item.rules and not self._form.takes_rules:
            raise GuardError(f"{self._form.name} can't judge plain-language rules")
        shown = talks(item, self._limits.window)
        plan: dict[str, list[bytes]] = {"": [self._job(talk, None, jobs) for talk in shown]}
        for rule, text in item.rules:
            plan[rule] = [self._job(talk, text, jobs) for talk in shown]
        return plan

    def _job(self, talk: Talk, rule: str | None, jobs: dict[bytes, _Job]) -> bytes:
        said = [part for turn in talk.turns for part in turn]
        key = self._cache.key(["scores"] if rule is None else ["rule", rule])
        key = self._cache.key([key.hex(), *said])
        if key not in jobs:
            steps = self._form.scores(talk) if rule is None else self._rule(talk, rule)
            jobs[key] = _Job(key, steps)
        return key

    def _rule(self, talk: Talk, rule: str) -> Steps[Verdict]:
        score = yield from self._form.rule(talk, rule)
        return Verdict({"": score})

    def _run(self, jobs: list[_Job], until: float) -> dict[bytes, Verdict]:
        done: dict[bytes, Verdict] = {}
        answers: list[Sequence[Completion] | None] = [None] * len(jobs)
        while jobs:
            going: list[_Job] = []
            for job, sent in zip(jobs, answers, strict=True):
                try:
                    job.asks = next(job.steps) if sent is None else job.steps.send(sent)
                except StopIteration as stop:
                    done[job.key] = stop.value
                    self._cache.put(job.key, stop.value)
                else:
                    going.append(job)
            jobs = going
            answers = list(self._round(jobs, until))
        return done

    def _round(self, jobs: list[_Job], until: float) -> Iterable[Sequence[Completion]]:
        asks = [ask for job in jobs for ask in job.asks]
        if asks and time.monotonic() >= until:
            raise GuardTimeout(f"the guard did not answer within {self._limits.deadline:g} s")
        try:
            completions = self._backend.complete(asks, until) if asks else []
        except GuardError:
            raise
        except Exception as error:  # whatever it is, it is no judgement
            raise GuardUnreachable(f"the guard failed: {type(error).__name__}") from error
        if len(completions) != len(asks):
            raise GuardUnreadable(f"{len(asks)} questions, {len(completions)} answers")
        at = 0
        for job in jobs:
            yield completions[at : at + len(job.asks)]
            at += len(job.asks)


def _gather(plan: dict[str, list[bytes]], known: dict[bytes, Verdict]) -> GuardScores:
    """Return the worst of all windows; a refusal is one only if it goes on to the end."""
    own = [known[key] for key in plan[""]]
    scores: dict[str, float] = {}
    for verdict in own:
        for key, score in verdict.scores.items():
            scores[key] = max(scores.get(key, 0.0), score)
    rules = {
        rule: max(known[key].scores[""] for key in keys) for rule, keys in plan.items() if rule
    }
    refusals = [verdict.refusal for verdict in own if verdict.refusal is not None]
    refusal = min(refusals) if refusals else None
    return GuardScores(MappingProxyType(scores), MappingProxyType(rules), refusal)
