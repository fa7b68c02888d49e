"""OpenAI Guardrails' own client, its keyword check on input and output, behind the shim.

Every request's body goes to the client as it is, and every object that it gives goes out as it is.
When its tripwire exception is raised, the answer ends in an error, as its documentation asks for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from guardrails import (  # type: ignore[import-not-found]  # in the peer's environment only
    GuardrailsAsyncOpenAI,
    GuardrailTripwireTriggered,
)
from shim import UPSTREAM, Answer, Blocked, Json, application

_WORDS = {"name": "Keyword Filter", "config": {"keywords": ["gibbous teapot", "marzipan gasket"]}}
_STAGE = {"version": 1, "guardrails": [_WORDS]}
_CONFIG = {"version": 1, "input": _STAGE, "output": _STAGE}

client = GuardrailsAsyncOpenAI(config=_CONFIG, base_url=UPSTREAM, api_key="unused", max_retries=0)


async def chat(body: Json) -> Answer:
    """Answer a chat."""
    return await _call(client.chat.completions.create, body)


async def responses(body: Json) -> Answer:
    """Answer a request for a response."""
    return await _call(client.responses.create, body)


async def _call(create: Any, body: Json) -> Answer:
    try:
        answer = await create(**body)
    except GuardrailTripwireTriggered:
        raise Blocked from None
    if body.get("stream"):
        return _rows(answer)
    return dict(answer.model_dump(mode="json"))


async def _rows(answer: Any) -> AsyncIterator[Json]:
    try:
        async for row in answer:
            yield row.model_dump(mode="json")
    except GuardrailTripwireTriggered:
        raise Blocked from None


app = application({"/v1/chat/completions": chat, "/v1/responses": responses})
