"""One text, one check, timed, in a peer's own environment: the peer's own call and nothing else.

    python checks.py NAME

The first line read is ``{"phrases": [...], "texts": [...]}``; every line after it ``[text, times]``
and is answered with ``[wall, cpu, hit]``: seconds for all of the times, and whether the peer found
something. Knows no other module of this project, but for the project's own arms.
"""

# mypy: disable-error-code="import-not-found,import-untyped"
from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

Check = Callable[[str], bool]


def main() -> None:
    """Answer until standard input ends."""
    # Whatever the peer prints must not get among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    given = json.loads(sys.stdin.readline())
    check = MAKERS[sys.argv[1]](given["phrases"])
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        number, times = json.loads(line)
        text = given["texts"][number]
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(times):
            hit = check(text)
        taken = [time.perf_counter() - wall, time.process_time() - cpu]
        print(json.dumps([*taken, hit]), file=answers, flush=True)


def prism(phrases: Sequence[str]) -> Check:
    """This project with the phrases: every disguise seen through, a whole verdict each time."""
    return _moderated(phrases, {})


def prism_plain(phrases: Sequence[str]) -> Check:
    """The same without seeing through disguises, which is what the peers do."""
    return _moderated(phrases, {}, disguises=frozenset())


def prism_models(phrases: Sequence[str]) -> Check:
    """The same, and the score models as the default policy has them."""
    return _moderated(phrases, {"sketch": "on", "encoder": "on"})


def prism_sketch(phrases: Sequence[str]) -> Check:
    """The sketch alone, without phrases."""
    from prism.classify.sketch import Sketch
    from prism.types import Stage

    sketch = Sketch.shipped()
    return lambda text: bool(sketch.score(text, Stage.PROMPT).max() > 2)


def _moderated(phrases: Sequence[str], tiers: dict[str, str], **more: Any) -> Check:
    from dataclasses import replace

    from prism.moderator import Moderator
    from prism.policy import load_policy
    from prism.policy.compiled import CompiledRule
    from prism.types import Action, Mode, Stage

    policy = load_policy("default")
    rule = CompiledRule(
        "house", "prv", frozenset(Stage), Action.BLOCK, Mode.ENFORCE, tuple(phrases), **more
    )
    scored = tuple(r for r in policy.rules if r.thresholds) if tiers else ()
    moderator = Moderator(replace(policy, rules=(rule, *scored), tiers=tiers, digest="bench"))
    return lambda text: moderator.check_prompt(text).blocked


def litellm(phrases: Sequence[str]) -> Check:
    """LiteLLM's content filter, as its proxy calls it."""
    from fastapi import HTTPException
    from litellm.proxy.guardrails.guardrail_hooks.litellm_content_filter.content_filter import (
        ContentFilterGuardrail,
    )
    from litellm.types.guardrails import BlockedWord, ContentFilterAction

    words = [BlockedWord(keyword=p, action=ContentFilterAction.BLOCK) for p in phrases]
    guard = ContentFilterGuardrail(guardrail_name="house", blocked_words=words)
    loop = asyncio.new_event_loop()

    def check(text: str) -> bool:
        call = guard.apply_guardrail(
            inputs={"texts": [text]}, request_data={}, input_type="request"
        )
        try:
            loop.run_until_complete(call)
        except HTTPException:
            return True
        return False

    return check


def openai_guardrails(phrases: Sequence[str]) -> Check:
    """OpenAI Guardrails' keyword filter, run as its clients run their guardrails."""
    from guardrails import GuardrailTripwireTriggered
    from guardrails.context import GuardrailsContext
    from guardrails.runtime import (
        instantiate_guardrails,
        load_pipeline_bundles,
        run_guardrails,
    )
    from openai import AsyncOpenAI

    words = {"name": "Keyword Filter", "config": {"keywords": list(phrases)}}
    stage = {"version": 1, "guardrails": [words]}
    bundles = load_pipeline_bundles({"version": 1, "input": stage})
    made = instantiate_guardrails(bundles.input)
    context = GuardrailsContext(guardrail_llm=AsyncOpenAI(api_key="unused"))
    loop = asyncio.new_event_loop()

    def check(text: str) -> bool:
        call = run_guardrails(context, text, "text/plain", made)
        try:
            results = loop.run_until_complete(call)
        except GuardrailTripwireTriggered:
            return True
        return any(result.tripwire_triggered for result in results)

    return check


def guardrails_ai(phrases: Sequence[str]) -> Check:
    """Guardrails AI's ``Guard.validate`` with a validator as its documentation shows them."""
    from guardrails import Guard
    from guardrails.validators import FailResult, PassResult, Validator, register_validator

    words = _alternatives(phrases)

    @register_validator(name="house/words", data_type="string")
    class Words(Validator):  # type: ignore[misc]
        def validate(self, value: Any, metadata: dict[str, Any]) -> Any:
            if words.search(value):
                return FailResult(error_message="blocked")
            return PassResult()

    guard = Guard().use(Words(on_fail="noop"))
    return lambda text: not guard.validate(text).validation_passed


def nemoguardrails(phrases: Sequence[str]) -> Check:
    """NeMo Guardrails' regex rail on the input, no model asked."""
    from nemoguardrails import LLMRails, RailsConfig

    config = {
        "models": [],
        "rails": {
            "config": {
                "regex_detection": {
                    "input": {"patterns": [_spaced(p) for p in phrases], "case_insensitive": True}
                }
            },
            "input": {"flows": ["regex check input"]},
        },
    }
    rails = LLMRails(RailsConfig.from_content(config=config))
    loop = asyncio.new_event_loop()

    def check(text: str) -> bool:
        asked = [{"role": "user", "content": text}]
        call = rails.generate_async(messages=asked, options={"rails": ["input"]})
        answer = loop.run_until_complete(call)
        return bool(answer.response[0]["content"] != text)

    return check


def presidio(phrases: Sequence[str]) -> Check:
    """Presidio's analyser with one deny list and without a language model."""
    from presidio_analyzer import AnalyzerEngine, PatternRecognizer, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NoOpNlpEngine

    registry = RecognizerRegistry()
    registry.add_recognizer(PatternRecognizer(supported_entity="HOUSE", deny_list=list(phrases)))
    engine = NoOpNlpEngine([{"lang_code": "en", "model_name": "none"}])
    analyser = AnalyzerEngine(registry=registry, nlp_engine=engine)
    return lambda text: bool(analyser.analyze(text, language="en", entities=["HOUSE"]))


def presidio_recogniser(phrases: Sequence[str]) -> Check:
    """Its recogniser by itself: one regular expression."""
    from presidio_analyzer import PatternRecognizer

    recogniser = PatternRecognizer(supported_entity="HOUSE", deny_list=list(phrases))
    return lambda text: bool(recogniser.analyze(text, ["HOUSE"]))


def alt_profanity_check(phrases: Sequence[str]) -> Check:
    """alt-profanity-check's model, which knows no phrases."""
    from profanity_check import predict_prob

    return lambda text: bool(predict_prob([text])[0] > 2)


def _spaced(phrase: str) -> str:
    return r"\b" + r"\s+".join(map(re.escape, phrase.split())) + r"\b"


def _alternatives(phrases: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(_spaced, phrases)), re.IGNORECASE)


MAKERS: dict[str, Callable[[Sequence[str]], Check]] = {
    "prism": prism,
    "prism, no disguises": prism_plain,
    "prism, every tier": prism_models,
    "prism, sketch": prism_sketch,
    "litellm": litellm,
    "openai-guardrails": openai_guardrails,
    "guardrails-ai": guardrails_ai,
    "nemoguardrails": nemoguardrails,
    "presidio": presidio,
    "presidio, recogniser": presidio_recogniser,
    "alt-profanity-check": alt_profanity_check,
}

if __name__ == "__main__":
    main()
