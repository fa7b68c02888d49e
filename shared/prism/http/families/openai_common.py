"""What chat completions and completions share: the envelope, choices, usage, the stream.

Answers are rebuilt from fields known here. What is not known does not go out, so a field that an
engine adds tomorrow can't carry text past the judge.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any, Protocol

from prism.http.errors import UpstreamShape, dumps
from prism.http.family import Call, Json
from prism.http.judge import Judge
from prism.http.logprobs import Queue
from prism.http.prompts import strings
from prism.http.sse import Event

FILTERED = "content_filter"

_DONE = Event("[DONE]", last=True)
_REASON = re.compile(r"[a-z_]{1,32}")
_ENVELOPE = ("id", "created", "model", "system_fingerprint", "service_tier")
_COUNTS = ("usage", "timings", "metrics")


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
    """How chat and plain completions differ."""

    chunk_object: str

    def choice(self, call: Call, judge: Judge, index: int) -> Choice:
        """Return the state of a new choice."""
        ...


class ChoiceBase:
    """The state of one choice: its channels, its entries of logprobs, its end."""

    def __init__(self, call: Call, judge: Judge, index: int) -> None:
        self.over = False
        self._call = call
        self._judge = judge
        self._index = index
        self._queue = Queue() if call.body.get("logprobs") not in (None, False) else None
        self._open: dict[str, None] = {}  # channels, in order of appearance
        self._shown: set[str] = set()  # channels of which something readable went out

    @property
    def blocked(self) -> bool:
        return self._index in self._judge.blocked

    def _text(self, channel: str, text: object) -> str:
        if not isinstance(text, str):
            raise UpstreamShape(f"the engine's {channel} is not a string", code="upstream_shape")
        self._open.setdefault(channel)
        return self._out(channel, self._judge.feed(self._index, channel, text))

    def _end(self, channel: str) -> str:
        self._open.pop(channel, None)
        return self._out(channel, self._judge.finish(self._index, channel))

    def _out(self, channel: str, text: str) -> str:
        if text.strip():
            self._shown.add(channel)
        if self._queue is not None:
            self._queue.released(channel, text)
        return text

    def _reason(self, piece: Json) -> str | None:
        reason = piece.get("finish_reason")
        if reason is None:
            return None
        if not isinstance(reason, str) or not _REASON.fullmatch(reason):
            raise UpstreamShape("the engine's finish_reason is unknown", code="upstream_shape")
        return reason

    def _final_reason(self, reason: str | None) -> str | None:
        # The token layer can only write its refusal; the API's own word for it is said here.
        if reason is not None and self._judge.ends_in_refusal(self._index):
            self._judge.refuse(self._index)
            return FILTERED
        return reason

    def _tail(self, piece: Json) -> Json:
        stop = piece.get("stop_reason")
        known = isinstance(stop, int) or stop in self._call.stop
        return {"stop_reason": stop} if stop is not None and known else {}


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

    @property
    def done(self) -> bool:
        return self._ended

    def feed(self, event: Event) -> list[Event]:
        if self._ended:
            return []
        if event.data is None:
            return [event]
        if event.data.strip() == "[DONE]":
            return self._flush() + self._finale()
        body = read_json(event.data)
        if body.get("error") is not None:
            return [Event(dumps(safe_error(body, self._judge)).decode())]
        choices = body.get("choices")
        if not isinstance(choices, list):
            raise UpstreamShape("the engine sent an event without choices", code="upstream_shape")
        self._envelope = envelope(body, self._form.chunk_object)
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
        if name in body and (value is None or isinstance(value, str | int)):
            frame[name] = value
    return frame


def numbers(value: Any, depth: int = 4) -> Json | None:
    """Return ``value`` with everything but numbers, nulls and objects of those taken out."""
    if not isinstance(value, dict) or depth == 0:
        return None
    kept: Json = {}
    for key, item in value.items():
        if item is None or isinstance(item, int | float):
            kept[key] = item
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

    Errors are judged because some quote what the model wrote (a tool call that did not parse).
    """
    return body if judge.passes("\n".join(strings(body))) else WITHHELD


WITHHELD: Json = {
    "error": {
        "message": "the engine reported an error whose text is withheld",
        "type": "upstream_error",
        "param": None,
        "code": "error_withheld",
    }
}


def refusal_frame(call: Call, prefix: str, decision_id: str, kind: str) -> Json:
    """Return the envelope of an answer that no engine was asked for."""
    return {
        "id": f"{prefix}-{decision_id}",
        "object": kind,
        "created": int(time.time()),
        "model": call.model,
    }


NO_USAGE: Json = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def done() -> Event:
    """Return the end mark of OpenAI streams."""
    return _DONE
