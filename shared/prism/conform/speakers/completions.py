"""OpenAI's completions. A card's content is all that they can carry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prism.conform.cards import Card, Say
from prism.conform.speakers.speaker import CREATED, MODEL, Json, count, event, interleaved, used

_FRAME = {"id": "cmpl-card", "object": "text_completion", "created": CREATED, "model": MODEL}


def whole(card: Card, body: Json) -> Json:
    """Return the answer in one piece."""
    rows = [
        _row(index, say.text, "stop", _logprobs(say, range(len(say.content)), body))
        for index, say in enumerate(interleaved(card, count(body)))
    ]
    out = used(card)
    usage = {"prompt_tokens": 7, "completion_tokens": out, "total_tokens": 7 + out}
    return {**_FRAME, "choices": rows, "usage": usage}


def stream(card: Card, body: Json) -> Iterator[bytes]:
    """Yield the answer's events, the choices piece by piece in turn."""
    says = interleaved(card, count(body))
    longest = max(len(say.content) for say in says)
    for step in range(longest):
        for index, say in enumerate(says):
            if step < len(say.content):
                last = card.joined_end and step == len(say.content) - 1
                logprobs = _logprobs(say, range(step, step + 1), body)
                row = _row(index, say.content[step], "stop" if last else None, logprobs)
                yield event({**_FRAME, "choices": [row]})
    if not card.joined_end:
        for index in range(len(says)):
            yield event({**_FRAME, "choices": [_row(index, "", "stop", None)]})
    yield b"data: [DONE]\n\n"


def _row(index: int, text: str, reason: str | None, logprobs: Any) -> Json:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _logprobs(say: Say, positions: range, body: Json) -> Json | None:
    if not body.get("logprobs"):
        return None
    tokens = [say.content[at] for at in positions]
    top = []
    for at in positions:
        row = {say.content[at]: -0.1}
        if at < len(say.alternatives):
            row[say.alternatives[at]] = -2.5
        top.append(row)
    offsets = [sum(map(len, say.content[:at])) for at in positions]
    values = [-0.1] * len(tokens)
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": top, "text_offset": offsets}
