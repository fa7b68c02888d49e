"""llama.cpp's own completions, as native ``llama-server`` serves them.

Streams have no ``[DONE]``: an event with ``stop: true`` ends a choice. With several prompts, or
``n`` above 1, an answer in one piece is a list.
"""

from __future__ import annotations

from typing import Any

from prism.http import prompts
from prism.http.dialect import BARE
from prism.http.errors import BadRequest, UpstreamShape, dumps
from prism.http.families.choices import FILTERED, ChoiceBase, said_stop
from prism.http.families.llamacpp_prompts import read_prompts
from prism.http.families.openai_common import (
    numbers,
    read_value,
    safe_error,
)
from prism.http.family import Call, Json, Reading, StreamFilter
from prism.http.judge import Judge
from prism.http.logprobs import Entry, Queue, chat_entries, chat_logprobs
from prism.http.sse import Event

_CHANNEL = "content"
_COUNTS = ("id_slot", "tokens_predicted", "tokens_evaluated", "tokens_cached")
_FLAGS = ("truncated", "has_new_line")
_FIGURES = ("generation_settings", "timings", "prompt_progress")
_STOP_TYPES = frozenset({"none", "eos", "limit", "word"})
_PROBABILITIES = "completion_probabilities"


class Native:
    """``/completion`` (also spelt ``/completions``) and ``/infill``."""

    name = "llamacpp"
    paths = ("/completion", "/completions", "/infill")
    dialect = BARE

    def read(self, body: Json, reading: Reading) -> Call:
        """Check the request and take its text out."""
        prompts.refuse_unsafe(body, reading.engine)
        if prompts.flag(body, "return_tokens"):
            raise BadRequest(
                "'return_tokens' is not available on a moderated server: token ids would show "
                "text that is held back; ask for n_probs instead",
                param="return_tokens",
                code="not_moderated",
            )
        given = read_prompts(body, reading)
        messages = given.messages + prompts.context(body, given.known)
        prompts.check_length(messages, reading.max_prompt_chars)
        most = reading.max_choices
        n = prompts.integer(body, "n_cmpl", prompts.integer(body, "n", 1, 1, most), 1, most)
        if n * given.count > most:
            raise BadRequest(
                f"n times the number of prompts is over the limit of {most}",
                param="n",
                code="out_of_range",
            )
        prompts.integer(body, "n_probs", 0, 0, 1_000_000)
        _fields(body)
        return Call(
            # The choice of fields is made here: what the engine leaves out can't be judged.
            body={key: value for key, value in body.items() if key != "response_fields"},
            messages=messages,
            stream=prompts.flag(body, "stream"),
            choices=n * given.count,
            model=prompts.text(body, "model"),
            stop=prompts.stop_strings(body),
            unread=given.unread,
            wanted=_fields(body),
        )

    def refusal(self, call: Call, decision_id: str, message: str) -> Any:
        """Return a normal answer that says ``message``."""
        rows = [_picked(call, _blocked(call, index, message)) for index in range(call.choices)]
        return rows[0] if call.choices == 1 else rows

    def refusal_stream(self, call: Call, decision_id: str, message: str) -> list[Event]:
        """Return the same as a stream."""
        rows: list[Json] = []
        for index in range(call.choices):
            rows.append({"index": index, "content": message, "tokens": [], "stop": False})
            rows.append(_picked(call, _blocked(call, index, "")))
        return [_event(row) for row in rows]

    def whole(self, call: Call, body: Any, judge: Judge) -> Any:
        """Judge an answer in one piece: an object, or a list of them."""
        rows = body if isinstance(body, list) else [body]
        out = []
        for place, row in enumerate(rows):
            index = _index(row, place)
            pieces = _Choice(call, judge, index).feed({**row, "stop": True})
            if index in judge.blocked:
                pieces = [{**_counts(row), **_blocked(call, index, judge.message)}]
            out.append(_picked(call, pieces[0]))
        return out if isinstance(body, list) else out[0]

    def stream(self, call: Call, judge: Judge) -> StreamFilter:
        """Judge an answer in pieces."""
        return _Stream(call, judge)


NATIVE = Native()


class _Stream:
    def __init__(self, call: Call, judge: Judge) -> None:
        self._call = call
        self._judge = judge
        self._choices: dict[int, _Choice] = {}
        self.done = False

    def feed(self, event: Event) -> list[Event]:
        if self.done:
            return []
        if event.data is None:
            return [event]
        body = read_value(event.data)
        if body is None:  # what the server says first when it has several choices to make
            return []
        if isinstance(body, dict) and body.get("error"):
            return [_event(safe_error(body, self._judge))]
        index = _index(body, 0)
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice(self._call, self._judge, index)
        return [] if choice.over else self._events(choice.feed(body))

    def close(self) -> list[Event]:
        if self.done:
            return []
        rows = [row for c in self._choices.values() if not c.over for row in c.close()]
        events = self._events(rows)
        self.done = True
        return events

    def _events(self, rows: list[Json]) -> list[Event]:
        over = [choice.over for choice in self._choices.values()]
        self.done = all(over) and len(over) >= self._call.choices
        events = [_event(_picked(self._call, row) if row["stop"] else row) for row in rows]
        if self.done and rows and rows[-1]["stop"]:
            events[-1] = Event(events[-1].data, last=True)
        return events


class _Choice(ChoiceBase):
    def __init__(self, call: Call, judge: Judge, index: int) -> None:
        super().__init__(call, judge, index)
        self._queue = Queue() if call.body.get("n_probs") else None

    def feed(self, piece: Json) -> list[Json]:
        given = piece.get("content", "")
        if self._queue is not None:
            self._queue.add(chat_entries({"content": piece.get(_PROBABILITIES)}))
        text = self._text(_CHANNEL, given)
        final = piece.get("stop") is True
        if final:
            text += self._end(_CHANNEL)
        if self.blocked:
            return self._cut(text, piece)
        entries = self._queue.take(final=final) if self._queue is not None else []
        progress = piece.get("prompt_progress") is not None
        if not (text or final or entries or progress):
            return []
        self.over = final
        row = {"index": self._index, "content": text, "tokens": [], "stop": final}
        row |= _counts(piece)
        if entries:
            row[_PROBABILITIES] = _probabilities(entries, self._judge.keep_alternatives)
        return [{**row, **self._ending(piece)} if final else row]

    def close(self) -> list[Json]:
        self.over = True
        text = self._end(_CHANNEL)
        if self.blocked:
            return self._cut(text, {})
        row = {"index": self._index, "content": text, "tokens": [], "stop": False}
        return [row] if text else []

    def _cut(self, text: str, piece: Json) -> list[Json]:
        self.over = True
        if not self._shown:
            text += self._judge.message
        row = {"index": self._index, "content": text, "tokens": [], "stop": False}
        end = {**_counts(piece), **_blocked(self._call, self._index, "")}
        return [row, end] if text else [end]

    def _ending(self, piece: Json) -> Json:
        kind = piece.get("stop_type")
        word = piece.get("stopping_word")
        if self._judge.ends_in_refusal(self._index):
            self._judge.refuse(self._index)
            kind, word = FILTERED, ""
        elif kind not in _STOP_TYPES:
            kind = "none"
        return {
            "model": self._call.model or _name(piece.get("model")),
            "prompt": _own_prompt(self._call),
            "stop_type": kind,
            "stopping_word": said_stop(self._call, self._judge, word) or "",
        }


def _counts(piece: Json) -> Json:
    kept: Json = {
        name: piece[name]
        for names, kind in ((_COUNTS, int), (_FLAGS, bool))
        for name in names
        if isinstance(piece.get(name), kind)
    }
    for name in _FIGURES:
        if (figures := numbers(piece.get(name))) is not None:
            kept[name] = figures
    return kept


def _blocked(call: Call, index: int, message: str) -> Json:
    """Return the end of a blocked choice, in one piece with ``message``."""
    return {
        "index": index,
        "content": message,
        "tokens": [],
        "stop": True,
        "model": call.model,
        "prompt": _own_prompt(call),
        "tokens_predicted": 0,
        "tokens_evaluated": 0,
        "stop_type": FILTERED,
        "stopping_word": "",
    }


def _own_prompt(call: Call) -> str:
    # What the client sent, not what the engine made of it: templates, special tokens.
    prompt = call.body.get("prompt")
    return prompt if isinstance(prompt, str) else ""


def _probabilities(entries: list[tuple[Entry, int]], keep_alternatives: bool) -> list[Json]:
    rows: list[Json] = chat_logprobs(entries, keep_alternatives)["content"]
    ids = [entry.data.get("id") for entry, _ in entries]
    return [
        {"id": number, **row} if isinstance(number, int) else row
        for number, row in zip(ids, rows, strict=True)
    ]


def _fields(body: Json) -> tuple[str, ...] | None:
    value = body.get("response_fields")
    if value is None or value == []:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadRequest(
            "response_fields must be a list of strings",
            param="response_fields",
            code="invalid_type",
        )
    return tuple(value)


def _picked(call: Call, row: Json) -> Json:
    """Return what ``response_fields`` asks for: ``a/b`` is the key ``b`` of the object ``a``."""
    if call.wanted is None:
        return row
    found: Json = {}
    for path in call.wanted:
        value: Any = row
        for key in path.split("/"):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found[path] = value
    return found


def _index(row: Any, place: int) -> int:
    if not isinstance(row, dict):
        raise UpstreamShape("the engine sent an event that is no object", code="upstream_shape")
    index = row.get("index", place)
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < 100_000:
        raise UpstreamShape("the engine sent a choice without index", code="upstream_shape")
    return index


def _name(value: object) -> str:
    return value if isinstance(value, str) else ""


def _event(row: Json) -> Event:
    return Event(dumps(row).decode())
