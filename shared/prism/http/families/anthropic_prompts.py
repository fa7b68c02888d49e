"""Taking the text out of a request in Anthropic's form."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from prism.http import prompts
from prism.http.errors import BadRequest
from prism.http.family import Call, Json, Reading

_KINDS = frozenset(
    {
        "text", "thinking", "redacted_thinking", "tool_use", "tool_result", "image", "document",
        "search_result", "tool_reference", "tool_addition", "tool_removal",
    }
)  # fmt: skip
_MEDIA = frozenset({"image", "document"})
_PLAIN = ("text", "thinking")
_UNTOLD = frozenset({"type", "signature", "source", "cache_control"})
_BESIDE = frozenset({"id", "tool_use_id", "cache_control"})
_KNOWN = frozenset({"messages", "system", "stop_sequences"})


def read(body: Json, reading: Reading) -> Call:
    """Check the request and take its text out."""
    prompts.refuse_unsafe(body, reading.engine)
    _refuse_forced_thinking(body, reading.engine)
    for key in ("n", "n_cmpl", "best_of"):  # no part of this API, and nobody could tell them apart
        prompts.integer(body, key, 1, 1, 1)
    given = body.get("messages")
    if not isinstance(given, list):
        raise BadRequest("messages must be a list", param="messages", code="invalid_type")
    found = _Found()
    found.system(body.get("system"))
    for number, message in enumerate(given):
        found.message(message, f"messages[{number}]")
    said = found.result()
    messages = said + prompts.context(body, _KNOWN, said)
    call = prompts.as_call(body, messages, reading, found.unread)
    call.stop = _stop_sequences(body)
    return call


def _refuse_forced_thinking(body: Json, engine: str) -> None:
    thinking = body.get("thinking")
    if thinking is None:
        return
    if not isinstance(thinking, dict):
        raise BadRequest("thinking must be an object", param="thinking", code="invalid_type")
    if engine == "vllm" and thinking.get("budget_tokens") is not None:
        raise BadRequest(
            "a thinking budget is not available on a moderated server: it forces tokens after the "
            "policy was applied; use thinking of type 'adaptive'",
            param="thinking.budget_tokens",
            code="not_moderated",
        )


def _stop_sequences(body: Json) -> frozenset[str]:
    value = body.get("stop_sequences")
    if value is None:
        return frozenset()
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return frozenset(value)
    raise BadRequest(
        "stop_sequences must be a list of strings", param="stop_sequences", code="invalid_type"
    )


def _text_of(data: Any, where: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode("utf-8")
    except (TypeError, ValueError):
        raise BadRequest(
            f"{where} must be text in UTF-8, in Base64", param=where, code="invalid_type"
        ) from None


class _Found:
    """What p(x) judges. What a template may put together is judged together as well."""

    def __init__(self) -> None:
        self.chat = prompts.Messages()
        self.unread: set[str] = self.chat.unread
        self._system: list[str] = []  # vLLM puts all of them in front, with nothing between

    def result(self) -> list[dict[str, str]]:
        if len(self._system) > 1:
            self.chat.say("system", "".join(self._system))
        return self.chat.flat

    def system(self, value: Any) -> None:
        if value is not None:
            self._content("system", value, "system")

    def message(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise BadRequest(f"{where} must be an object", param=where, code="invalid_type")
        role = value.get("role")
        if not isinstance(role, str):
            raise BadRequest(f"{where}.role must be a string", param=where, code="invalid_type")
        self._content(role, value.get("content"), f"{where}.content")
        rest = {key: below for key, below in value.items() if key not in ("role", "content")}
        if rest:
            self.chat.fields(rest)

    def _content(self, role: str, content: Any, where: str) -> None:
        if content is None:
            return
        if isinstance(content, str):
            self.chat.say(role, content)
            self._note_system(role, content)
            return
        if not isinstance(content, list):
            raise BadRequest(
                f"{where} must be a string or a list of blocks", param=where, code="invalid_type"
            )
        texts: list[str] = []
        alike: dict[str, list[str]] = {}
        for number, block in enumerate(content):
            kind, found = self._block(role, block, f"{where}[{number}]")
            texts += found
            alike.setdefault(kind, []).extend(found)
            if kind == "text":
                self._note_system(role, found[0])
        # Engines sort blocks by kind, and put nothing or a line break between them.
        self.chat.say(role, *texts, alike=alike.pop("text", ()))
        for parts in alike.values():
            if len(parts) > 1:
                self.chat.beside(["".join(parts)])

    def _block(self, role: str, block: Any, where: str) -> tuple[str, list[str]]:
        if not isinstance(block, dict):
            raise BadRequest(f"{where} must be an object", param=where, code="invalid_type")
        kind = block.get("type")
        if not isinstance(kind, str):
            raise BadRequest(f"{where}.type must be a string", param=where, code="invalid_type")
        if kind not in _KINDS:
            raise BadRequest(
                f"blocks of type {kind[:64]!r} are not moderated, so not accepted",
                param=where,
                code="not_moderated",
            )
        self.chat.beside(
            text
            for key, value in block.items()
            if key in _BESIDE or (kind in _PLAIN and key not in ("type", "signature", kind))
            for text in prompts.strings(value)
        )
        if kind in _PLAIN:
            if not isinstance(block.get(kind), str):
                raise BadRequest(
                    f"{where}.{kind} must be a string", param=where, code="invalid_type"
                )
            return kind, [block[kind]]
        told = {key: below for key, below in block.items() if key not in _UNTOLD}
        self.chat.orders(told)
        return kind, list(self._texts(role, kind, block, where))

    def _texts(self, role: str, kind: str, block: Json, where: str) -> Iterator[str]:
        for key, value in block.items():
            if key in _BESIDE or key in ("type", "signature"):
                continue
            if key == "source" and kind in _MEDIA:
                yield from self._source(role, kind, value, where)
            elif key == "content" and kind in ("tool_result", "search_result"):
                self._content(role, value, f"{where}.content")
            else:
                yield from prompts.strings(value)

    def _source(self, role: str, kind: str, source: Any, where: str) -> Iterator[str]:
        """Read what is text in a document; note what isn't."""
        if not isinstance(source, dict):
            raise BadRequest(f"{where}.source must be an object", param=where, code="invalid_type")
        form = source.get("type")
        if form == "content":
            self._content(role, source.get("content"), f"{where}.source.content")
            return
        if form == "text":
            yield from prompts.strings(source.get("data"))
            return
        if form == "base64" and str(source.get("media_type")).startswith("text/"):
            yield _text_of(source.get("data"), f"{where}.source.data")
            return
        self.unread.add(kind)
        for key, value in source.items():
            if key not in ("data", "type"):
                yield from prompts.strings(value)

    def _note_system(self, role: str, text: str) -> None:
        if role == "system" and not text.startswith(prompts.BILLING):
            self._system.append(text)
