"""The shapes that embedding, scoring and reranking APIs take their inputs in.

An input is a string, token ids, a conversation, an object with ``content`` parts or a ``text``, or
a list of such things to any depth that JSON allows; lists may mix strings and ids. Each string is
judged, whatever field it stands in: these APIs have many names for the same thing.
"""

from __future__ import annotations

from typing import Any

from prism.http import prompts
from prism.http.errors import BadRequest
from prism.http.families.openai_completions import is_id, text_of
from prism.http.family import Reading

INPUTS = frozenset(
    {
        "input", "content", "messages", "prompt", "texts", "inputs", "query", "queries",
        "documents", "items", "data_1", "data_2", "text_1", "text_2",
    }
)  # fmt: skip
"""Fields of a body that hold inputs."""
PICTURES = "images"


class Inputs:
    """Reads inputs into flat messages, one for each text."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._chat = prompts.Messages()
        self._texts: list[dict[str, str]] = []

    @property
    def flat(self) -> list[dict[str, str]]:
        """What p(x) judges."""
        return self._texts + self._chat.flat

    @property
    def unread(self) -> tuple[str, ...]:
        """Kinds of content that no tier can read."""
        return tuple(sorted(self._chat.unread))

    def add(self, value: Any, where: str) -> None:
        """Read one input, or a list of them. Raises :class:`BadRequest` that names the place."""
        if isinstance(value, str):
            self._say(value)
        elif isinstance(value, dict):
            self._object(value, where)
        elif isinstance(value, list):
            self._list(value, where)
        elif value is not None:
            raise BadRequest(
                f"{where} must be text, token ids, messages or a list of such",
                param=where,
                code="invalid_type",
            )

    def pictures(self, value: Any, where: str) -> None:
        """Note pictures, as URLs or in Base64, which no tier reads."""
        if value is None:
            return
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise BadRequest(f"{where} must be a list of strings", param=where, code="invalid_type")
        if value:
            self._chat.unread.add("image")

    def _say(self, text: str) -> None:
        self._texts.append({"role": "user", "content": text})

    def _list(self, value: list[Any], where: str) -> None:
        if any(map(is_id, value)):
            self._mixed(value, where)
            return
        for number, item in enumerate(value):
            self.add(item, f"{where}[{number}]")

    def _mixed(self, value: list[Any], where: str) -> None:
        """Read one input of token ids, among which llama.cpp allows strings."""
        parts: list[str] = []
        ids: list[int] = []
        for item in [*value, ""]:
            if is_id(item):
                ids.append(item)
                continue
            if not isinstance(item, str):
                raise BadRequest(
                    f"{where} mixes token ids with other things", param=where, code="invalid_type"
                )
            if ids:
                parts.append(text_of(ids, self._reading, where))
                ids = []
            parts.append(item)
        self._say("".join(parts))

    def _object(self, value: dict[str, Any], where: str) -> None:
        if "role" in value:
            self._chat.add(value, where)
        elif isinstance(value.get("content"), list):
            self._chat.add({"role": "user", **value}, where)
        elif "multimodal_data" in value:
            if value["multimodal_data"]:
                self._chat.unread.add("media")
            rest = {key: below for key, below in value.items() if key != "multimodal_data"}
            self._say("\n".join(prompts.strings(rest)))
        elif isinstance(value.get("type"), str):
            self._chat.add({"role": "user", "content": [value]}, where)
        else:
            self._say("\n".join(prompts.strings(value)))
            self._chat.orders(value)
