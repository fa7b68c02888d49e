"""The APIs in which the suite asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
_ROOM = 256
"""Tokens that a real engine may write; the scripted one says its card."""


@dataclass(frozen=True, slots=True)
class Api:
    """One API. ``prompt`` is the key of the prompt, ``room`` that of the answer's length."""

    name: str
    path: str
    prompt: str
    room: str = "max_tokens"

    def body(self, text: str, model: str, stream: bool) -> Json:
        """Return a request for an answer to ``text``."""
        given: Any = text
        if self.prompt == "messages":
            given = [{"role": "user", "content": text}]
        # Left out, `stream` means the same as false everywhere; some servers take only true.
        streamed = {"stream": True} if stream else {}
        return {"model": model, self.prompt: given, self.room: _ROOM, **streamed}


CHAT = Api("chat", "/v1/chat/completions", "messages")
COMPLETIONS = Api("completions", "/v1/completions", "prompt")
RESPONSES = Api("responses", "/v1/responses", "input", "max_output_tokens")
MESSAGES = Api("messages", "/v1/messages", "messages")
APIS = (CHAT, COMPLETIONS, RESPONSES, MESSAGES)
