"""What chat completions and completions share: the envelope, choices, usage, the stream.

Answers are rebuilt from fields known here. What is not known does not go out, so a field that an
engine adds tomorrow can't carry text past the judge.
"""

from __future__ import annotations

import json
import math
import re
import time
from abc import ABC, abstractmethod
from typing import Any, Literal, Protocol

from prism.http.errors import UpstreamShape, dumps
from prism.http.families.choices import ChoiceBase
from prism.http.families.pieces import mark
from prism.http.families.template import Template, learn
from prism.http.family import Call, Json, StreamFilter
from prism.http.judge import Judge
from prism.http.prompts import strings
from prism.http.sse import Event

_DONE = Event("[DONE]", last=True)
_ENVELOPE = ("id", "created", "model", "system_fingerprint", "service_tier")
_FIGURE = re.compile(r"[A-Za-z0-9_./:-]{1,64}")  # what a number is called
_COUNTS = ("usage", "timings", "metrics")
_NOTHING: tuple[int, str, list[Event]] = (0, "", [])
_LESSONS = 8.0
_MOST_AT_ONCE = 4096  # characters


class Choice(Protocol):
    """One choice of a stream."""

    over: bool

    def feed(self, piece: Json) -> list[Json]:
        """Take one piece of the choice and return the pieces that may go out now."""
        ...

    def close(self) -> list[Json]:
        """The engine's stream ended without a word on this choice; return what may go out."""
        ...


class Form(Protocol):
    """How the families whose streams are lists of choices differ."""

    def frame(self, body: Json) -> Json:
        """Return what of a chunk may go out beside its choices and its usage."""
        ...

    def choice(self, call: Call, judge: Judge, index: int) -> Choice:
        """Return the state of a new choice."""
        ...


class OpenAIApi(ABC):
    """What chat and plain completions share as families."""

    kind: str
    chunk_object: str
    id_prefix: str

    def frame(self, body: Json) -> Json:
        """Return what of a chunk may go out beside its choices and its usage."""
        return envelope(body, self.chunk_object)

    @abstractmethod
    def choice(self, call: Call, judge: Judge, index: int) -> Choice:
        """Return the state of a new choice."""
        ...

    @abstractmethod
    def said(self, call: Call, index: int, message: str) -> Json:
        """Return a whole choice that says ``message``, filtered."""
        ...

    @abstractmethod
    def pieces(self, call: Call, index: int, message: str) -> list[Json]:
        """Return the same as pieces of a stream."""
        ...

    def own_frame(self, call: Call, decision_id: str, kind: str) -> Json:
        """Return the envelope of an answer that no engine was asked for."""
        return {
            "id": f"{self.id_prefix}-{decision_id}",
            "object": kind,
            "created": int(time.time()),
            "model": call.model,
        }

    def refusal(self, call: Call, decision_id: str, message: str) -> Json:
        """Return a normal answer that says ``message``."""
        frame = self.own_frame(call, decision_id, self.kind)
        rows = [self.said(call, index, message) for index in range(call.choices)]
        return {**frame, "choices": rows, "usage": NO_USAGE}

    def refusal_stream(self, call: Call, decision_id: str, message: str) -> list[Event]:
        """Return the same as a stream."""
        frame = self.own_frame(call, decision_id, self.chunk_object)
        rows = [row for index in range(call.choices) for row in self.pieces(call, index, message)]
        bodies = [{**frame, "choices": [row]} for row in rows]
        if call.include_usage:
            bodies.append({**frame, "choices": [], "usage": NO_USAGE})
        return [Event(dumps(body).decode()) for body in bodies] + [_DONE]

    def stream(self, call: Call, judge: Judge) -> StreamFilter:
        """Judge an answer in pieces."""
        return OpenAIStream(self, call, judge)


class OpenAIStream:
    """A streamed answer of either family."""

    def __init__(self, form: Form, call: Call, judge: Judge) -> None:
        self._form = form
        self._call = call
        self._judge = judge
        self._choices: dict[int, Choice] = {}
        self._envelope: Json = {}
        self._usage: Json | None = None
        self._usage_sent = False
        self._pieces = 0
        self._ended = False
        self._cut = False
        self._templates: dict[tuple[int, str], Template] = {}
        self._lessons = _LESSONS  # how many events may still be taken apart; more if it pays

    @property
    def done(self) -> bool:
        return self._ended

    def swift(self, chunk: bytes) -> bytes | list[Event] | None:
        """Deal with a chunk that is one event, and differs from earlier ones in its text alone.

        Returns what goes out, written or as events; ``None`` for any other chunk, which is unread.
        The chunk has to begin where an event does.
        """
        for template in self._templates.values():
            if (inside := template.inside(chunk)) is not None:
                break
        else:
            return None
        choice = self._choices[template.index]
        judge = self._judge
        if self._ended or choice.over or not isinstance(choice, ChoiceBase):
            return None
        if not judge.never_waits and judge.waits(len(inside), ends=False):
            return None
        if self._lessons < _LESSONS:
            self._lessons += 0.25
        released: str | Literal[True] | None = choice.token(template.channel, inside)
        if released is True:
            self._pieces += 1
            return template.around(inside)
        text = inside.decode("ascii")
        if released is None:
            released = choice.ahead(template.channel, text)
        if choice.blocked:
            return self.feed(Event(template.filled(text)))
        self._pieces += 1
        if released == text:
            return template.around(inside)
        return template.event(released).encode() if released else b""

    def quick(self, events: list[Event], at: int) -> tuple[int, str, list[Event]]:
        """Deal with events that differ from earlier ones in their text alone, from ``at`` on.

        They are judged as one text. Returns how many there were and what goes out, as it goes out;
        where that is not all of the text, one event for them all.
        """
        data = events[at].data
        if data is None:
            return _NOTHING
        for template in self._templates.values():
            text = template.text(data)
            if text is not None:
                break
        else:
            return _NOTHING
        texts, joined = [text], text
        for event in events[at + 1 :]:
            more = template.text(event.data) if event.data is not None else None
            if more is None or len(joined) > _MOST_AT_ONCE:
                break
            texts.append(more)
            joined += more
        choice = self._choices[template.index]
        if self._ended or choice.over or not isinstance(choice, ChoiceBase):
            return _NOTHING
        if self._judge.waits(len(joined), ends=False):
            return _NOTHING
        self._lessons = min(_LESSONS, self._lessons + 0.25)
        released = choice.ahead(template.channel, joined)
        if choice.blocked:
            return len(texts), "", self.feed(Event(template.filled(joined)))
        self._pieces += len(texts)
        if released == joined:
            return len(texts), "".join(map(template.event, texts)), []
        return len(texts), template.event(released) if released else "", []

    def _learn(self, data: str, body: Json, events: list[Event]) -> None:
        choices = body["choices"]
        if len(events) != 1 or len(choices) != 1 or self._lessons < 1 or self._cut:
            return
        index = choices[0].get("index", 0)
        choice = self._choices[index]
        path = choice.plain(choices[0]) if isinstance(choice, ChoiceBase) else None
        if path is None or body.get("usage") is not None or events[0].data is None:
            return
        self._lessons -= 1
        template = learn(data, body, events[0].data, path, index)
        if template is not None:
            self._templates[index, path[-1]] = template

    def feed(self, event: Event) -> list[Event]:
        if self._ended:
            return []
        if event.data is None:
            return [event]
        if event.data.strip() == "[DONE]":
            return self._flush() + self._finale()
        body = read_json(event.data)
        if body.get("error"):
            return [Event(dumps(safe_error(body, self._judge)).decode())]
        choices = body.get("choices")
        if not isinstance(choices, list):
            raise UpstreamShape("the engine sent an event without choices", code="upstream_shape")
        self._envelope = self._form.frame(body)
        usage = numbers(body.get("usage"))
        self._usage = usage or self._usage
        rows: list[list[Json]] = []
        for piece in choices:
            rows.append(self._feed_choice(piece))
        # A chunk can hold several choices; what one choice says twice takes a second chunk.
        depth = max(map(len, rows), default=0)
        events = [self._event([row[n] for row in rows if n < len(row)]) for n in range(depth)]
        if not choices:
            events.append(self._event([], usage))
        elif events and usage is not None and not self._call.usage_injected:
            events[-1] = self._event([row[-1] for row in rows if len(row) == depth], usage)
        self._usage_sent = self._usage_sent or (usage is not None and not choices)
        if self._cut and self._all_over():
            # The others have finished too: nothing of what the engine would still say may go out.
            events += self._finale()
        else:
            self._learn(event.data, body, events)
        return events

    def close(self) -> list[Event]:
        """Without an end mark the client sees that the engine broke off; held text still counts."""
        if self._ended:
            return []
        self._ended = True
        return self._flush()

    def _feed_choice(self, piece: Any) -> list[Json]:
        if not isinstance(piece, dict):
            raise UpstreamShape("the engine sent a choice that is no object", code="upstream_shape")
        index = piece.get("index", 0)
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < 100_000:
            raise UpstreamShape("the engine sent a choice without index", code="upstream_shape")
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = self._form.choice(self._call, self._judge, index)
        self._pieces += 1
        if choice.over:
            return []
        out = choice.feed(piece)
        self._cut = self._cut or index in self._judge.blocked
        return out

    def _all_over(self) -> bool:
        return len(self._choices) >= self._call.choices and all(
            choice.over for choice in self._choices.values()
        )

    def _flush(self) -> list[Event]:
        return [
            self._event([piece])
            for choice in self._choices.values()
            if not choice.over
            for piece in choice.close()
        ]

    def _finale(self) -> list[Event]:
        self._ended = True
        events = []
        if self._cut and self._call.include_usage and not self._usage_sent:
            # The engine was stopped before it could count. Engines that report as they go have
            # told the exact figures; for others each piece was at least one token.
            usage = self._usage or {
                "prompt_tokens": 0,
                "completion_tokens": self._pieces,
                "total_tokens": self._pieces,
            }
            events.append(self._event([], usage))
        return [*events, _DONE]

    def _event(self, choices: list[Json], usage: Json | None = None) -> Event:
        body = {**self._envelope, "choices": choices}
        if usage is not None:
            body["usage"] = usage
        return Event(dumps(body).decode())


def whole(call: Call, body: Json, kind: str) -> tuple[Json, list[Json]]:
    """Check the frame of an answer in one piece; return the new frame and the choices."""
    if not isinstance(body, dict):
        raise UpstreamShape("the engine's answer is no JSON object", code="upstream_shape")
    choices = body.get("choices")
    if not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices):
        raise UpstreamShape("the engine's answer has no choices", code="upstream_shape")
    frame = envelope(body, kind)
    frame["choices"] = []
    for name in _COUNTS:
        counted = numbers(body.get(name))
        if counted is not None:
            frame[name] = counted
    return frame, choices


def envelope(body: Json, kind: str) -> Json:
    """Return the fields around the choices that carry no text of the model's."""
    frame: Json = {"object": kind}
    for name in _ENVELOPE:
        value = body.get(name)
        if isinstance(value, str) and name != "model" and not mark(value):
            continue
        if name in body and (value is None or isinstance(value, str | int)):
            frame[name] = value
    return frame


def figure(value: Any) -> int | float | None:
    """Return a number that JSON has a word for, or ``None``."""
    known = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return value if known else None


def numbers(value: Any, depth: int = 4) -> Json | None:
    """Return ``value`` with everything but numbers, nulls and objects of those taken out."""
    if not isinstance(value, dict) or depth == 0:
        return None
    kept: Json = {}
    for key, item in value.items():
        if not _FIGURE.fullmatch(key):
            continue
        if item is None or isinstance(item, int | float):
            kept[key] = figure(item)
        elif (below := numbers(item, depth - 1)) is not None:
            kept[key] = below
    return kept


def read_value(text: str | bytes) -> Any:
    """Parse what the engine sent. Raises :class:`UpstreamShape`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UpstreamShape("the engine sent no valid JSON", code="upstream_json") from None


def read_json(text: str | bytes) -> Json:
    """Parse an object that the engine sent. Raises :class:`UpstreamShape`."""
    body = read_value(text)
    if not isinstance(body, dict):
        raise UpstreamShape("the engine sent no JSON object", code="upstream_shape")
    return body


def safe_error(body: Json, judge: Judge) -> Json:
    """Return an error of the engine, unless its text would be stopped as an answer.

    Errors are judged because some quote what the model wrote (a tool call that did not parse), and
    hold nothing but what errors hold: an answer beside one is not let out with it.
    """
    shown = {
        key: _error_value(value)
        for key, value in body.items()
        if key in _ERROR_KEYS or (key in _ERROR_MARKS and mark(value))
    }
    fine = judge.passes("\n".join(strings(shown))) and judge.passes_error(_messages(shown))
    return shown if fine else WITHHELD


_ERROR_KEYS = ("type", "object", "error", "message", "detail", "code", "param", "status")
_ERROR_MARKS = ("id", "request_id")
_NAMES = ("type", "object", "code", "param", "status")
_MOST_NUMBERS = 4


def _messages(value: Any, key: str = "") -> str:
    """Return what an error says in words, as several of a stream would be read: one by one."""
    if isinstance(value, dict):
        return "\n".join(filter(None, (_messages(below, key) for key, below in value.items())))
    if isinstance(value, list):
        return "\n".join(filter(None, (_messages(item, key) for item in value)))
    return value if isinstance(value, str) and key not in _NAMES else ""


def _error_value(value: Any) -> Any:
    """Return part of an error without long lists of numbers: those may be text."""
    if isinstance(value, dict):
        return {key: _error_value(below) for key, below in value.items()}
    if isinstance(value, list):
        plain = [item for item in value if isinstance(item, int | float)]
        return [] if len(plain) > _MOST_NUMBERS else [_error_value(item) for item in value]
    return figure(value) if isinstance(value, float) else value


WITHHELD: Json = {
    "error": {
        "message": "the engine reported an error whose text is withheld",
        "type": "upstream_error",
        "param": None,
        "code": "error_withheld",
    }
}


NO_USAGE: Json = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
