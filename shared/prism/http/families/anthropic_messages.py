"""Anthropic's messages, and the count of a prompt's tokens."""

from __future__ import annotations

from prism.http.errors import UpstreamShape
from prism.http.families import anthropic_prompts
from prism.http.families.anthropic_stream import MessageStream
from prism.http.families.anthropic_words import (
    ANTHROPIC,
    NO_USAGE,
    REFUSAL,
    ending,
    message_frame,
    named,
    said,
)
from prism.http.families.openai_common import numbers
from prism.http.families.pieces import label, mark
from prism.http.family import Call, Json, Reading, StreamFilter
from prism.http.judge import Judge
from prism.http.sse import Event


class Messages:
    """``/v1/messages``."""

    name = "messages"
    paths: tuple[str, ...] = ("/v1/messages",)
    dialect = ANTHROPIC

    def read(self, body: Json, reading: Reading) -> Call:
        """Check the request and take its text out."""
        return anthropic_prompts.read(body, reading)

    def refusal(self, call: Call, decision_id: str, message: str) -> Json:
        """Return a normal answer that says ``message``."""
        return {
            **message_frame(f"msg_{decision_id}", call.model),
            "content": [{"type": "text", "text": message}],
            "stop_reason": REFUSAL,
            "usage": NO_USAGE,
        }

    def refusal_stream(self, call: Call, decision_id: str, message: str) -> list[Event]:
        """Return the same as a stream."""
        start = {**message_frame(f"msg_{decision_id}", call.model), "usage": NO_USAGE}
        return [
            named({"type": "message_start", "message": start}),
            *said(0, message),
            *ending(REFUSAL, None, {"output_tokens": 0}),
        ]

    def whole(self, call: Call, body: Json, judge: Judge) -> Json:
        """Judge an answer in one piece, as if it had been streamed."""
        content = body.get("content")
        if not isinstance(content, list) or not all(isinstance(b, dict) for b in content):
            raise UpstreamShape("the engine's answer has no content", code="upstream_shape")
        usage = numbers(body.get("usage")) or dict(NO_USAGE)
        frame = {**message_frame(mark(body.get("id")), label(body.get("model"))), "usage": usage}
        stream = MessageStream(call, judge)
        blocks = [stream.take(number, given) for number, given in enumerate(content)]
        reason, sequence = stream.reason(body)
        if judge.blocked:
            said = [{"type": "text", "text": judge.message}]
            return {**frame, "content": said, "stop_reason": REFUSAL}
        shown = [block.shown() for block in blocks if block is not None]
        return {**frame, "content": shown, "stop_reason": reason, "stop_sequence": sequence}

    def stream(self, call: Call, judge: Judge) -> StreamFilter:
        """Judge an answer in pieces."""
        return MessageStream(call, judge)


class CountTokens(Messages):
    """``/v1/messages/count_tokens``: a prompt, and a number for an answer."""

    name = "messages.count_tokens"
    paths = ("/v1/messages/count_tokens",)

    def read(self, body: Json, reading: Reading) -> Call:
        """Check the request and take its text out."""
        call = anthropic_prompts.read(body, reading)
        call.stream = False
        return call

    def refusal(self, call: Call, decision_id: str, message: str) -> Json:
        """Return what a refusal costs: nothing, the engine isn't asked."""
        return {"input_tokens": 0}

    def whole(self, call: Call, body: Json, judge: Judge) -> Json:
        """Return the numbers."""
        return numbers(body) or {}


MESSAGES = Messages()
COUNT_TOKENS = CountTokens()
