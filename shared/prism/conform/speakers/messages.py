"""Anthropic's messages: a block of thinking, of text, of a tool's use, one behind the other."""

from __future__ import annotations

from collections.abc import Iterator

from prism.conform.cards import Card, Say, arguments
from prism.conform.speakers.speaker import MODEL, Json, named, used


def whole(card: Card, body: Json) -> Json:
    """Return the answer in one piece."""
    say = card.choices[0]
    blocks: list[Json] = []
    if say.reasoning:
        blocks.append({"type": "thinking", "thinking": "".join(say.reasoning), "signature": ""})
    if say.content:
        blocks.append({"type": "text", "text": say.text})
    if say.tool is not None:
        blocks.append({"type": "tool_use", "id": "toolu_card", "name": say.tool.name,
                       "input": arguments(say.tool)})  # fmt: skip
    return {**_message(), "content": blocks, "stop_reason": _reason(say), "usage": _usage(card)}


def stream(card: Card, body: Json) -> Iterator[bytes]:
    """Yield the answer's events."""
    say = card.choices[0]
    usage = {"input_tokens": 7, "output_tokens": 0}
    yield named({"type": "message_start", "message": {**_message(), "usage": usage}})
    for index, (head, deltas) in enumerate(_blocks(say)):
        yield named({"type": "content_block_start", "index": index, "content_block": head})
        for delta in deltas:
            yield named({"type": "content_block_delta", "index": index, "delta": delta})
        yield named({"type": "content_block_stop", "index": index})
    end = {"stop_reason": _reason(say), "stop_sequence": None}
    yield named({"type": "message_delta", "delta": end, "usage": _usage(card)})
    yield named({"type": "message_stop"})


def _blocks(say: Say) -> Iterator[tuple[Json, list[Json]]]:
    if say.reasoning:
        head: Json = {"type": "thinking", "thinking": "", "signature": ""}
        yield head, [{"type": "thinking_delta", "thinking": piece} for piece in say.reasoning]
    if say.content:
        head = {"type": "text", "text": ""}
        yield head, [{"type": "text_delta", "text": piece} for piece in say.content]
    if say.tool is not None:
        head = {"type": "tool_use", "id": "toolu_card", "name": say.tool.name, "input": {}}
        rows = [{"type": "input_json_delta", "partial_json": p} for p in say.tool.arguments]
        yield head, rows


def _message() -> Json:
    return {"id": "msg_card", "type": "message", "role": "assistant", "model": MODEL,
            "content": [], "stop_reason": None, "stop_sequence": None}  # fmt: skip


def _reason(say: Say) -> str:
    return "tool_use" if say.tool is not None else "end_turn"


def _usage(card: Card) -> Json:
    return {"input_tokens": 7, "output_tokens": used(card)}
