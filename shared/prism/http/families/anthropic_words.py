"""Anthropic's words: its errors, its events, the frame of a message."""

from __future__ import annotations

from prism.http.dialect import Bare
from prism.http.errors import dumps
from prism.http.family import Json
from prism.http.sse import Event

REFUSAL = "refusal"
NO_USAGE: Json = {"input_tokens": 0, "output_tokens": 0}

_ERRORS = {
    "BadRequestError": "invalid_request_error",
    "NotFoundError": "not_found_error",
    "service_unavailable_error": "overloaded_error",
    "exceed_context_size_error": "invalid_request_error",
}
_OWN_ERRORS = frozenset(
    {
        "invalid_request_error", "authentication_error", "permission_error", "not_found_error",
        "request_too_large", "rate_limit_error", "api_error", "overloaded_error", "timeout_error",
        "billing_error",
    }
)  # fmt: skip


class AnthropicDialect(Bare):
    """Named events, no ``[DONE]``, errors that say of themselves what they are."""

    def error(self, body: Json) -> Json:
        """Translate an error; one that is Anthropic's already stays what it is."""
        given = body.get("error")
        given = given if isinstance(given, dict) else {}
        named = str(given.get("type"))
        kind = _ERRORS.get(named, named if named in _OWN_ERRORS else "api_error")
        message = given.get("message") or "the engine reported an error"
        return {"type": "error", "error": {"type": kind, "message": str(message)}}

    def engine_error(self, body: Json) -> Json:
        """Translate an error of the engine's: llama-server's are OpenAI's everywhere."""
        return self.error(body)

    def broken(self, body: Json) -> list[Event]:
        """Return how a stream says that it ends in an error."""
        return [named(self.error(body))]


ANTHROPIC = AnthropicDialect()


def message_frame(given: str, model: str) -> Json:
    """Return a message with nothing in it yet."""
    return {
        "id": given,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def said(index: int, text: str) -> list[Event]:
    """Return a text block that says ``text``."""
    head = {"type": "text", "text": ""}
    delta = {"type": "text_delta", "text": text}
    return [
        named({"type": "content_block_start", "index": index, "content_block": head}),
        named({"type": "content_block_delta", "index": index, "delta": delta}),
        named({"type": "content_block_stop", "index": index}),
    ]


def ending(reason: str | None, sequence: str | None, usage: Json) -> list[Event]:
    """Return a stream's last two events."""
    delta = {"stop_reason": reason, "stop_sequence": sequence}
    usage = {"output_tokens": 0, **usage}
    return [
        named({"type": "message_delta", "delta": delta, "usage": usage}),
        named({"type": "message_stop"}, last=True),
    ]


def named(body: Json, *, last: bool = False) -> Event:
    """Return an event that carries its type as its name."""
    return Event(dumps(body).decode(), str(body["type"]), last)
