"""How the scripted engine puts a card into each API's words, whole and as a stream's events."""

from __future__ import annotations

from prism.conform.speakers import chat, completions, messages, responses
from prism.conform.speakers.speaker import Speaker

SPEAKERS: dict[str, Speaker] = {
    "/v1/chat/completions": chat,
    "/v1/completions": completions,
    "/v1/messages": messages,
    "/v1/responses": responses,
}
"""By path."""

__all__ = ["SPEAKERS", "Speaker"]
