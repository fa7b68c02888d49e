"""Ollama's ``/api/chat`` and ``/api/generate``: one object a line, streamed unless told otherwise.

An answer has one choice. Its text is in ``message`` (chat) or beside it (generate); tool calls come
whole, with arguments as an object. ``context`` (the conversation as token ids) is neither taken nor
given: nobody could read it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from prism.http import prompts
from prism.http.dialect import NDJSON
from prism.http.errors import BadRequest, UpstreamShape, dumps
from prism.http.families.choices import FILTERED, ChoiceBase
from prism.http.families.openai_common import (
    read_json,
    safe_error,
)
from prism.http.families.values import judged
from prism.http.family import Call, Json, Reading, StreamFilter
from prism.http.judge import Judge
from prism.http.logprobs import chat_entries, chat_logprobs
from prism.http.sse import Event
from prism.http.templates import raw_messages

_TEXTS = ("thinking", "content", "response")
_FIGURES = (
    "total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count",
    "eval_duration", "completed", "total",
)  # fmt: skip
_TIME = re.compile(r"[0-9T:.+Z-]{1,40}")
_REASON = re.compile(r"[a-z_]{1,32}")
_REASONS = ("stop", "length", "load", "unload")
_MAX_TOOLS = 1024


class _Api:
    """What both routes share."""

    dialect = NDJSON
    chat: bool
    name: str

    def refusal(self, call: Call, decision_id: str, message: str) -> Json:
        """Return a normal answer that says ``message``."""
        return {**self.row(call, {self.text: message}), **_over(FILTERED), **_NO_USAGE}

    def refusal_stream(self, call: Call, decision_id: str, message: str) -> list[Event]:
        """Return the same as a stream."""
        end = {**self.row(call, {}), **_over(FILTERED), **_NO_USAGE}
        return [_event(self.row(call, {self.text: message})), _event(end, last=True)]

    def whole(self, call: Call, body: Any, judge: Judge) -> Json:
        """Judge an answer in one piece, as if it had been streamed as one line."""
        if not isinstance(body, dict):
            raise UpstreamShape("the engine's answer is no JSON object", code="upstream_shape")
        if body.get("error"):
            return NDJSON.error(safe_error(body, judge))
        rows = _Answer(self, call, judge).feed({**body, "done": True})
        if judge.blocked:
            said = self.row(call, {self.text: judge.message}, body)
            return {**said, **_over(FILTERED), **_figures(body)}
        return rows[-1]

    def stream(self, call: Call, judge: Judge) -> StreamFilter:
        """Judge an answer in pieces."""
        return _Stream(_Answer(self, call, judge), judge)

    @property
    def text(self) -> str:
        """Name of the field that the answer proper is in."""
        return "content" if self.chat else "response"

    def row(self, call: Call, said: Json, body: Json | None = None) -> Json:
        """Return one object of the API's that says ``said``."""
        given = body or {}
        created = given.get("created_at")
        if not isinstance(created, str) or not _TIME.fullmatch(created):
            created = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        frame: Json = {"model": call.model, "created_at": created}
        said = {self.text: "", **said}
        if self.chat:
            said = {"message": {"role": "assistant", **said}}
        return {**frame, **said, "done": False}


class Chat(_Api):
    """``/api/chat``."""

    name = "ollama_chat"
    paths = ("/api/chat",)
    chat = True

    def read(self, body: Json, reading: Reading) -> Call:
        """Check the request and take its text out."""
        prompts.refuse_unsafe(body, reading.engine)
        given = body.get("messages")
        if given is None:  # a model is loaded or let go in this way
            given = []
        if not isinstance(given, list):
            raise BadRequest("messages must be a list", param="messages", code="invalid_type")
        found = prompts.Messages()
        for number, message in enumerate(given):
            where = f"messages[{number}]"
            bare = _without_images(message, where, found.unread)
            found.add(bare, where)
        said = found.flat
        messages = said + _context(body, frozenset({"messages"}), said)
        return _call(body, messages, reading, found.unread)


class Generate(_Api):
    """``/api/generate``."""

    name = "ollama_generate"
    paths = ("/api/generate",)
    chat = False

    def read(self, body: Json, reading: Reading) -> Call:
        """Check the request and take its text out."""
        prompts.refuse_unsafe(body, reading.engine)
        for key, why in _REFUSED.items():
            if body.get(key):
                raise BadRequest(
                    f"{key!r} is not available on a moderated server: {why}",
                    param=key,
                    code="not_moderated",
                )
        unread: set[str] = set()
        bare = _without_images(body, "", unread)
        system, prompt, suffix = (prompts.text(body, key) for key in _PIECES)
        messages = [{"role": "system", "content": system}] if system else []
        pieces = [piece for piece in (prompt, suffix) if piece]
        if prompt and suffix:  # the model reads them as one text, in one order or the other
            pieces += [prompt + suffix, suffix + prompt]
        messages += [message for piece in pieces for message in raw_messages(piece)]
        messages += _context(bare, frozenset(_PIECES))
        return _call(body, messages, reading, unread)


_PIECES = ("system", "prompt", "suffix")
_REFUSED = {
    "template": "a template sent by a client can put any text together",
    "context": "token ids of an earlier conversation can't be judged; use /api/chat",
}
CHAT = Chat()
GENERATE = Generate()


class _Stream:
    def __init__(self, answer: _Answer, judge: Judge) -> None:
        self._answer = answer
        self._judge = judge

    @property
    def done(self) -> bool:
        return self._answer.over

    def feed(self, event: Event) -> list[Event]:
        if self.done or event.data is None:
            return []
        body = read_json(event.data)
        if body.get("error"):
            return [_event(NDJSON.error(safe_error(body, self._judge)))]
        return [_event(row, last=row["done"]) for row in self._answer.feed(body)]

    def close(self) -> list[Event]:
        rows = [] if self.done else self._answer.close()
        return [_event(row, last=row["done"]) for row in rows]


class _Answer(ChoiceBase):
    def __init__(self, api: _Api, call: Call, judge: Judge) -> None:
        super().__init__(call, judge, 0)
        self._api = api
        self._pieces = 0
        self._tools = 0

    def feed(self, body: Json) -> list[Json]:
        self._pieces += 1
        said = body.get("message") if self._api.chat else body
        if said is None:
            said = {}
        if not isinstance(said, dict):
            raise UpstreamShape("the engine's message is no object", code="upstream_shape")
        if self._queue is not None:
            self._queue.add(chat_entries({"content": body.get("logprobs")}))
        out: Json = {}
        for channel in ("thinking", self._api.text):
            value = said.get(channel)
            if value is not None and (released := self._text(channel, value)):
                out[channel] = released
        calls = self._tool_calls(said.get("tool_calls"))
        final = body.get("done") is True
        if final:
            self._end_all(out)
        if self.blocked:
            return self._cut(out, body)
        if calls:
            out["tool_calls"] = calls
        entries = self._queue.take(final=final) if self._queue is not None else []
        if not (out or final or entries):
            return []
        row = self._row(out, body)
        if entries:
            row["logprobs"] = chat_logprobs(entries, self._judge.keep_alternatives)["content"]
        if final:
            row |= {**_over(self._reason_of(body)), **_figures(body)}
            self.over = True
        return [row]

    def close(self) -> list[Json]:
        self.over = True
        out: Json = {}
        self._end_all(out)
        if self.blocked:
            return self._cut(out, {})
        return [self._row(out)] if out else []

    def _end_all(self, out: Json) -> None:
        for channel in list(self._open):
            if released := self._end(channel):
                out[channel] = out.get(channel, "") + released

    def _cut(self, out: Json, body: Json) -> list[Json]:
        """End the answer: what was cleared before the match, then the word for a block."""
        self.over = True
        rows = [self._row(out, body)] if out else []
        if not self._shown & {"content", "response", "name"}:
            rows.append(self._row({self._api.text: self._judge.message}, body))
        counted = {"eval_count": self._pieces, **_figures(body)}
        return [*rows, {**self._row({}, body), **_over(FILTERED), **counted}]

    def _row(self, out: Json, body: Json | None = None) -> Json:
        return self._api.row(self._call, out, body)

    def _reason_of(self, body: Json) -> str:
        reason = body.get("done_reason")
        if not isinstance(reason, str) or not _REASON.fullmatch(reason):
            reason = "stop"
        if reason not in _REASONS and not self._judge.allows(reason):
            reason = "stop"
        return self._final_reason(reason) or reason

    def _tool_calls(self, value: Any) -> list[Json]:
        if value is None:
            return []
        if not isinstance(value, list) or self._tools + len(value) > _MAX_TOOLS:
            raise UpstreamShape("the engine's tool_calls is no list", code="upstream_shape")
        made = [self._tool_call(item) for item in value]
        return [] if self.blocked else made

    def _tool_call(self, value: Any) -> Json:
        function = value.get("function") if isinstance(value, dict) else None
        if not isinstance(function, dict):
            raise UpstreamShape("the engine's tool call is no object", code="upstream_shape")
        number, self._tools = self._tools, self._tools + 1
        head: Json = {}
        for key, text in (("id", value.get("id")), ("name", function.get("name"))):
            if text:
                channel = f"tool_calls.{number}.{key}"
                head[key] = self._text(channel, text) + self._end(channel)
        made: Json = {"name": head.pop("name", "")}
        if made["name"].strip():
            self._shown.add("name")
        if isinstance(function.get("index"), int):
            made["index"] = function["index"]
        channel = f"tool_calls.{number}"
        made["arguments"] = judged(self._judge, 0, channel, function.get("arguments") or {})
        return {**head, "function": made}


def _call(body: Json, messages: list[dict[str, str]], reading: Reading, unread: set[str]) -> Call:
    prompts.flag(body, "logprobs")
    return prompts.as_call(body, messages, reading, unread, streams=True)


def _context(
    body: Json, known: frozenset[str], said: Sequence[dict[str, str]] = ()
) -> list[dict[str, str]]:
    """Return all other text, without the stop strings, which are in ``options`` here."""
    options = body.get("options")
    if isinstance(options, dict):
        options = {key: value for key, value in options.items() if key != "stop"}
    return prompts.context({**body, "options": options}, known, said)


def _without_images(value: Any, where: str, unread: set[str]) -> Any:
    """Return ``value`` without the pictures that ``images`` holds, which no tier reads."""
    if not isinstance(value, dict) or value.get("images") is None:
        return value
    images = value["images"]
    if not isinstance(images, list) or not all(isinstance(item, str) for item in images):
        where = f"{where}.images".lstrip(".")
        raise BadRequest(
            f"{where} must be a list of strings in Base64", param=where, code="invalid_type"
        )
    if images:
        unread.add("image")
    return {key: below for key, below in value.items() if key != "images"}


def _over(reason: str) -> Json:
    return {"done": True, "done_reason": reason}


def _figures(body: Json) -> Json:
    return {
        name: body[name]
        for name in _FIGURES
        if isinstance(body.get(name), int) and not isinstance(body[name], bool)
    }


_NO_USAGE: Json = {"total_duration": 0, "prompt_eval_count": 0, "eval_count": 0}


def _event(row: Json, *, last: bool = False) -> Event:
    return Event(dumps(row).decode(), last=last)
