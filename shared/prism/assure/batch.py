"""Many texts under one policy: each judged as a server judges it, the encoder called in batches.

Every row goes through the façade, so that nothing here can decide differently. The first time
round, the encoder's stand-in writes down what it is asked and answers "harmless"; then the real one
reads all of that at once; and the rows that asked are judged again, with its answers at hand. Most
texts never ask.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prism.classify.models import EncoderLike, ModelLimits, Models
from prism.conversation import prompt_text
from prism.moderator import Moderator
from prism.session import PATTERNS
from prism.taxonomy import HARM
from prism.types import Action, Decision, Mode, TierState

if TYPE_CHECKING:
    from prism.classify.models import FloatArray
    from prism.policy.compiled import CompiledPolicy

INJECTION = "inj"
BATCH = 256
"""Rows that are judged together."""
_ENCODED = 32  # texts that the encoder reads in one call
_PATIENCE_MS = 600_000  # nobody waits for an answer here: a slow machine is no failure

Pair = tuple[str | None, str]


class RowError(ValueError):
    """A row that can't be judged, and why."""

    def __init__(self, message: str, row_id: Any = None) -> None:
        super().__init__(message)
        self.row_id = row_id


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a data set. ``id`` is ``None`` where the line has none."""

    line: int
    id: Any
    prompt: Any = None
    response: str | None = None

    @classmethod
    def parse(cls, line: int, raw: bytes) -> Row:
        """Read a line of JSON. Raises ``RowError``."""
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise RowError(f"not JSON: {error}") from None
        if not isinstance(data, dict):
            raise RowError('not an object with "prompt" or "response"')
        row_id = data.get("id")
        try:
            json.dumps(row_id, allow_nan=False)
        except ValueError:
            raise RowError('"id" has a number in it that JSON has no word for') from None
        prompt, response = data.get("prompt"), data.get("response")
        if prompt is None and response is None:
            raise RowError('neither "prompt" nor "response"', row_id)
        if response is not None and not isinstance(response, str):
            raise RowError('"response" is not a text', row_id)
        messages = isinstance(prompt, list) and all(isinstance(m, dict) for m in prompt)
        if prompt is not None and not isinstance(prompt, str) and not messages:
            raise RowError('"prompt" is neither a text nor a list of messages', row_id)
        try:
            f"{prompt_text(prompt or '')}{response}".encode()
        except UnicodeEncodeError:
            raise RowError("a text has half of a surrogate pair in it", row_id) from None
        except TypeError as error:
            raise RowError(str(error), row_id) from None
        return cls(line, row_id, prompt, response)


def name(line: int, row_id: Any) -> dict[str, Any]:
    """Return how a row is called in the results: by its id, else by its line."""
    return {"line": line} if row_id is None else {"id": row_id}


@dataclass(slots=True)
class _Deferred:
    """Stands in for the encoder: answers from memory, or writes down what it was asked."""

    real: EncoderLike
    deferring: bool = False
    asked: bool = False  # since this was last set to False, something that isn't known
    _prompts: dict[Pair, FloatArray | None] = field(default_factory=dict)
    _responses: dict[Pair, FloatArray | None] = field(default_factory=dict)

    @property
    def categories(self) -> tuple[str, ...]:
        return self.real.categories

    def prompts(self, texts: Sequence[str]) -> FloatArray:
        return self._look(self._prompts, [(None, text) for text in texts], self._real_prompts)

    def responses(self, pairs: Sequence[Pair]) -> FloatArray:
        return self._look(self._responses, list(pairs), self.real.responses)

    def _real_prompts(self, pairs: Sequence[Pair]) -> FloatArray:
        return self.real.prompts([text for _, text in pairs])

    def _look(
        self,
        known: dict[Pair, FloatArray | None],
        keys: list[Pair],
        encode: Callable[[Sequence[Pair]], FloatArray],
    ) -> FloatArray:
        missing = [key for key in keys if known.get(key) is None]
        if missing and self.deferring:
            self.asked = True
            known.update(dict.fromkeys(missing))
            return np.zeros((len(keys), len(self.categories)), np.float32)
        self._fill(known, missing, encode)
        return np.stack([row for key in keys if (row := known[key]) is not None])

    @staticmethod
    def _fill(
        known: dict[Pair, FloatArray | None],
        keys: list[Pair],
        encode: Callable[[Sequence[Pair]], FloatArray],
    ) -> None:
        # Of like length together: the shorter texts of a call cost what the longest does.
        ordered = sorted(dict.fromkeys(keys), key=lambda pair: len(pair[0] or "") + len(pair[1]))
        for at in range(0, len(ordered), _ENCODED):
            part = ordered[at : at + _ENCODED]
            known.update(zip(part, encode(part), strict=True))

    def answer(self) -> None:
        """Have the real encoder read everything that was written down."""
        for known, encode in (
            (self._prompts, self._real_prompts),
            (self._responses, self.real.responses),
        ):
            self._fill(known, [key for key, row in known.items() if row is None], encode)

    def forget(self) -> None:
        """Forget the texts and what was said of them."""
        self._prompts.clear()
        self._responses.clear()


class Judge:
    """Judges rows under one policy, with the shipped models unless others are given.

    Raises ``ModelsError`` where a tier can't be loaded.
    """

    def __init__(self, policy: CompiledPolicy, models: Models | None = None) -> None:
        own = models if models is not None else Models.shared()
        own.require(policy)
        self._deferred: _Deferred | None = None
        on = [tier for tier, state in policy.tiers.items() if state == "on"]
        if "encoder" in on and "guard" not in on:  # with a guard, that is what takes the time
            self._deferred = _Deferred(own.encoder)
            limits = ModelLimits(workers=1, deadline_ms=_PATIENCE_MS)
            own = Models(sketch=own.sketch, encoder=self._deferred, limits=limits)
        self._moderator = Moderator(policy, own)
        self._scorer = Moderator(_unstopped(policy), own)

    def judge(self, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
        """Yield a result for each row, in order."""
        deferred = self._deferred
        if deferred is None:
            yield from (self._judge(row) for row in rows)
            return
        results: list[dict[str, Any] | None] = []
        deferred.deferring = True
        for row in rows:
            deferred.asked = False
            result = self._judge(row)
            results.append(None if deferred.asked else result)
        deferred.deferring = False
        deferred.answer()
        for row, first in zip(rows, results, strict=True):
            yield self._judge(row) if first is None else first
        deferred.forget()

    def _judge(self, row: Row) -> dict[str, Any]:
        sides = []
        if row.prompt is not None:
            sides.append(self._moderator.check_prompt(row.prompt))
        text = row.prompt
        if row.response is not None:
            text = row.response
            side = self._moderator.check_output(text, row.prompt)
            sides.append(self._scored(side, text, row.prompt) if side.blocked else side)
        return {**name(row.line, row.id), **self._result(sides, empty=not prompt_text(text))}

    def _scored(self, stopped: Decision, response: str, prompt: Any) -> Decision:
        """Return a blocked response's decision with the scores of all of it.

        A server reads no further than where it stops the answer; a score tells of the whole.
        """
        whole = self._scorer.check_output(response, prompt)
        models = {tier: state for tier, state in whole.tiers.items() if not tier.endswith(PATTERNS)}
        return replace(stopped, scores=whole.scores, tiers={**stopped.tiers, **models})

    def _result(self, sides: list[Decision], *, empty: bool) -> dict[str, Any]:
        action = max(side.action for side in sides)
        last = sides[-1]  # the response if there is one, else the prompt
        scores = {key: score for key, score in last.scores.items() if key != HARM}
        injected = [side.scores[INJECTION] for side in sides if INJECTION in side.scores]
        if injected:
            scores[INJECTION] = max(injected)
        spans = [
            {
                "rule": f.rule, "category": f.category, "stage": f.stage.value,
                "action": str(f.action), "start": f.start, "end": f.end,
            }
            for side in sides for f in side.findings if f.start is not None
        ]  # fmt: skip
        # Of a text without a character no model is asked, and there is no harm in it.
        nothing = 0.0 if empty and self._moderator.scores else None
        tiers: Mapping[str, TierState] = {k: v for side in sides for k, v in side.tiers.items()}
        return {
            "decision": "block" if action is Action.BLOCK else "allow",
            "action": str(action),
            "score": last.scores.get(HARM, nothing),
            "categories": dict(sorted(scores.items())),
            "spans": spans,
            "tiers": {tier: state.value for tier, state in tiers.items()},
            "policy": last.policy,
        }


def _unstopped(policy: CompiledPolicy) -> CompiledPolicy:
    """Return a policy under which the same scores are asked for, and nothing ends a text early."""
    rules = tuple(
        replace(rule, mode=Mode.MONITOR, phrases=(), regexes=(), pii=())
        for rule in policy.rules
        if rule.thresholds and rule.plain_language is None
    )
    # Compiled matchers are kept by digest; this is no policy's.
    return replace(policy, digest=f"scores of {policy.digest}", mode=Mode.MONITOR, rules=rules)


def judge_lines(judge: Judge, lines: Sequence[tuple[int, bytes]]) -> list[dict[str, Any]]:
    """Return a result for each numbered line, in order; bad ones say what is wrong with them."""
    parsed: list[Row | dict[str, Any]] = []
    for line, raw in lines:
        try:
            parsed.append(Row.parse(line, raw))
        except RowError as error:
            parsed.append({**name(line, error.row_id), "error": str(error)})
    judged = judge.judge([row for row in parsed if isinstance(row, Row)])
    return [next(judged) if isinstance(row, Row) else row for row in parsed]


def open_judge(policy: str | None, config: str | None) -> tuple[Judge, str]:
    """Return the judge that a command's options ask for, and its policy's digest.

    Raises ``ProblemsError``.
    """
    from prism.config import Settings
    from prism.policy.compiler import load_policy
    from prism.policy.store import locate

    if policy is not None and config is None:
        compiled = load_policy(policy)
        models = Settings.from_env().models if os.environ.get("PRISM_CONFIG") else None
        return Judge(compiled, models), compiled.digest
    given = dict(os.environ)
    if config is not None:
        given["PRISM_CONFIG"] = str(Path(config).resolve())
    if policy is not None:
        given["PRISM_POLICY"] = str(locate(policy).resolve())
    settings = Settings.from_env(given)
    return Judge(settings.policy, settings.models), settings.policy.digest
