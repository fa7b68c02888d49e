"""OpenAI's Responses, which repeat every text: when a part ends, an item, and the whole."""

from __future__ import annotations

from collections.abc import Iterator

from prism.conform.cards import Card, Say
from prism.conform.speakers.speaker import CREATED, MODEL, Json, named, used


def whole(card: Card, body: Json) -> Json:
    """Return the answer in one piece."""
    say = card.choices[0]
    output = [_item(number, kind, pieces, say) for number, (kind, pieces) in enumerate(_kinds(say))]
    out = used(card)
    usage = {
        "input_tokens": 7, "output_tokens": out, "total_tokens": 7 + out,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": len(say.reasoning)},
    }  # fmt: skip
    return {**_frame(body), "status": "completed", "output": output, "usage": usage}


def stream(card: Card, body: Json) -> Iterator[bytes]:
    """Yield the answer's events, numbered."""
    for number, (kind, fields) in enumerate(_events(card, body)):
        yield named({"type": f"response.{kind}", "sequence_number": number, **fields})


def _events(card: Card, body: Json) -> Iterator[tuple[str, Json]]:
    say = card.choices[0]
    start = {**_frame(body), "status": "in_progress", "output": [], "usage": None}
    yield "created", {"response": start}
    yield "in_progress", {"response": start}
    for index, (kind, pieces) in enumerate(_kinds(say)):
        yield from _item_events(index, kind, pieces, say)
    yield "completed", {"response": whole(card, body)}


def _item_events(
    index: int, kind: str, pieces: tuple[str, ...], say: Say
) -> Iterator[tuple[str, Json]]:
    done = _item(index, kind, pieces, say)
    place: Json = {"item_id": done["id"], "output_index": index}
    added = {**done, "status": "in_progress"}
    if kind == "function_call":
        yield "output_item.added", {"output_index": index, "item": {**added, "arguments": ""}}
        for piece in pieces:
            yield "function_call_arguments.delta", {**place, "delta": piece}
        yield (
            "function_call_arguments.done",
            {**place, "arguments": done["arguments"], "name": done["name"]},
        )
    else:
        place["content_index"] = 0
        form = "output_text" if kind == "message" else "reasoning_text"
        part: Json = done["content"][0]
        logprobs: Json = {"logprobs": []} if kind == "message" else {}
        yield "output_item.added", {"output_index": index, "item": {**added, "content": []}}
        yield "content_part.added", {**place, "part": {**part, "text": ""}}
        for piece in pieces:
            yield f"{form}.delta", {**place, "delta": piece, **logprobs}
        yield f"{form}.done", {**place, "text": part["text"], **logprobs}
        yield "content_part.done", {**place, "part": part}
    yield "output_item.done", {"output_index": index, "item": done}


def _kinds(say: Say) -> Iterator[tuple[str, tuple[str, ...]]]:
    if say.reasoning:
        yield "reasoning", say.reasoning
    if say.content:
        yield "message", say.content
    if say.tool is not None:
        yield "function_call", say.tool.arguments


def _item(number: int, kind: str, pieces: tuple[str, ...], say: Say) -> Json:
    text = "".join(pieces)
    if kind == "message":
        part: Json = {"type": "output_text", "text": text, "annotations": [], "logprobs": None}
        return {"id": f"msg_{number}", "type": kind, "role": "assistant", "status": "completed",
                "content": [part]}  # fmt: skip
    if kind == "reasoning":
        return {"id": f"rs_{number}", "type": kind, "summary": [], "status": "completed",
                "content": [{"type": "reasoning_text", "text": text}]}  # fmt: skip
    assert say.tool is not None
    return {"id": f"fc_{number}", "call_id": f"call_{number}", "type": kind, "arguments": text,
            "name": say.tool.name, "status": "completed"}  # fmt: skip


def _frame(body: Json) -> Json:
    return {
        "id": "resp_card", "object": "response", "created_at": CREATED, "model": MODEL,
        "instructions": body.get("instructions"), "metadata": None, "parallel_tool_calls": True,
        "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0, "background": False,
        "max_output_tokens": None, "truncation": "disabled", "incomplete_details": None,
        "error": None, "previous_response_id": None, "text": {"format": {"type": "text"}},
    }  # fmt: skip
