"""Cohere's v2 chat, as Cohere serves it (``/v2/chat``) and as vLLM does (``/cohere/v2/chat``).

A block says ``finish_reason: "ERROR_TOXIC"``: Cohere's own word, from the first version of its API,
for an answer that its filter stopped. The second version leaves the list of reasons open.
"""

from __future__ import annotations

from typing import Any

from prism.http import prompts
from prism.http.dialect import COHERE
from prism.http.errors import BadRequest, UpstreamShape, dumps
from prism.http.families.cohere_stream import FILTERED, REASONS, CohereStream, no_usage
from prism.http.families.openai_common import numbers
from prism.http.families.pieces import Channels, mark
from prism.http.families.values import judged
from prism.http.family import Call, Json, Reading, StreamFilter
from prism.http.judge import Judge
from prism.http.sse import Event


class Chat:
    """``/v2/chat`` and ``/cohere/v2/chat``."""

    name = "cohere"
    paths = ("/v2/chat", "/cohere/v2/chat")
    dialect = COHERE

    def read(self, body: Json, reading: Reading) -> Call:
        """Check the request and take its text out."""
        prompts.refuse_unsafe(body, reading.engine)
        if prompts.flag(body, "logprobs"):
            raise BadRequest(
                "'logprobs' is not available on a moderated server with this API: its token ids "
                "would show text that is held back",
                param="logprobs",
                code="not_moderated",
            )
        given = body.get("messages")
        if not isinstance(given, list):
            raise BadRequest("messages must be a list", param="messages", code="invalid_type")
        found = prompts.Messages()
        for number, message in enumerate(given):
            found.add(_without_documents(message), f"messages[{number}]")
        found.orders([_documents(message) for message in given])
        said = found.flat
        messages = said + prompts.context(body, frozenset({"messages", "stop_sequences"}), said)
        return prompts.as_call(body, messages, reading, found.unread)

    def refusal(self, call: Call, decision_id: str, message: str) -> Json:
        """Return a normal answer that says ``message``."""
        said = {"role": "assistant", "content": [{"type": "text", "text": message}]}
        return {"id": decision_id, "finish_reason": FILTERED, "message": said, "usage": no_usage(0)}

    def refusal_stream(self, call: Call, decision_id: str, message: str) -> list[Event]:
        """Return the same as a stream."""
        blank = {"message": {"content": {"type": "text", "text": ""}}}
        rows: list[Json] = [
            {
                "type": "message-start",
                "id": decision_id,
                "delta": {"message": {"role": "assistant"}},
            },
            {"type": "content-start", "index": 0, "delta": blank},
            {
                "type": "content-delta",
                "index": 0,
                "delta": {"message": {"content": {"text": message}}},
            },
            {"type": "content-end", "index": 0},
            {
                "type": "message-end",
                "id": decision_id,
                "delta": {"finish_reason": FILTERED, "usage": no_usage(0)},
            },
        ]
        return [*(Event(dumps(row).decode()) for row in rows), Event("[DONE]")]

    def whole(self, call: Call, body: Any, judge: Judge) -> Json:
        """Judge an answer in one piece."""
        message = body.get("message") if isinstance(body, dict) else None
        if not isinstance(message, dict):
            raise UpstreamShape("the engine's answer has no message", code="upstream_shape")
        channels = Channels(judge)
        said = _message(message, channels)
        reason = body.get("finish_reason")
        if judge.blocked:
            said = {"role": "assistant", "content": [{"type": "text", "text": judge.message}]}
            reason = FILTERED
        elif channels.refused():
            reason = FILTERED
        elif reason not in REASONS:
            reason = "COMPLETE"
        answer: Json = {"id": mark(body.get("id")), "finish_reason": reason, "message": said}
        if (usage := numbers(body.get("usage"))) is not None:
            answer["usage"] = usage
        return answer

    def stream(self, call: Call, judge: Judge) -> StreamFilter:
        """Judge an answer in pieces."""
        return CohereStream(judge)


COHERE_CHAT = Chat()


def _message(message: Json, channels: Channels) -> Json:
    said: Json = {"role": "assistant"}
    if message.get("tool_plan") is not None:
        said["tool_plan"] = channels.scan("tool_plan", message["tool_plan"])
    blocks = [
        _block(block, number, channels) for number, block in enumerate(_list(message, "content"))
    ]
    calls = [
        _tool_call(item, number, channels)
        for number, item in enumerate(_list(message, "tool_calls"))
    ]
    citations = judged(channels.judge, 0, "citations", _list(message, "citations"))
    if blocks:
        said["content"] = blocks
    if calls:
        said["tool_calls"] = calls
    if citations:
        said["citations"] = citations
    return said


def _list(message: Json, key: str) -> list[Json]:
    value = message.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise UpstreamShape(f"the engine's {key} is no list of objects", code="upstream_shape")
    return value


def _block(block: Json, number: int, channels: Channels) -> Json:
    kind = block.get("type")
    if kind not in ("text", "thinking"):
        raise UpstreamShape("the engine's content is of no known type", code="upstream_shape")
    channel = f"content.{number}.{kind}"
    if kind == "text":
        channels.begin(channel)
    return {"type": kind, kind: channels.scan(channel, block.get(kind))}


def _tool_call(item: Json, number: int, channels: Channels) -> Json:
    function = item.get("function")
    if not isinstance(function, dict):
        raise UpstreamShape("the engine's tool call is no object", code="upstream_shape")
    made = {
        key: channels.scan(f"tool_calls.{number}.{key}", function.get(key) or "")
        for key in ("name", "arguments")
    }
    head = channels.scan(f"tool_calls.{number}.id", item.get("id") or "")
    return {"id": head, "type": "function", "function": made}


def _documents(message: Any) -> list[Any]:
    content = message.get("content") if isinstance(message, dict) else None
    parts = content if isinstance(content, list) else []
    return [part for part in parts if isinstance(part, dict) and part.get("type") == "document"]


def _without_documents(message: Any) -> Any:
    """Return ``message`` with its documents, which hold text in any form, as parts of text."""
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return message
    parts = [
        {"type": "text", "text": "\n".join(prompts.strings(part))}
        if isinstance(part, dict) and part.get("type") == "document"
        else part
        for part in content
    ]
    return {**message, "content": parts}
