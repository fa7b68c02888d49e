"""vLLM's batch chat: several conversations in one request, one choice for each, never streamed."""

from __future__ import annotations

from prism.http import prompts
from prism.http.errors import BadRequest
from prism.http.families.openai_chat import Chat
from prism.http.family import Json, Reading


class BatchChat(Chat):
    """``/v1/chat/completions/batch``. A blocked prompt refuses the whole batch."""

    name = "chat_batch"
    paths = ("/v1/chat/completions/batch",)

    def messages(self, body: Json, found: prompts.Messages, reading: Reading) -> int:
        """Read every conversation; each is answered by one choice."""
        if prompts.flag(body, "stream"):
            raise BadRequest("a batch can't be streamed", param="stream", code="out_of_range")
        prompts.integer(body, "n", 1, 1, 1)
        given = body.get("messages")
        if not isinstance(given, list) or not given:
            raise BadRequest(
                "messages must be a list of conversations", param="messages", code="invalid_type"
            )
        if len(given) > reading.max_choices:
            raise BadRequest(
                f"messages holds more than {reading.max_choices} conversations",
                param="messages",
                code="out_of_range",
            )
        for number, conversation in enumerate(given):
            found.add_all(conversation, f"messages[{number}]")
        return len(given)


BATCH_CHAT = BatchChat()
