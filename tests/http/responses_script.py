"""What vLLM 0.32 and llama-server send on ``/v1/responses``, event by event."""

from __future__ import annotations

import json
from typing import Any

Piece = tuple[str, list[str]]
"""A kind of item and its pieces; a call's first piece is its name."""

_VLLM: dict[str, Any] = {
    "created_at": 1_700_000_000, "object": "response", "model": "small", "instructions": "be kind",
    "metadata": None, "parallel_tool_calls": True, "temperature": 0.5, "tool_choice": "auto",
    "tools": [], "top_p": 0.9, "background": False, "max_output_tokens": 64,
    "truncation": "disabled", "service_tier": "auto", "incomplete_details": None,
    "input_messages": None, "output_messages": None, "kv_transfer_params": None,
}  # fmt: skip
USAGE = {
    "input_tokens": 7, "output_tokens": 5, "total_tokens": 12,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 0},
}  # fmt: skip


def event(kind: str, **fields: Any) -> bytes:
    """One event with its name."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def item(number: int, kind: str, pieces: list[str], status: str = "completed") -> dict[str, Any]:
    """A finished item."""
    if kind == "message":
        part = {"type": "output_text", "text": "".join(pieces), "annotations": [], "logprobs": None}
        return {"id": f"msg_{number}", "type": kind, "role": "assistant", "status": status,
                "content": [part]}  # fmt: skip
    if kind == "reasoning":
        text = {"type": "reasoning_text", "text": "".join(pieces)}
        return {"id": f"rs_{number}", "type": kind, "summary": [], "content": [text],
                "encrypted_content": None, "status": status}  # fmt: skip
    call = {"id": f"fc_{number}", "call_id": f"call_{number}", "type": kind, "name": pieces[0]}
    key = "arguments" if kind == "function_call" else "input"
    return {**call, key: "".join(pieces[1:]), "status": status}


def whole(pieces: list[Piece], name: str = "resp_1", **more: Any) -> dict[str, Any]:
    """An answer in one piece."""
    output = [item(number, kind, texts) for number, (kind, texts) in enumerate(pieces)]
    return {**_VLLM, "id": name, "status": "completed", "output": output, "usage": USAGE, **more}


def vllm(
    pieces: list[Piece], name: str = "resp_1", logprobs: bool = False, **more: Any
) -> list[bytes]:
    """vLLM: everything numbered, each item ended before the next begins."""
    events: list[tuple[str, dict[str, Any]]] = []
    start = {**whole([], name), "status": "in_progress", "usage": None}
    events += [(f"response.{kind}", {"response": start}) for kind in ("created", "in_progress")]
    for index, (kind, texts) in enumerate(pieces):
        events += _vllm_item(index, kind, texts, logprobs)
    events.append(("response.completed", {"response": whole(pieces, name, **more)}))
    return [event(kind, sequence_number=n, **body) for n, (kind, body) in enumerate(events)]


def _vllm_item(
    index: int, kind: str, texts: list[str], logprobs: bool
) -> list[tuple[str, dict[str, Any]]]:
    done = item(index, kind, texts)
    place: dict[str, Any] = {"item_id": done["id"], "output_index": index}
    added = {**done, "status": "in_progress"}
    if kind in ("message", "reasoning"):
        del added["content"]
        form = "output_text" if kind == "message" else "reasoning_text"
        place["content_index"] = 0
        part = done["content"][0]
        out = [
            ("output_item.added", {"output_index": index, "item": {**added, "content": []}}),
            ("content_part.added", {**place, "part": {**part, "text": ""}}),
        ]
        for text in texts:
            rows = [{"token": text, "logprob": -0.5, "top_logprobs": []}] if logprobs else []
            extra = {"logprobs": rows} if kind == "message" else {}
            out.append((f"{form}.delta", {**place, "delta": text, **extra}))
        extra = {"logprobs": []} if kind == "message" else {}
        out.append((f"{form}.done", {**place, "text": part["text"], **extra}))
        out.append(("content_part.done", {**place, "part": part}))
    else:
        call = kind == "function_call"
        key = "arguments" if call else "input"
        form = "function_call_arguments" if call else "custom_tool_call_input"
        out = [("output_item.added", {"output_index": index, "item": {**added, key: ""}})]
        out += [(f"{form}.delta", {**place, "delta": text}) for text in texts[1:]]
        out.append((f"{form}.done", {**place, key: done[key], "name": texts[0]}))
    out.append(("output_item.done", {"output_index": index, "item": done}))
    return [(f"response.{name}", body) for name, body in out]


def llama(pieces: list[Piece], name: str = "resp_1", **more: Any) -> list[bytes]:
    """llama-server: nothing numbered, every item ended at the end, calls without an id."""
    start = {"id": name, "object": "response", "status": "in_progress"}
    out = [event(f"response.{kind}", response=start) for kind in ("created", "in_progress")]
    ends, output = [], []
    for number, (kind, texts) in enumerate(pieces):
        done = item(number, kind, texts)
        if kind == "function_call":
            done["call_id"] = f"fc_{done['call_id']}"
            del done["id"]
        output.append(done)
        named = done.get("id") or done["call_id"]
        if kind == "function_call":
            begun = {**done, "arguments": "", "status": "in_progress"}
            out.append(event("response.output_item.added", item=begun))
            out += [
                event("response.function_call_arguments.delta", delta=text, item_id=named)
                for text in texts[1:]
            ]
        else:
            begun = {**done, "content": [], "status": "in_progress"}
            out.append(event("response.output_item.added", item=begun))
            form = "reasoning_text"
            if kind == "message":
                form = "output_text"
                empty = {"type": form, "text": ""}
                out.append(event("response.content_part.added", item_id=named, part=empty))
                part = done["content"][0]
                ends.append(event("response.output_text.done", item_id=named, text=part["text"]))
                ends.append(event("response.content_part.done", item_id=named, part=part))
            out += [event(f"response.{form}.delta", item_id=named, delta=t) for t in texts]
        ends.append(event("response.output_item.done", item=done))
    usage = {key: USAGE[key] for key in ("input_tokens", "output_tokens", "total_tokens")}
    final = {**start, "created_at": 1_700_000_000, "status": "completed", "model": "small",
             "output": output, "usage": usage, **more}  # fmt: skip
    return [*out, *ends, event("response.completed", response=final, timings={"predicted_n": 5})]
