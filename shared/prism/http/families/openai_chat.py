"""OpenAI chat completions, as vLLM and llama-cpp-python serve them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prism.http import prompts
from prism.http.errors import UpstreamShape
from prism.http.families.choices import FILTERED, ChoiceBase
from prism.http.families.openai_common import (
    Choice,
    OpenAIApi,
    whole,
)
from prism.http.family import Call, Json, Reading
from prism.http.judge import Judge
from prism.http.logprobs import chat_entries, chat_logprobs

_TEXTS = ("reasoning", "reasoning_content", "content", "refusal")
_ROLES = ("assistant", "user", "system", "developer", "tool", "function", "model")
_MAX_TOOLS = 1024


class Chat(OpenAIApi):
    """``/v1/chat/completions``."""

    name = "chat"
    paths: tuple[str, ...] = ("/v1/chat/completions",)
    kind = "chat.completion"
    chunk_object = "chat.completion.chunk"
    id_prefix = "chatcmpl"

    def read(self, body: Json, reading: Reading) -> Call:
        """Check the request and take its text out."""
        prompts.refuse_unsafe(body, reading.engine)
        found = prompts.Messages()
        choices = self.messages(body, found, reading)
        said = found.flat
        messages = said + prompts.context(body, frozenset({"messages"}), said)
        prompts.flag(body, "logprobs")
        call = prompts.as_call(body, messages, reading, found.unread, choices=choices)
        call.stop = prompts.stop_strings(body)
        prompts.ask_for_usage(call, reading.engine)
        return call

    def messages(self, body: Json, found: prompts.Messages, reading: Reading) -> int:
        """Read the messages into ``found``; return how many choices are asked for."""
        found.add_all(body.get("messages"), "messages")
        return prompts.integer(body, "n", 1, 1, reading.max_choices)

    def choice(self, call: Call, judge: Judge, index: int) -> Choice:
        """Return the state of a new choice."""
        return _Choice(call, judge, index)

    def said(self, call: Call, index: int, message: str) -> Json:
        """Return a whole choice that says ``message``, filtered."""
        said = {"role": "assistant", "content": message}
        return {"index": index, "message": said, "logprobs": None, "finish_reason": FILTERED}

    def pieces(self, call: Call, index: int, message: str) -> list[Json]:
        """Return the same as pieces of a stream."""
        said = {"role": "assistant", "content": message}
        return [
            {"index": index, "delta": said, "logprobs": None, "finish_reason": None},
            {"index": index, "delta": {}, "logprobs": None, "finish_reason": FILTERED},
        ]

    def whole(self, call: Call, body: Json, judge: Judge) -> Json:
        """Judge an answer in one piece, as if it had been streamed as one delta."""
        frame, choices = whole(call, body, self.kind)
        for place, piece in enumerate(choices):
            index = piece.get("index", place)
            message = piece.get("message")
            if not isinstance(message, dict) or not isinstance(index, int):
                raise UpstreamShape("the engine's choice has no message", code="upstream_shape")
            choice = _Choice(call, judge, index)
            out = choice.feed({**piece, "delta": _as_delta(message), "finish_reason": None})
            end = {"finish_reason": piece.get("finish_reason") or "stop"}
            last = choice.feed({**end, "stop_reason": piece.get("stop_reason")})
            frame["choices"].append(_joined(call, index, out + last, judge))
        return frame


CHAT = Chat()


@dataclass(slots=True)
class _Tool:
    """One tool call. Its head (id and name) is judged whole before any of it goes out."""

    id: str | None = None
    name: str = ""
    sent: bool = False
    arguments: bool = False


class _Choice(ChoiceBase):
    paths = tuple(("delta", channel) for channel in _TEXTS)

    def __init__(self, call: Call, judge: Judge, index: int) -> None:
        super().__init__(call, judge, index)
        self._tools: dict[int | None, _Tool] = {}  # None: the legacy function_call
        self._role_sent = False

    def feed(self, piece: Json) -> list[Json]:
        delta = piece.get("delta")
        if delta is None:
            delta = {}
        if not isinstance(delta, dict):
            raise UpstreamShape("the engine's delta is no object", code="upstream_shape")
        if self._queue is not None:
            self._queue.add(chat_entries(piece.get("logprobs")))
        out: Json = {}
        telling = self._role(delta, out)
        for channel in _TEXTS:
            if channel not in delta:
                continue
            value = delta[channel]
            if value is None:
                out[channel] = None
                continue
            released = self._text(channel, value)
            if released or not value:
                out[channel] = released
            telling = telling or bool(released)
        self._read_tools(delta, out)
        reason = self._reason(piece)
        if reason is not None:
            self._end_all(out)
        if self.blocked:
            return self._cut(out)
        final = reason is not None
        entries = self._queue.take(final=final) if self._queue is not None else []
        if not (telling or final or entries or "tool_calls" in out or "function_call" in out):
            return []
        self.over = final
        row = {"index": self._index, "delta": out, "logprobs": self._logprobs(entries)}
        return [{**row, "finish_reason": self._final_reason(reason), **self._tail(piece)}]

    def close(self) -> list[Json]:
        self.over = True
        out: Json = {}
        self._end_all(out)
        if self.blocked:
            return self._cut(out)
        if not out:
            return []
        row = {"index": self._index, "delta": out, "logprobs": None}
        return [{**row, "finish_reason": self._final_reason(None)}]

    def _logprobs(self, entries: list[Any]) -> Json | None:
        return chat_logprobs(entries, self._judge.keep_alternatives) if entries else None

    def _role(self, delta: Json, out: Json) -> bool:
        role = delta.get("role")
        if role is None:
            return False
        if not isinstance(role, str) or not role.isidentifier() or len(role) > 32:
            raise UpstreamShape("the engine's role is unknown", code="upstream_shape")
        out["role"] = role if role in _ROLES else "assistant"
        first = not self._role_sent
        self._role_sent = True
        return first

    def _cut(self, out: Json) -> list[Json]:
        """End the choice: what was cleared before the match, then the API's word for a block."""
        self.over = True
        rows: list[Json] = []
        if any(out.get(key) for key in ("role", *_TEXTS, "tool_calls", "function_call")):
            rows.append(self._row(out, None))
            out = {}
        spoken = self._shown - {"reasoning", "reasoning_content"}
        if not spoken:
            said: Json = {"content": self._judge.message}
            if not self._role_sent:
                said = {"role": "assistant", **said}
            rows.append(self._row(said, None))
        rows.append(self._row({}, FILTERED))
        return rows

    def _row(self, delta: Json, reason: str | None) -> Json:
        return {"index": self._index, "delta": delta, "logprobs": None, "finish_reason": reason}

    def _end_all(self, out: Json) -> None:
        for number in list(self._tools):
            self._settle(number, out)
        for channel in list(self._open):
            released = self._end(channel)
            if not released:
                continue
            if channel in _TEXTS:
                out[channel] = (out.get(channel) or "") + released
            else:
                self._emit(_number(channel), {"arguments": released}, out)

    # Tool calls

    def _read_tools(self, delta: Json, out: Json) -> None:
        calls = delta.get("tool_calls")
        if calls is not None and not isinstance(calls, list):
            raise UpstreamShape("the engine's tool_calls is no list", code="upstream_shape")
        for call in calls or []:
            if not isinstance(call, dict):
                raise UpstreamShape("the engine's tool call is no object", code="upstream_shape")
            number = call.get("index", 0)
            if isinstance(number, bool) or not isinstance(number, int):
                raise UpstreamShape("the engine's tool call has no index", code="upstream_shape")
            self._read_tool(number, call.get("id"), call.get("function"), out)
        if delta.get("function_call") is not None:
            self._read_tool(None, None, delta["function_call"], out)

    def _read_tool(self, number: int | None, given: object, function: object, out: Json) -> None:
        if number not in self._tools:
            if len(self._tools) >= _MAX_TOOLS:
                raise UpstreamShape("the engine makes too many tool calls", code="upstream_shape")
            for other in list(self._tools):
                self._settle(other, out)
        tool = self._tools.setdefault(number, _Tool())
        function = {} if function is None else function
        if not isinstance(function, dict):
            raise UpstreamShape("the engine's function is no object", code="upstream_shape")
        if isinstance(given, str) and tool.id is None and not tool.sent:
            tool.id = given
        name, arguments = function.get("name"), function.get("arguments")
        if name and name != tool.name:  # llama.cpp repeats the name with every piece
            if not isinstance(name, str) or tool.sent:
                raise UpstreamShape("the engine renamed a tool call", code="upstream_shape")
            tool.name += name
        if not arguments:
            return
        self._settle(number, out)
        released = self._text(_channel(number, "arguments"), arguments)
        if released:
            self._emit(number, {"arguments": released}, out)

    def _settle(self, number: int | None, out: Json) -> None:
        tool = self._tools[number]
        if tool.sent:
            return
        tool.sent = True
        head: dict[str, str] = {}
        for key, value in (("id", tool.id), ("name", tool.name)):
            if value:
                channel = _channel(number, key)
                head[key] = self._text(channel, value) + self._end(channel)
        if self.blocked:
            return
        function = {"name": head.get("name", ""), "arguments": ""}
        if number is None:
            self._emit(None, function, out)
        else:
            self._emit(number, function, out, {"id": head.get("id"), "type": "function"})

    def _emit(
        self, number: int | None, function: Json, out: Json, head: Json | None = None
    ) -> None:
        """Put a piece of a tool call into ``out``, joining it to one that is there already."""
        if number is None:
            place = out.setdefault("function_call", {})
        else:
            listed = out.setdefault("tool_calls", [])
            entry = next((one for one in listed if one["index"] == number), None)
            if entry is None:
                entry = {"index": number, **(head or {}), "function": {}}
                listed.append(entry)
            place = entry["function"]
        for key, value in function.items():
            place[key] = place.get(key, "") + value


def _channel(number: int | None, part: str) -> str:
    return f"function_call.{part}" if number is None else f"tool_calls.{number}.{part}"


def _number(channel: str) -> int | None:
    head = channel.split(".")
    return int(head[1]) if head[0] == "tool_calls" else None


def _as_delta(message: Json) -> Json:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    if not all(isinstance(call, dict) for call in calls):
        raise UpstreamShape("the engine's tool call is no object", code="upstream_shape")
    return {**message, "tool_calls": [{**call, "index": n} for n, call in enumerate(calls)]}


def _joined(call: Call, index: int, rows: list[Json], judge: Judge) -> Json:
    """Return one whole choice from the pieces that a stream would have sent."""
    message: Json = {"role": "assistant", "content": None}
    if index in judge.blocked:
        return CHAT.said(call, index, judge.message)
    entries: list[Json] = []
    tools: dict[int, Json] = {}
    for row in rows:
        delta = row["delta"]
        message["role"] = delta.get("role") or message["role"]
        for key in _TEXTS:
            if key in delta:
                message[key] = _plus(message.get(key), delta[key])
        for made in delta.get("tool_calls", ()):
            kept = tools.setdefault(made["index"], {"id": "", "type": "function", "function": {}})
            kept["id"] = made.get("id") or kept["id"]
            for key, value in made["function"].items():
                kept["function"][key] = kept["function"].get(key, "") + value
        for key, value in delta.get("function_call", {}).items():
            legacy = message.setdefault("function_call", {})
            legacy[key] = legacy.get(key, "") + value
        entries += (row["logprobs"] or {}).get("content", [])
    if tools:
        message["tool_calls"] = [tools[number] for number in sorted(tools)]
    last: Json = {key: rows[-1][key] for key in ("finish_reason", "stop_reason") if key in rows[-1]}
    logprobs = {"content": entries} if entries else None
    return {"index": index, "message": message, "logprobs": logprobs, **last}


def _plus(one: str | None, other: str | None) -> str | None:
    return other if one is None else one + (other or "")
