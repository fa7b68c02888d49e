"""What vLLM 0.32 and llama-server send on ``/v1/messages``, event by event."""

from __future__ import annotations

import json
from typing import Any

Block = tuple[str, Any]
"""A kind and its pieces; a tool's are its id, its name and pieces of JSON."""

SIGNATURE = "0f" * 16


def named(body: dict[str, Any]) -> bytes:
    """One event with its name."""
    return f"event: {body['type']}\ndata: {json.dumps(body)}\n\n".encode()


def vllm(blocks: list[Block], reason: str = "end_turn", sequence: str | None = None) -> list[bytes]:
    """vLLM: each block ends before the next begins, a signature behind the thinking."""
    out = [_start({"input_tokens": 7, "output_tokens": 0})]
    for index, (kind, pieces) in enumerate(blocks):
        out += _begin(index, kind, pieces, {"input": {}})
        out += _pieces(index, kind, pieces)
        if kind == "thinking":
            out.append(_delta(index, {"type": "signature_delta", "signature": SIGNATURE}))
        out.append(named({"type": "content_block_stop", "index": index}))
    usage = {"input_tokens": 7, "output_tokens": 5}
    return out + _end(reason, sequence, usage)


def llama(
    blocks: list[Block], reason: str = "end_turn", sequence: str | None = None
) -> list[bytes]:
    """llama-server: every block ends at the end."""
    out = [_start({"cache_read_input_tokens": 2, "input_tokens": 5, "output_tokens": 0})]
    ends = []
    for index, (kind, pieces) in enumerate(blocks):
        out += _begin(index, kind, pieces, {})
        out += _pieces(index, kind, pieces)
        if kind == "thinking":
            ends.append(_delta(index, {"type": "signature_delta", "signature": ""}))
        ends.append(named({"type": "content_block_stop", "index": index}))
    return out + ends + _end(reason, sequence, {"output_tokens": 5})


def whole(blocks: list[dict[str, Any]], reason: str = "end_turn", **more: Any) -> dict[str, Any]:
    """An answer in one piece."""
    usage = {"input_tokens": 7, "output_tokens": 5}
    return {**_message(), "content": blocks, "stop_reason": reason, "usage": usage, **more}


def _message() -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": "small",
        "stop_reason": None,
        "stop_sequence": None,
    }


def _start(usage: dict[str, int]) -> bytes:
    return named({"type": "message_start", "message": {**_message(), "usage": usage}})


def _begin(index: int, kind: str, pieces: list[str], empty: dict[str, Any]) -> list[bytes]:
    head: dict[str, Any] = {"type": kind, kind: ""}
    if kind == "tool_use":
        head = {"type": kind, "id": pieces[0], "name": pieces[1], **empty}
    return [named({"type": "content_block_start", "index": index, "content_block": head})]


def _pieces(index: int, kind: str, pieces: list[str]) -> list[bytes]:
    if kind == "tool_use":
        rows = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces[2:]]
    else:
        rows = [{"type": f"{kind}_delta", kind: piece} for piece in pieces]
    return [_delta(index, row) for row in rows]


def _delta(index: int, delta: dict[str, Any]) -> bytes:
    return named({"type": "content_block_delta", "index": index, "delta": delta})


def _end(reason: str, sequence: str | None, usage: dict[str, int]) -> list[bytes]:
    delta = {"stop_reason": reason, "stop_sequence": sequence}
    return [
        named({"type": "message_delta", "delta": delta, "usage": usage}),
        named({"type": "message_stop"}),
    ]
