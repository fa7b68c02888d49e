"""The events of a response as its client gets them: numbered, complete, and of nothing but what
was released."""

from __future__ import annotations

import time
from typing import Any

from prism.http.errors import dumps
from prism.http.families.pieces import label, mark
from prism.http.families.responses_items import TEXT, Item, Part
from prism.http.family import Call, Json
from prism.http.sse import Event

_ECHOED: Json = {
    "instructions": None, "max_output_tokens": None, "max_tool_calls": None, "metadata": {},
    "parallel_tool_calls": True, "previous_response_id": None, "reasoning": None, "store": True,
    "temperature": None, "text": None, "tool_choice": "auto", "tools": [], "top_p": None,
    "top_logprobs": None, "truncation": "disabled", "user": None,
}  # fmt: skip
_NUMBERS = ("temperature", "top_p", "max_output_tokens", "completed_at")


class Writer:
    """Collects events. What an item or a part is announced with comes before its text."""

    def __init__(self) -> None:
        self.items: list[Item] = []  # in the engine's order
        self.shown: list[Item] = []  # those that the client knows
        self._events: list[Event] = []
        self._number = 0

    def take(self) -> list[Event]:
        """Return what was collected."""
        events, self._events = self._events, []
        return events

    def emit(self, kind: str, *, last: bool = False, **fields: Any) -> None:
        """Write one event."""
        body = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        self._events.append(Event(dumps(body).decode(), kind, last))

    def show(self, item: Item) -> None:
        """Announce an item, behind those that the engine began before it."""
        for each in self.items:
            if each.index is None:
                each.index = len(self.shown)
                self.shown.append(each)
                body = each.body("in_progress", empty=True)
                self.emit("response.output_item.added", output_index=each.index, item=body)
            if each is item:
                return

    def show_part(self, item: Item, part: Part) -> None:
        """Announce a part."""
        self.show(item)
        if part.shown:
            return
        part.shown = True
        if part.form.frame:
            empty = {**part.body(), part.form.key: ""}
            self.emit(f"response.{part.form.frame}.added", **_place(item, part), part=empty)

    def delta(self, item: Item, part: Part, text: str, logprobs: list[Json]) -> None:
        """Write the next piece of a part."""
        self.show_part(item, part)
        part.text.append(text)
        part.logprobs += logprobs
        extra: Json = {"logprobs": logprobs} if part.form is TEXT else {}
        self.emit(f"response.{part.form.event}.delta", **_place(item, part), delta=text, **extra)

    def end_part(self, item: Item, part: Part) -> None:
        """Write a part's end, its text repeated as it went out."""
        self.show_part(item, part)
        part.over = True
        extra: Json = {"logprobs": part.logprobs} if part.form is TEXT else {}
        if "name" in item.head:
            extra["name"] = item.head["name"]
        place = _place(item, part)
        told: Json = {**place, part.form.key: part.said, **extra}
        self.emit(f"response.{part.form.event}.done", **told)
        if part.form.frame:
            self.emit(f"response.{part.form.frame}.done", **place, part=part.body())

    def end_item(self, item: Item, status: str = "completed") -> None:
        """Write an item's end, all of its parts repeated."""
        self.show(item)
        for part in item.parts.values():
            if part.shown and not part.over:
                self.end_part(item, part)
        item.over, item.status = True, status
        body = item.body(status)
        self.emit("response.output_item.done", output_index=item.index, item=body)

    def say(self, message: Json) -> None:
        """Write a message of our own."""
        index = len(self.shown)
        empty = {**message, "content": [], "status": "in_progress"}
        self.emit("response.output_item.added", output_index=index, item=empty)
        place: Json = {"item_id": message["id"], "output_index": index, "content_index": 0}
        part = message["content"][0]
        text = part["text"]
        self.emit("response.content_part.added", **place, part={**part, "text": ""})
        self.emit("response.output_text.delta", **place, delta=text, logprobs=[])
        self.emit("response.output_text.done", **place, text=text, logprobs=[])
        self.emit("response.content_part.done", **place, part=part)
        self.emit("response.output_item.done", output_index=index, item=message)


def frame(call: Call, given: Json) -> Json:
    """Return a response with nothing in it yet.

    What it repeats of the request is taken from the request, not from the engine.
    """
    created = given.get("created_at")
    shown: Json = {
        "id": mark(given.get("id")),
        "object": "response",
        "created_at": created if isinstance(created, int | float) else int(time.time()),
        "model": label(given.get("model")) or call.model,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "usage": None,
    }
    for key, default in _ECHOED.items():
        value = call.body.get(key)
        shown[key] = default if value is None else value
    for key in _NUMBERS:
        if isinstance(given.get(key), int | float):
            shown[key] = given[key]
    return shown


def message_item(name: str, text: str) -> Json:
    """Return a finished message that says ``text``."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {
        "id": name,
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }


def count(prompt: int, completion: int) -> Json:
    """Return usage in the API's shape."""
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + completion,
    }


def _place(item: Item, part: Part) -> Json:
    place: Json = {"item_id": item.head["id"], "output_index": item.index}
    if part.form.place:
        place[part.form.place] = part.number
    return place
