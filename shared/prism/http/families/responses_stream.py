"""A response in pieces, as vLLM and llama-server send it.

Nothing that repeats a text (the ``done`` events, the finished items, the final response) is passed
on: each is put together again from what really went out.
"""

from __future__ import annotations

from typing import Any

from prism.http.errors import UpstreamShape
from prism.http.families.choices import FILTERED
from prism.http.families.filters import EventFilter
from prism.http.families.openai_common import (
    numbers,
    safe_error,
)
from prism.http.families.pieces import Channels, word
from prism.http.families.responses_items import (
    CALLS,
    FORMS,
    KINDS,
    LISTS,
    TEXT,
    Form,
    Item,
    Part,
    keys_of,
)
from prism.http.families.responses_prompts import wants_logprobs
from prism.http.families.responses_writer import Writer, count, frame, message_item
from prism.http.family import Call, Json
from prism.http.judge import Judge
from prism.http.logprobs import Queue, chat_entries, chat_logprobs
from prism.http.sse import Event

_MAX_ITEMS = 4096
_DELTAS = {f"response.{form.event}.delta": form for form in FORMS}
_DONES = {f"response.{form.event}.done": form for form in FORMS}
_FRAMES = {f"response.{form.frame}.done" for form in FORMS if form.frame}
_ENDS = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
}
_STATUS = frozenset({*_ENDS.values(), "cancelled"})


class ResponseStream(EventFilter):
    """One response on its way out."""

    def __init__(self, call: Call, judge: Judge) -> None:
        super().__init__(call, judge)
        self._channels = Channels(judge)
        self._out = Writer()
        self._named: dict[tuple[str, Any], Item | None] = {}  # None: of a kind not known here
        self._frame: Json | None = None
        self._usage: Json | None = None
        self._asked = wants_logprobs(call.body)

    def _error(self, body: Json) -> list[Event]:
        self._ended = True
        self._out.emit("error", last=True, **error_fields(safe_error(body, self._judge)))
        return self._out.take()

    def _event(self, body: Json) -> list[Event]:
        kind = body.get("type")
        if not isinstance(kind, str):
            raise UpstreamShape("the engine sent an event without a type", code="upstream_shape")
        if kind in ("response.created", "response.in_progress"):
            self._frame = self._frame or frame(self._call, _dict(body.get("response")))
            shown = {**self._frame, "status": "in_progress", "output": []}
            self._out.emit(kind, response=shown)
            return self._out.take()
        if self._frame is None:
            raise UpstreamShape("the engine's response has no start", code="upstream_shape")
        if kind in _ENDS:
            self._finish(kind, _dict(body.get("response")))
        else:
            self._take(kind, body)
            if self._channels.blocked:
                self._cut()
        return self._out.take()

    def close(self) -> list[Event]:
        """Without an end mark the client sees that the engine broke off; held text still counts."""
        if self._ended:
            return []
        self._ended = True
        for item in self._out.items:
            for part in list(item.parts.values()):
                self._stop(item, part)
        if self._channels.blocked:
            self._cut()
        return self._out.take()

    def whole(self, given: Json) -> Json:
        """Judge a response in one piece."""
        if not isinstance(given.get("output"), list):
            raise UpstreamShape("the engine's answer has no output", code="upstream_shape")
        self._frame = frame(self._call, given)
        return self._finish("response.completed", given)

    # The engine's events

    def _take(self, kind: str, body: Json) -> None:
        if kind == "response.output_item.added":
            self._add(body, _dict(body.get("item")))
            return
        given = _dict(body.get("item")) if kind == "response.output_item.done" else {}
        if given and not any(key in self._named for key in keys_of(body, given)):
            self._add(body, given)  # without notice, and all at once
        item = self._find(body, given)
        if item is None or item.over or self._channels.blocked:
            return
        if given:
            self._absorb(item, given)
            self._end(item)
        elif kind in _DELTAS:
            part = self._part(item, _DELTAS[kind], body)
            self._feed(item, part, body.get("delta"), body.get("logprobs"))
        elif kind in _DONES:
            part = self._part(item, _DONES[kind], body)
            self._rest(item, part, body.get(part.form.key), None)
            self._end_part(item, part)
        elif kind in _FRAMES:
            piece = _dict(body.get("part"))
            for form in FORMS:
                if form.frame and form.kind == piece.get("type"):
                    part = self._part(item, form, body)
                    self._rest(item, part, piece.get(form.key), piece.get("logprobs"))
                    self._end_part(item, part)

    def _add(self, body: Json, given: Json) -> None:
        named = keys_of(body, given)
        if not named or any(key in self._named for key in named) or len(self._named) > _MAX_ITEMS:
            raise UpstreamShape("the engine's items can't be told apart", code="upstream_shape")
        kind = given.get("type")
        item = None
        if isinstance(kind, str) and kind in KINDS:
            number = len(self._out.items)
            item = Item(kind, {}, f"items.{number}")
            self._out.items.append(item)
            spare = given.get("call_id") or f"item_{number}"
            heads = {**given, "id": given.get("id") or spare}
            for key in ("id", "call_id", "name", "namespace") if kind in CALLS else ("id",):
                if heads.get(key) is not None:
                    channel = f"{item.base}.{key}"
                    item.head[key] = self._channels.scan(channel, heads[key])
        self._named.update(dict.fromkeys(named, item))
        if item is not None and kind in CALLS and not self._channels.blocked:
            self._out.show(item)  # its name is judged: it can go out at once

    def _find(self, body: Json, given: Json) -> Item | None:
        for key in keys_of(body, given):
            if key in self._named:
                return self._named[key]
        return None

    def _part(self, item: Item, form: Form, body: Json) -> Part:
        listed = LISTS.get(item.kind, {}).values()
        if form is not CALLS.get(item.kind) and not any(form in forms for forms in listed):
            raise UpstreamShape("the engine mixed up its items", code="upstream_shape")
        number = body.get(form.place, 0) if form.place else 0
        if isinstance(number, bool) or not isinstance(number, int):
            raise UpstreamShape("the engine's part has no number", code="upstream_shape")
        if (form, number) in item.parts:
            return item.parts[form, number]
        part = item.part(form, number)
        if form is TEXT:
            for other in self._out.items:  # one text, so one after the other
                for each in other.parts.values():
                    if each.form is TEXT and each is not part:
                        self._stop(other, each)
            self._channels.begin(part.channel)
            part.queue = Queue() if self._asked else None
        return part

    def _absorb(self, item: Item, given: Json) -> None:
        """Take from a finished item what did not come in pieces."""
        form = CALLS.get(item.kind)
        if form is not None:
            self._rest(item, self._part(item, form, {}), given.get(form.key) or "", None)
            return
        for name, forms in LISTS[item.kind].items():
            listed = given.get(name)
            for number, piece in enumerate(listed if isinstance(listed, list) else []):
                for form in forms:
                    if _dict(piece).get("type") == form.kind:
                        part = self._part(item, form, {form.place: number})
                        self._rest(item, part, piece.get(form.key), piece.get("logprobs"))

    def _rest(self, item: Item, part: Part, text: object, logprobs: object) -> None:
        """Feed what a whole text has beyond its pieces. Where it differs, the pieces count."""
        if not isinstance(text, str):
            raise UpstreamShape("the engine's text is not a string", code="upstream_shape")
        before = "".join(part.raw)
        if not part.over and len(text) > len(before) and text.startswith(before):
            self._feed(item, part, text[len(before) :], None if before else logprobs)

    # What goes out

    def _feed(self, item: Item, part: Part, text: object, logprobs: object) -> None:
        if part.queue is not None and isinstance(logprobs, list):
            part.queue.add(chat_entries({"content": logprobs}))
        released = self._channels.feed(part.channel, text)
        part.raw.append(str(text))
        self._release(item, part, released)

    def _release(self, item: Item, part: Part, text: str, *, final: bool = False) -> None:
        entries: list[Json] = []
        if part.queue is not None and not self._channels.blocked:
            part.queue.released(part.channel, text)
            taken = part.queue.take(final=final)
            entries = chat_logprobs(taken, self._judge.keep_alternatives)["content"]
        if text or entries:
            self._out.delta(item, part, text, entries)

    def _stop(self, item: Item, part: Part) -> None:
        """End a part's channel; what was held of it goes out."""
        if not part.over:
            self._release(item, part, self._channels.finish(part.channel), final=True)

    def _end_part(self, item: Item, part: Part) -> None:
        self._stop(item, part)
        if not part.over and not self._channels.blocked:
            self._out.end_part(item, part)

    def _end(self, item: Item) -> None:
        for part in list(item.parts.values()):
            self._end_part(item, part)
        if not self._channels.blocked:
            self._out.end_item(item)

    def _finish(self, kind: str, given: Json) -> Json:
        self._usage = numbers(given.get("usage"))
        listed = given.get("output")
        fresh = not self._named  # nothing came in pieces
        for number, piece in enumerate(listed if isinstance(listed, list) else []):
            place = {"output_index": number} if fresh else {}
            if fresh:
                self._add(place, _dict(piece))
            item = self._find(place, _dict(piece))
            if item is not None and not item.over and not self._channels.blocked:
                self._absorb(item, piece)
        for item in self._out.items:
            if not item.over and not self._channels.blocked:
                self._end(item)
        if self._channels.blocked:
            return self._cut()
        status = given.get("status")
        status = status if status in _STATUS else _ENDS[kind]
        reason = word(_dict(given.get("incomplete_details")).get("reason"))
        if self._channels.refused():
            kind, status, reason = "response.incomplete", "incomplete", FILTERED
        self._frame = {**frame(self._call, given), "id": (self._frame or {}).get("id")}
        final = self._final(status, reason, [item.body(item.status) for item in self._out.shown])
        if given.get("error") is not None:
            shown = error_fields(safe_error({"error": given["error"]}, self._judge))
            final["error"] = {"code": shown["code"], "message": shown["message"]}
        self._ended = True
        self._out.emit(kind, last=True, response=final)
        if self._call.keep is not None and status in ("completed", "incomplete"):
            self._call.keep(final)
        return final

    def _cut(self) -> Json:
        """End the response: what was cleared before the match, then the API's word for a block.

        Returns the response as it is told in one piece: the message, and nothing else.
        """
        self._ended = True
        for item in self._out.shown:
            if not item.over:
                self._out.end_item(item, "incomplete")
        output = [item.body(item.status) for item in self._out.shown]
        said = message_item(f"msg_{self._judge.session.id}", self._judge.message)
        if not self._channels.spoke:
            self._out.say(said)
            output.append(said)
        final = self._final("incomplete", FILTERED, output)
        self._out.emit("response.incomplete", last=True, response=final)
        return {**final, "output": [said]}

    def _final(self, status: str, reason: str | None, output: list[Json]) -> Json:
        # An engine that was stopped early did not count; each piece was at least one token.
        usage = self._usage or count(0, self._channels.pieces)
        details = {"reason": reason} if reason else None
        frame_ = self._frame or {}
        ended = {"status": status, "incomplete_details": details, "output": output, "usage": usage}
        return {**frame_, **ended}


def error_fields(body: Json) -> Json:
    """Return an error as an event of this API has it, from either shape."""
    given = body["error"] if isinstance(body.get("error"), dict) else body
    code = given.get("code")
    return {
        "code": None if code is None else str(code),
        "message": str(given.get("message") or "the engine reported an error"),
        "param": given.get("param") if isinstance(given.get("param"), str) else None,
    }


def _dict(value: Any) -> Json:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UpstreamShape("the engine sent no object", code="upstream_shape")
    return value
