"""Transcripts in pieces: vLLM's chunks, which look like a chat's, and OpenAI's own events.

vLLM transcribes long audio in parts and ends each with a ``finish_reason``; only the stream's own
end is the transcript's.
"""

from __future__ import annotations

from typing import Any

from prism.http.errors import UpstreamShape, dumps
from prism.http.families.audio_answers import usage_of
from prism.http.families.choices import FILTERED
from prism.http.families.filters import DONE, EventFilter
from prism.http.families.openai_common import safe_error
from prism.http.families.pieces import label, mark, word
from prism.http.family import Call, Json
from prism.http.judge import Judge
from prism.http.sse import Event

_CHANNEL = "text"
_DELTA, _END = "transcript.text.delta", "transcript.text.done"
_OBJECTS = ("transcription.chunk", "translation.chunk")


class AudioStream(EventFilter):
    """One transcript on its way out."""

    def __init__(self, call: Call, judge: Judge) -> None:
        super().__init__(call, judge)
        self._frame: Json = {}
        self._reason: str | None = None
        self._usage: Json | None = None
        self._said = ""
        self._pieces = 0
        self._told = False  # whether the transcript is out, though perhaps not its figures

    def _mark(self) -> list[Event]:
        events = self._finish()
        self._ended = True
        return [*events, Event(DONE, last=True)]

    def _error(self, body: Json) -> list[Event]:
        return [_event(safe_error(body, self._judge))]

    def _event(self, body: Json) -> list[Event]:
        kind = body.get("type")
        if kind == _DELTA:
            return self._own_delta(body)
        if kind == _END:
            return self._own_end(body)
        return self._chunk(body) if kind is None else []

    def close(self) -> list[Event]:
        return [] if self._ended else self._finish()

    # vLLM's

    def _chunk(self, body: Json) -> list[Event]:
        choices = body.get("choices")
        if not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices):
            raise UpstreamShape("the engine sent an event without choices", code="upstream_shape")
        kind = body.get("object")
        self._frame = {
            "id": mark(body.get("id")),
            "object": kind if kind in _OBJECTS else _OBJECTS[0],
            "created": body["created"] if isinstance(body.get("created"), int) else 0,
            "model": label(body.get("model")),
        }
        usage = usage_of(body.get("usage"))
        self._usage = usage or self._usage
        text = "".join(self._piece(choice) for choice in choices)
        if self._judge.blocked:
            return [*self._cut(text), Event(DONE, last=True)]
        if not choices and usage is not None:
            events = self._finish()
            return [] if self._ended else [*events, self._sent([], usage)]
        return [self._row(text, None, usage)] if text else []

    def _piece(self, choice: Json) -> str:
        delta = choice.get("delta") or {}
        given = delta.get("content") if isinstance(delta, dict) else None
        self._reason = word(choice.get("finish_reason")) or self._reason
        return self._judged("" if given is None else given)

    def _finish(self) -> list[Event]:
        """End the transcript. What follows is nothing but figures."""
        if self._told or not self._frame:
            return []
        self._told = True
        text = self._judge.finish(0, _CHANNEL)
        self._said += text
        reason, self._reason = self._reason, None
        if self._judge.blocked:
            return self._cut(text)
        if self._judge.ends_in_refusal(0):
            self._judge.refuse(0)
            reason = FILTERED
        return [self._row(text, reason)] if text or reason else []

    def _cut(self, text: str) -> list[Event]:
        self._ended = True
        events = [self._row(text, None)] if text else []
        if not self._said.strip():
            events.append(self._row(self._judge.message, None))
        events.append(self._row("", FILTERED))
        if self._call.include_usage:
            usage = self._usage or {
                "prompt_tokens": 0,
                "completion_tokens": self._pieces,
                "total_tokens": self._pieces,
            }
            events.append(self._sent([], usage))
        return events

    def _row(self, text: str, reason: str | None, usage: Json | None = None) -> Event:
        return self._sent([{"delta": {"content": text}, "finish_reason": reason}], usage)

    def _sent(self, choices: list[Json], usage: Json | None = None) -> Event:
        body = {**self._frame, "choices": choices}
        return _event(body if usage is None else {**body, "usage": usage})

    # OpenAI's

    def _own_delta(self, body: Json) -> list[Event]:
        text = self._judged(body.get("delta"))
        events = [_event({"type": _DELTA, "delta": text})] if text else []
        return [*events, *self._own_error()] if self._judge.blocked else events

    def _own_end(self, body: Json) -> list[Event]:
        text = self._judge.finish(0, _CHANNEL)
        self._said += text
        events = [_event({"type": _DELTA, "delta": text})] if text else []
        if self._judge.blocked:
            return [*events, *self._own_error()]
        if self._judge.ends_in_refusal(0):
            self._judge.refuse(0)
            return [*events, *self._own_error()]
        self._ended = True
        end: Json = {"type": _END, "text": self._said}
        if (usage := usage_of(body.get("usage"))) is not None:
            end["usage"] = usage
        return [*events, Event(_event(end).data, last=True)]

    def _own_error(self) -> list[Event]:
        self._ended = True
        error = {
            "message": self._judge.message,
            "type": "invalid_request_error",
            "param": None,
            "code": FILTERED,
        }
        return [Event(_event({"type": "error", "error": error}).data, last=True)]

    def _judged(self, text: Any) -> str:
        if not isinstance(text, str):
            raise UpstreamShape("the engine's text is not a string", code="upstream_shape")
        if self._told and text:
            raise UpstreamShape("the engine went on with what it had ended", code="upstream_shape")
        self._pieces += 1
        released = self._judge.feed(0, _CHANNEL, text)
        self._said += released
        return released


def _event(body: Json) -> Event:
    return Event(dumps(body).decode())
