"""Cohere's v2 stream: blocks of content and tool calls, each begun and ended by an event."""

from __future__ import annotations

from typing import Any

from prism.http.errors import UpstreamShape, dumps
from prism.http.families.openai_common import numbers, read_json
from prism.http.families.pieces import Channels, mark
from prism.http.families.values import judged
from prism.http.family import Json
from prism.http.judge import Judge
from prism.http.sse import Event

FILTERED = "ERROR_TOXIC"
REASONS = frozenset(
    {"COMPLETE", "STOP_SEQUENCE", "MAX_TOKENS", "TOOL_CALL", "ERROR", "TIMEOUT", FILTERED}
)
_WITHHELD = "the engine reported an error whose text is withheld"
_MAX_CITATIONS = 1024
_DONE = Event("[DONE]", last=True)


def no_usage(output: int) -> Json:
    """Return the usage of an answer whose engine told none."""
    tokens = {"input_tokens": 0, "output_tokens": output}
    return {"billed_units": tokens, "tokens": tokens}


class CohereStream:
    """A streamed answer on its way out."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._channels = Channels(judge)
        self._open: tuple[str, int, str] | None = None  # "content" or "tool-call", index, channel
        self._plan: str | None = None  # channel of the plan that is being told
        self._blocks = 0
        self._next = 0  # index for a block of ours
        self._id = ""
        self._started = False
        self._ended = False
        self._citations: list[Json] = []
        self.done = False
        self._handlers = {
            "message-start": self._message_start,
            "content-start": self._content_start,
            "content-delta": self._content_delta,
            "content-end": self._block_end,
            "tool-plan-delta": self._tool_plan,
            "tool-call-start": self._tool_start,
            "tool-call-delta": self._tool_delta,
            "tool-call-end": self._block_end,
            "citation-start": self._citation,
            "message-end": self._message_end,
        }

    def feed(self, event: Event) -> list[Event]:
        """Take one event of the engine."""
        if self.done:
            return []
        if event.data is None:
            return [event]
        if event.data.strip() == "[DONE]":
            return [*self.close(), _DONE]
        body = read_json(event.data)
        handler = self._handlers.get(str(body.get("type")))
        if handler is None or self._ended:  # what isn't known here doesn't go out
            return []
        return self._told(handler(body))

    def close(self) -> list[Event]:
        """End what is open; what is held still counts."""
        if self.done:
            return []
        events = [] if self._ended else self._told(self._close())
        self.done = True
        return [event for event in events if not event.last]

    def _told(self, rows: list[Json]) -> list[Event]:
        ending: list[Event] = []
        if self._channels.blocked and not self._ended:
            rows = rows + self._cut()
            self._ended = self.done = True
            ending = [_DONE]
        return [*(Event(dumps(row).decode()) for row in rows), *ending]

    def _cut(self) -> list[Json]:
        rows: list[Json] = []
        if not self._started:
            rows.append(self._start())
        if self._open is not None and self._open[0] == "tool-call":
            rows.append(self._end_of(self._open))
            self._open = None
        if not self._channels.spoke:
            block = self._open
            if block is not None and not block[2].endswith(".text"):
                rows.append(self._end_of(block))
                block = None
            if block is None:
                block = ("content", self._next, "")
                rows.append(_content("content-start", block[1], {"type": "text", "text": ""}))
            rows.append(_content("content-delta", block[1], {"text": self._judge.message}))
            self._open = block
        if self._open is not None:
            rows.append(self._end_of(self._open))
        delta = {"finish_reason": FILTERED, "usage": no_usage(self._channels.pieces)}
        return [*rows, {"type": "message-end", "id": self._id, "delta": delta}]

    # Events

    def _message_start(self, body: Json) -> list[Json]:
        self._id = mark(body.get("id"))
        return [self._start()]

    def _start(self) -> Json:
        self._started = True
        delta = {"message": {"role": "assistant"}}
        return {"type": "message-start", "id": self._id, "delta": delta}

    def _content_start(self, body: Json) -> list[Json]:
        rows = self._close()
        content = _within(body, "content")
        kind = content.get("type")
        if kind not in ("text", "thinking"):
            raise UpstreamShape("the engine's content is of no known type", code="upstream_shape")
        block = self._begin("content", _index(body), kind)
        if kind == "text":
            self._channels.begin(block[2])
        released = self._channels.feed(block[2], content.get(kind) or "")
        start = _content("content-start", block[1], {"type": kind, kind: ""})
        return [*rows, start, *self._delta(block, released)]

    def _content_delta(self, body: Json) -> list[Json]:
        block = self._opened("content", _index(body))
        kind = block[2].rpartition(".")[2]
        content = _within(body, "content")
        return self._delta(block, self._channels.feed(block[2], content.get(kind) or ""))

    def _tool_plan(self, body: Json) -> list[Json]:
        rows = self._close() if self._plan is None else []
        if self._plan is None:
            self._blocks += 1
            self._plan = f"plans.{self._blocks}.tool_plan"
        text = _message(body).get("tool_plan")
        return [*rows, *_plan(self._channels.feed(self._plan, text or ""))]

    def _tool_start(self, body: Json) -> list[Json]:
        rows = self._close()
        call = _within(body, "tool_calls")
        function = call.get("function")
        if not isinstance(function, dict):
            raise UpstreamShape("the engine's tool call is no object", code="upstream_shape")
        block = self._begin("tool-call", _index(body), "arguments")
        stem, spoke = block[2].rpartition(".")[0], self._channels.spoke
        made = self._channels.scan(f"{stem}.id", call.get("id") or "")
        name = self._channels.scan(f"{stem}.name", function.get("name") or "")
        if self._channels.blocked:  # no part of the head has gone out
            self._open, self._channels.spoke = None, spoke
            return rows
        head = {"id": made, "type": "function", "function": {"name": name, "arguments": ""}}
        start = _row("tool-call-start", block[1], {"tool_calls": head})
        released = self._channels.feed(block[2], function.get("arguments") or "")
        return [*rows, start, *self._delta(block, released)]

    def _tool_delta(self, body: Json) -> list[Json]:
        block = self._opened("tool-call", _index(body))
        function = _within(body, "tool_calls").get("function")
        text = function.get("arguments") if isinstance(function, dict) else None
        return self._delta(block, self._channels.feed(block[2], text or ""))

    def _block_end(self, body: Json) -> list[Json]:
        return self._close()

    def _citation(self, body: Json) -> list[Json]:
        # A citation repeats text that may still be held: it goes out when all text is.
        if len(self._citations) < _MAX_CITATIONS:
            self._citations.append(body)
        return []

    def _message_end(self, body: Json) -> list[Json]:
        rows = self._close()
        given = [_message(cited).get("citations") for cited in self._citations]
        shown = judged(self._judge, 0, "citations", given) or []
        for cited, found in zip(self._citations, shown, strict=False):
            index = _index(cited)
            rows.append(_row("citation-start", index, {"citations": found}))
            rows.append({"type": "citation-end", "index": index})
        if self._channels.blocked:
            # Not one citation, then: which of them it was doesn't matter.
            return [row for row in rows if not row["type"].startswith("citation")]
        told = body.get("delta")
        told = told if isinstance(told, dict) else {}
        reason = told.get("finish_reason")
        if self._channels.refused():
            reason = FILTERED
        delta: Json = {"finish_reason": reason if reason in REASONS else "COMPLETE"}
        if isinstance(told.get("error"), str):
            fine = self._judge.passes_error(told["error"])
            delta["error"] = told["error"] if fine else _WITHHELD
        if (usage := numbers(told.get("usage"))) is not None:
            delta["usage"] = usage
        self._ended = True
        return [*rows, {"type": "message-end", "id": self._id, "delta": delta}]

    # Blocks

    def _begin(self, what: str, index: int, kind: str) -> tuple[str, int, str]:
        self._blocks += 1
        if what == "content":
            self._next = max(self._next, index + 1)
        self._open = (what, index, f"blocks.{self._blocks}.{kind}")
        return self._open

    def _opened(self, what: str, index: int) -> tuple[str, int, str]:
        if self._open is None or self._open[:2] != (what, index):
            raise UpstreamShape("the engine went on with what is not open", code="upstream_shape")
        return self._open

    def _close(self) -> list[Json]:
        """End whatever is open, with the text that was held of it."""
        rows: list[Json] = []
        if self._plan is not None:
            rows += _plan(self._channels.finish(self._plan))
            self._plan = None
        block = self._open
        if block is not None:
            rows += self._delta(block, self._channels.finish(block[2]))
            if not self._channels.blocked:
                rows.append(self._end_of(block))
                self._open = None
        return rows

    def _delta(self, block: tuple[str, int, str], text: str) -> list[Json]:
        if not text:
            return []
        if block[0] == "content":
            return [_content("content-delta", block[1], {block[2].rpartition(".")[2]: text})]
        return [
            _row("tool-call-delta", block[1], {"tool_calls": {"function": {"arguments": text}}})
        ]

    def _end_of(self, block: tuple[str, int, str]) -> Json:
        return {"type": f"{block[0]}-end", "index": block[1]}


def _row(kind: str, index: int, message: Json) -> Json:
    return {"type": kind, "index": index, "delta": {"message": message}}


def _content(kind: str, index: int, content: Json) -> Json:
    return _row(kind, index, {"content": content})


def _plan(text: str) -> list[Json]:
    if not text:
        return []
    return [{"type": "tool-plan-delta", "delta": {"message": {"tool_plan": text}}}]


def _message(body: Json) -> Json:
    delta = body.get("delta")
    message = delta.get("message") if isinstance(delta, dict) else None
    if not isinstance(message, dict):
        raise UpstreamShape("the engine's event has no message", code="upstream_shape")
    return message


def _within(body: Json, key: str) -> Json:
    value = _message(body).get(key)
    if not isinstance(value, dict):
        raise UpstreamShape(f"the engine's {key} is no object", code="upstream_shape")
    return value


def _index(body: Json) -> int:
    index: Any = body.get("index", 0)
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < 100_000:
        raise UpstreamShape("the engine sent an event without index", code="upstream_shape")
    return index
