"""The score tiers in order of price: sketch, encoder, guard; each asked only where it is needed.

Every tier's scores are calibrated probabilities of the same things, so a dearer tier's score takes
the place of a cheaper one's, and a threshold of a policy means the same whichever tier answered. A
tier is skipped (``settled_by_cheaper_tier``) only where what the cheaper one said can't matter: the
sketch says of every category that some rule compares that it is surely harmless.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from prism.classify import languages, operating
from prism.classify.deadline import Busy
from prism.classify.guard.types import GuardInput
from prism.classify.models import Models, SketchStreamLike
from prism.policy.compiled import CompiledPolicy
from prism.taxonomy import HARM
from prism.types import Action, Mode, Stage, TierState

if TYPE_CHECKING:
    from prism.classify.models import FloatArray

SKETCH, ENCODER, GUARD = TIERS = ("sketch", "encoder", "guard")
INJECTION = "inj"
SEGMENT = 1_024
"""Code points that the sketch reads before it begins afresh: a long text must not thin harm out."""

OVERLAP = 256
"""Code points of the last segment that the next one begins with."""

MOST_SEGMENTS = 16
"""Segments of one prompt that dearer tiers read: those that the sketch finds worst."""

_log = logging.getLogger("prism")
_ORDER = {TierState.NOT_RUN: 0, TierState.SETTLED: 1, TierState.RAN: 2, TierState.FAILED: 3}


@dataclass(frozen=True, slots=True)
class Asked:
    """What an output answers: the conversation, and of it the user's last turn."""

    messages: tuple[tuple[str, str], ...] = ()
    last: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What the tiers said of one text: by category, by plain-language rule, and which ran.

    ``language`` is what ``prism.classify.languages`` makes of it.
    """

    scores: Mapping[str, float] = field(default_factory=dict)
    rules: Mapping[str, float] = field(default_factory=dict)
    tiers: Mapping[str, TierState] = field(default_factory=dict)
    language: str | None = None

    def worst(self, other: Reading) -> Reading:
        """Return the higher of both, score by score; of a tier's states the one that says most."""
        return Reading(
            highest(self.scores, other.scores),
            highest(self.rules, other.rules),
            joined(self.tiers, other.tiers),
            languages.foremost(lang for lang in (self.language, other.language) if lang),
        )


def highest(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Return the higher score of each key."""
    return {key: max(one.get(key, 0.0), other.get(key, 0.0)) for key in {**one, **other}}


def joined(one: Mapping[str, TierState], other: Mapping[str, TierState]) -> dict[str, TierState]:
    """Return the state of each tier over two texts: failed over ran over settled over not run."""
    both = [*one.items(), *other.items()]
    result: dict[str, TierState] = {}
    for tier, state in both:
        known = result.get(tier)
        if known is None or _ORDER[state] > _ORDER[known]:
            result[tier] = state
    return result


def _named(categories: Sequence[str], scores: FloatArray) -> dict[str, float]:
    """Return scores by category; float32 carries no more digits than these."""
    return {key: round(s, 6) for key, s in zip(categories, scores.tolist(), strict=True)}


def segments(text: str) -> list[str]:
    """Return the pieces of ``text`` that the sketch reads each by itself, overlapping."""
    starts = range(0, max(1, len(text)), SEGMENT)
    return [text[max(0, start - OVERLAP) : start + SEGMENT] for start in starts]


class Cascade:
    """The tiers of one policy at one stage. Immutable and thread-safe."""

    def __init__(self, policy: CompiledPolicy, stage: Stage, models: Models) -> None:
        self._models = models
        self.stage = stage
        on = [tier for tier in TIERS if policy.tiers.get(tier) == "on"]
        self.tiers = tuple(on)
        self._sketch = models.sketch if SKETCH in on else None
        self._encoder = models.encoder if ENCODER in on else None
        self._guard = GUARD in on
        rules = [rule for rule in policy.rules_for(stage) if stage in (rule.thresholds or {})]
        self._thresholds: dict[str, float] = {}  # lowest of each category
        self._stops: list[tuple[str, float]] = []
        self._rule_stops: list[tuple[str, float]] = []
        least_stop = Action.BLOCK if stage is Stage.PROMPT else Action.REDACT
        for rule in rules:
            threshold = (rule.thresholds or {})[stage]
            # Where there is no place to redact, and no sampler to steer, the text is held back.
            stops = rule.mode is Mode.ENFORCE and rule.action >= least_stop
            if rule.plain_language is not None:
                self._rule_stops += [(rule.id, threshold)] * stops
                continue
            least = min(threshold, self._thresholds.get(rule.category, 1.0))
            self._thresholds[rule.category] = least
            self._stops += [(rule.category, threshold)] * stops
        self.plain = tuple(
            (rule.id, rule.plain_language)
            for rule in rules
            if rule.plain_language is not None and self._guard
        )
        self.stops_languages = policy.unknown_language == "block" and policy.mode is Mode.ENFORCE
        """Whether a text in an unknown language may not pass."""
        self.watches_languages = policy.unknown_language != "allow"
        self._compared = tuple(self._thresholds) or (HARM,)
        self.closes = policy.on_tier_failure == "close" and policy.mode is Mode.ENFORCE
        self.holds = bool(self._stops or self._rule_stops or self.stops_languages)
        """Whether a score can end an output: if not, nothing is ever held back for one."""
        names = self._sketch.categories if self._sketch is not None else ()
        self._bounds = self._bounds_for(names)

    @property
    def active(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.tiers) or self.watches_languages

    @property
    def may_wait(self) -> bool:
        """Whether judging may wait for a model: the sketch never waits."""
        return self._encoder is not None or self._guard

    def _bounds_for(self, names: Sequence[str]) -> FloatArray:
        """Return from which score on each of the sketch's categories is not surely harmless.

        A category that the sketch doesn't know is part of ``harm``, so that one is held to it.
        """
        compared = {**self._thresholds}
        harm = compared.pop(HARM, 1.0)
        wanted = {key for key in compared if key in names}
        if self.stage is Stage.PROMPT and INJECTION in names:
            wanted.add(INJECTION)
        for key in compared.keys() - wanted:
            harm = min(harm, compared[key])
        bounds = {
            key: min(operating.skip(self.stage, key), compared.get(key, 1.0)) for key in wanted
        }
        bounds[HARM] = min(operating.skip(self.stage, HARM), harm)
        return np.array([bounds.get(name, np.inf) for name in names], np.float32)

    def begin(self) -> SketchStreamLike | None:
        """Return a sketch's stream at the start of a text; ``None`` where the sketch is off."""
        return self._sketch.start(self.stage) if self._sketch is not None else None

    def harmless(self, scores: FloatArray) -> bool:
        """Return whether the sketch's ``scores`` settle the text."""
        return not bool((scores >= self._bounds).any())

    def stops(self, reading: Reading) -> bool:
        """Return whether an output with these scores may not go on."""
        if self.closes and TierState.FAILED in reading.tiers.values():
            return True
        if self.stops_languages and not languages.supported(reading.language):
            return True
        scores, rules = reading.scores, reading.rules
        return any(scores.get(key, -1.0) >= least for key, least in self._stops) or any(
            rules.get(key, -1.0) >= least for key, least in self._rule_stops
        )

    def prompt(
        self, texts: Sequence[str], asked: Asked, *, blocked: Callable[[], bool] = lambda: False
    ) -> Reading:
        """Judge the texts of one prompt (see ``prism.conversation.readings``); the worst counts.

        ``blocked`` tells whether a cheaper tier has already refused it. Raises ``Busy``.
        """
        parts = list(dict.fromkeys(part for text in texts for part in segments(text) if part))
        if not parts or not self.active:
            return Reading(tiers=dict.fromkeys(self.tiers, TierState.NOT_RUN))
        language = languages.foremost(map(languages.detect, texts))
        whole, rest, unsure = self._sketched(parts)
        reading = self._encoded(whole, rest, [(None, part) for part in unsure])
        reading = replace(reading, language=language)
        return self._guarded(reading, asked, None, blocked)

    def output(
        self, sketched: Reading, asked: Asked, window: str, *, settled: bool, language: bool = True
    ) -> Reading:
        """Judge an output up to the end of ``window``, its last part, which the sketch has read.

        ``settled``: the sketch finds it surely harmless. ``language``: whether it is asked for.
        """
        pairs = [] if settled or not window else [(asked.last, window)]
        reading = self._encoded(sketched, None, pairs)
        if language or self.watches_languages:
            reading = replace(reading, language=languages.detect(window))
        return self._guarded(reading, asked, window)

    def named(self, scores: FloatArray) -> Reading:
        """Return the sketch's ``scores`` as a reading."""
        assert self._sketch is not None
        return Reading(_named(self._sketch.categories, scores), tiers={SKETCH: TierState.RAN})

    def failed(self, tier: str) -> Reading:
        """Return the reading of a tier that raised; call it where the exception is handled."""
        _log.exception("the %s tier failed at the %s stage", tier, self.stage.value)
        return Reading(tiers={tier: TierState.FAILED})

    def _sketched(self, parts: list[str]) -> tuple[Reading, Reading | None, list[str]]:
        """Return what the sketch says of all parts; of those it settles; and the other parts."""
        if self._sketch is None:
            return Reading(), None, parts[:MOST_SEGMENTS]
        try:
            rows = []
            for part in parts:
                stream = self._sketch.start(self.stage)
                stream.feed(part)
                rows.append(stream.scores())
        except Exception:
            return self.failed(SKETCH), None, parts[:MOST_SEGMENTS]
        if len(rows) == 1:
            whole = self.named(rows[0])
            return (whole, whole, []) if self.harmless(rows[0]) else (whole, None, parts)
        over = [float(np.max(row - self._bounds)) for row in rows]
        unsure = sorted((at for at, by in enumerate(over) if by >= 0), key=lambda at: -over[at])
        unsure = unsure[:MOST_SEGMENTS]
        # Of parts that nothing dearer reads, the sketch's word is the last.
        told = [row for at, row in enumerate(rows) if at not in unsure]
        rest = self.named(np.max(told, axis=0)) if told else None
        return self.named(np.max(rows, axis=0)), rest, [parts[at] for at in unsure]

    def _encoded(
        self, whole: Reading, rest: Reading | None, pairs: list[tuple[str | None, str]]
    ) -> Reading:
        """Return ``whole`` with the encoder's scores of ``pairs`` in place of the sketch's."""
        if self._encoder is None:
            return whole
        if not pairs:
            return replace(whole, tiers={**whole.tiers, ENCODER: TierState.SETTLED})
        try:
            if self.stage is Stage.PROMPT:
                rows = self._models.prompts([text for _, text in pairs])
            else:
                rows = self._models.responses(pairs)
            worst = np.max(rows, axis=0)
            scores = _named(self._encoder.categories, worst)
        except Busy:
            raise
        except Exception:
            return whole.worst(self.failed(ENCODER))
        if rest is not None:
            scores = highest(scores, rest.scores)
        tiers = {**whole.tiers, ENCODER: TierState.RAN}
        return Reading({**whole.scores, **scores}, whole.rules, tiers)

    def _guarded(
        self,
        reading: Reading,
        asked: Asked,
        response: str | None = None,
        blocked: Callable[[], bool] = lambda: False,
    ) -> Reading:
        """Return ``reading`` with the guard's word on what is open, and on rules in plain language.

        A category that the tiers before are sure of keeps their score: so what one rule makes the
        guard say never changes what another one compares.
        """
        if not self._guard:
            return reading
        settled = reading.tiers.get(ENCODER) is TierState.SETTLED
        wanted = not settled and any(self._open(reading, key) for key in self._compared)
        if blocked() or self.stops(reading) or not (self.plain or wanted):
            return replace(reading, tiers={**reading.tiers, GUARD: TierState.SETTLED})
        item = GuardInput(asked.messages, response, self.plain)
        try:
            said = self._models.judge(item)
        except Busy:
            raise
        except Exception:
            return reading.worst(self.failed(GUARD))
        scores = {key: score for key, score in said.scores.items() if self._open(reading, key)}
        return replace(
            reading,
            scores={**reading.scores, **scores},
            rules={**reading.rules, **said.rules},
            tiers={**reading.tiers, GUARD: TierState.RAN},
        )

    @staticmethod
    def _open(reading: Reading, category: str) -> bool:
        """Return whether the tiers before leave open which side of a threshold the text is on."""
        score = reading.scores.get(category)
        return score is None or operating.GUARD_FROM <= score < operating.GUARD_TO
