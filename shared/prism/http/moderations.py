"""``/v1/moderations``, answered by PRISM itself on every server that runs it.

Each input is judged as a prompt, under the policy of whoever asks. The shape is OpenAI's, so that
its clients work as they are; how its categories follow from the project's own is written in
``policies/taxonomy.yaml``. A field ``prism`` says what was really run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from prism.decide import BUILT_IN
from prism.http import prompts
from prism.http.errors import BadRequest
from prism.http.family import Call, Json, Reading
from prism.policy.compiled import CompiledPolicy
from prism.session import Session
from prism.taxonomy import taxonomy
from prism.types import Action, Decision, Mode, Stage, TierState

MAX_INPUTS = 1024
"""Most inputs of one request; each is judged, and answered, by itself."""

_FRAMEWORK = "openai_moderation"
_COST = 256  # characters' worth of work in beginning an input


@dataclass(frozen=True, slots=True)
class Input:
    """One input: messages that hold the same text in the ways that it may be put together."""

    messages: list[dict[str, str]]
    unread: tuple[str, ...] = ()


def read(body: Json, reading: Reading) -> tuple[Call, list[Input]]:
    """Check the request and take its inputs out. Raises :class:`~prism.http.errors.HttpError`."""
    prompts.refuse_unsafe(body, reading.engine)
    inputs = _inputs(body.get("input"))
    messages = [message for one in inputs for message in one.messages]
    prompts.check_length(messages, reading.max_prompt_chars)
    unread = sorted({kind for one in inputs for kind in one.unread})
    model = prompts.text(body, "model")  # chooses nothing: the policy is the operator's
    return Call(body, messages, False, 0, model, unread=tuple(unread)), inputs


def weight(call: Call, inputs: list[Input]) -> int:
    """Return how much work judging is, in characters: many short inputs are not a small one."""
    return call.chars + _COST * len(inputs)


def answer(inputs: list[Input], sessions: list[Session]) -> Json:
    """Judge every input in a session of its own and return the whole answer."""
    policy = sessions[0].policy
    decisions = [
        session.check_prompt(one.messages) for one, session in zip(inputs, sessions, strict=True)
    ]
    return {
        "id": sessions[0].id,
        "model": f"prism:{policy.id}",
        "results": [
            _result(one, decision, policy) for one, decision in zip(inputs, decisions, strict=True)
        ],
        "prism": {"policy": policy.digest, "tenant": sessions[0].tenant, "stage": "prompt"},
    }


def _inputs(value: Any) -> list[Input]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value:
        raise BadRequest(
            "input must be a string, a list of strings or a list of content parts",
            param="input",
            code="invalid_type",
        )
    if len(value) > MAX_INPUTS:
        raise BadRequest(
            f"input holds more than {MAX_INPUTS} items", param="input", code="out_of_range"
        )
    if all(isinstance(item, str) for item in value):
        return [Input([{"role": "user", "content": item}]) for item in value]
    if not all(isinstance(item, dict) for item in value):
        raise BadRequest(
            "input mixes strings and content parts", param="input", code="invalid_type"
        )
    found = prompts.Messages()
    found.add({"role": "user", "content": value}, "input")
    return [Input(found.flat, tuple(sorted(found.unread)))]


def _result(one: Input, decision: Decision, policy: CompiledPolicy) -> Json:
    found = [
        finding
        for finding in decision.findings
        if finding.enforced and finding.action > Action.ALLOW and finding.rule not in BUILT_IN
    ]
    fired = {finding.category for finding in found}
    # A pattern that matched is as sure as can be; models, where they run, tell how sure they are.
    matched = {finding.category for finding in found if finding.score is None}
    judged = _judged(policy) | set(decision.scores) if _ran(decision.tiers) else frozenset()

    def score(category: str) -> float:
        return decision.scores.get(category, 0.0)

    flags = {name: bool(sources & fired) for name, sources in _names().items()}
    return {
        # A tier that failed blocks a prompt without a category; that is not "nothing found".
        "flagged": bool(fired) or decision.blocked,
        "categories": flags,
        "category_scores": {
            name: 1.0 if sources & matched else max(map(score, sources), default=0.0)
            for name, sources in _names().items()
        },
        "category_applied_input_types": {
            name: ["text"] if sources & judged else [] for name, sources in _names().items()
        },
        "prism": {
            "action": str(decision.action),
            "would": str(decision.would),
            "categories": sorted(fired),
            "tiers": {name: TierState(state).value for name, state in decision.tiers.items()},
            "languages": dict(decision.languages),
            "unread": list(one.unread),
        },
    }


def _ran(tiers: Mapping[str, TierState]) -> bool:
    return any(state is TierState.RAN for state in tiers.values())


def _judged(policy: CompiledPolicy) -> frozenset[str]:
    """Return the categories that the policy has anything to find with in a prompt."""
    return frozenset(
        rule.category
        for rule in policy.rules_for(Stage.PROMPT)
        if rule.mode is Mode.ENFORCE
        and (rule.phrases or rule.regexes or rule.pii or Stage.PROMPT in (rule.thresholds or {}))
    )


@cache
def _names() -> Mapping[str, frozenset[str]]:
    """Return every category of the answer, each with those of ours that it follows from."""
    names: dict[str, frozenset[str]] = {}
    known = taxonomy()
    for heading in known.frameworks[_FRAMEWORK].headings:
        # That text is hateful does not say that it threatens: a narrower heading is never guessed.
        told = heading.relation in ("exact", "broader")
        names[heading.heading] = frozenset(heading.categories if told else ())
    return names | {key: frozenset({key}) for key in known.categories}
