"""What a client gets beside the text: reasoning, other choices, probabilities (2, 4, 5)."""

from __future__ import annotations

from typing import Any

from prism.conform.apis import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Api
from prism.conform.check import Checks, Failed
from prism.conform.checks.common import untouched, withheld
from prism.conform.target import Target

CHECKS = Checks()
_SPELLED = "beside each other the alternatives spell the phrase"


def _place(kind: str, api: Api, stream: bool) -> tuple[str, str]:
    return (
        f"channels.{kind}.{api.name}.{'stream' if stream else 'whole'}",
        f"{api.path}{', streamed' if stream else ''}",
    )


def _reasoning(api: Api, stream: bool) -> None:
    name, how = _place("reasoning", api, stream)

    @CHECKS.add(name, 2, f"{how}: a blocked phrase in the reasoning")
    async def reasoning(target: Target) -> str:
        return withheld(target, await target.ask(api, "reasoning", stream=stream))


for _api in (CHAT, RESPONSES, MESSAGES):
    for _stream in (False, True):
        _reasoning(_api, _stream)


def _refusal(stream: bool) -> None:
    name, how = _place("refusal", CHAT, stream)

    @CHECKS.add(name, 2, f"{how}: a blocked phrase in the model's own refusal")
    async def refusal(target: Target) -> str:
        return withheld(target, await target.ask(CHAT, "refusal", stream=stream))


def _choices(api: Api, stream: bool) -> None:
    name, how = _place("choices", api, stream)

    @CHECKS.add(name, 2, f"{how}: n = 2, the second choice has the blocked phrase")
    async def choices(target: Target) -> str:
        return withheld(target, await target.ask(api, "choices", stream=stream, n=2))

    @CHECKS.add(f"{name}.other", (2, 10), f"{how}: n = 2, the harmless choice comes out")
    async def other(target: Target) -> str:
        return untouched(await target.ask(api, "choices", stream=stream, n=2))


def _logprobs(api: Api, stream: bool) -> None:
    name, how = _place("logprobs", api, stream)
    asked: dict[str, Any] = {"logprobs": 2}
    if api is CHAT:
        asked = {"logprobs": True, "top_logprobs": 2}

    @CHECKS.add(name, 2, f"{how}: log-probabilities don't tell a blocked phrase")
    async def logprobs(target: Target) -> str:
        answer = await target.ask(api, "split", stream=stream, **asked)
        evidence = withheld(target, answer)
        place = answer.hint()
        if place is not None and "logprobs" in place:
            raise Failed(f"tokens of the phrase came out, in {place}")
        return evidence

    @CHECKS.add(f"{name}.others", 2, f"{how}: alternatives to each token don't spell one")
    async def alternatives(target: Target) -> str:
        answer = await target.ask(api, "alternatives", stream=stream, **asked)
        if answer.leak() is not None:
            raise Failed(_SPELLED)
        return "they don't"


for _stream in (False, True):
    _refusal(_stream)
    for _api in (CHAT, COMPLETIONS):
        _choices(_api, _stream)
        _logprobs(_api, _stream)
