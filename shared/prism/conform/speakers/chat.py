"""OpenAI's chat completions, as vLLM and llama-server stream them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prism.conform.cards import Card, Say
from prism.conform.speakers.speaker import CREATED, MODEL, Json, count, event, interleaved, used

_FRAME = {"id": "chatcmpl-card", "created": CREATED, "model": MODEL}


def whole(card: Card, body: Json) -> Json:
    """Return the answer in one piece."""
    says = interleaved(card, count(body))
    return {
        **_FRAME,
        "object": "chat.completion",
        "choices": [_choice(index, say, body) for index, say in enumerate(says)],
        "usage": _usage(card),
    }


def stream(card: Card, body: Json) -> Iterator[bytes]:
    """Yield the answer's events, the choices piece by piece in turn."""
    says = interleaved(card, count(body))
    for index in range(len(says)):
        yield _chunk(index, {"role": "assistant", "content": ""})
    queues = [list(_deltas(say, body)) for say in says]
    for step in range(max(map(len, queues))):
        for index, queue in enumerate(queues):
            if step >= len(queue):
                continue
            delta, logprobs = queue[step]
            last = card.joined_end and step == len(queue) - 1
            yield _chunk(index, delta, _reason(says[index]) if last else None, logprobs)
    if not card.joined_end:
        for index, say in enumerate(says):
            yield _chunk(index, {}, _reason(say))
    options = body.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage"):
        yield event({**_FRAME, "object": "chat.completion.chunk", "choices": [],
                     "usage": _usage(card)})  # fmt: skip
    yield b"data: [DONE]\n\n"


def _choice(index: int, say: Say, body: Json) -> Json:
    message: Json = {"role": "assistant", "content": say.text or None}
    if say.reasoning:
        message["reasoning_content"] = "".join(say.reasoning)
    if say.refusal:
        message["refusal"] = "".join(say.refusal)
    if say.tool is not None:
        message["tool_calls"] = [_call(say.tool.name, "".join(say.tool.arguments))]
    logprobs = None
    if body.get("logprobs"):
        logprobs = {"content": [_entry(say, at, body) for at in range(len(say.content))]}
    return {"index": index, "message": message, "logprobs": logprobs,
            "finish_reason": _reason(say)}  # fmt: skip


def _deltas(say: Say, body: Json) -> Iterator[tuple[Json, Json | None]]:
    for piece in say.reasoning:
        yield {"reasoning_content": piece}, None
    for piece in say.refusal:
        yield {"refusal": piece}, None
    for at, piece in enumerate(say.content):
        logprobs = {"content": [_entry(say, at, body)]} if body.get("logprobs") else None
        yield {"content": piece}, logprobs
    if say.tool is not None:
        yield {"tool_calls": [{"index": 0, **_call(say.tool.name, "")}]}, None
        for piece in say.tool.arguments:
            yield {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}, None


def _call(name: str, arguments: str) -> Json:
    function = {"name": name, "arguments": arguments}
    return {"id": "call_card", "type": "function", "function": function}


def _entry(say: Say, at: int, body: Json) -> Json:
    entry = _token(say.content[at], -0.1)
    others = [_token(say.alternatives[at], -2.5)] if at < len(say.alternatives) else []
    top = [_token(say.content[at], -0.1), *others] if body.get("top_logprobs") else []
    return {**entry, "top_logprobs": top}


def _token(text: str, value: float) -> Json:
    return {"token": text, "logprob": value, "bytes": list(text.encode())}


def _chunk(index: int, delta: Json, reason: str | None = None, logprobs: Any = None) -> bytes:
    row = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
    return event({**_FRAME, "object": "chat.completion.chunk", "choices": [row]})


def _reason(say: Say) -> str:
    return "tool_calls" if say.tool is not None else "stop"


def _usage(card: Card) -> Json:
    out = used(card)
    return {"prompt_tokens": 7, "completion_tokens": out, "total_tokens": 7 + out}
