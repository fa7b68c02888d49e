"""Server-sent events: read from any chunking of bytes, written afresh.

Nothing of the upstream's framing is passed on: comments, ids and unknown fields could carry text
that nobody judged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from prism.http.errors import UpstreamShape

MAX_EVENT_BYTES = 32_000_000
"""Largest single event read. An echo of the longest prompt with logprobs stays below it."""

KEEP_ALIVE = b": keep-alive\n\n"

_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(slots=True)  # not frozen: one is made for each token, and that takes twice the time
class Event:
    """One event. ``data`` is ``None`` for a comment; ``last`` marks the API's end of stream."""

    data: str | None
    name: str | None = None
    last: bool = False

    def encode(self) -> bytes:
        """Return the event as bytes."""
        if self.data is None:
            return KEEP_ALIVE
        head = f"event: {self.name}\n" if self.name else ""
        body = "".join(f"data: {line}\n" for line in self.data.split("\n"))
        return f"{head}{body}\n".encode("utf-8", "replace")


class Reader:
    """Turns bytes into events, incrementally. An event that never ends is never reported."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._skip_lf = False
        self._started = False
        self._data: list[str] = []
        self._size = 0
        self._name: str | None = None

    @property
    def clean(self) -> bool:
        """Whether the next byte begins an event: all that came was whole events."""
        begun = self._buffer or self._data or self._name is not None or self._skip_lf
        return self._started and not begun

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes and return the events that are complete now."""
        if chunk.endswith(b"\n\n") and (whole := self._whole(chunk)) is not None:
            return whole
        if self._skip_lf and chunk:
            self._skip_lf = False
            if chunk[:1] == b"\n":
                chunk = chunk[1:]
        self._buffer += chunk
        if len(self._buffer) + self._size > MAX_EVENT_BYTES:
            raise UpstreamShape("the engine sent an event that is too long", code="event_too_large")
        events: list[Event] = []
        start = 0
        for found in _LINE_END.finditer(self._buffer, self._searched):
            line = bytes(self._buffer[start : found.start()])
            start = found.end()
            if found.group() == b"\r" and start == len(self._buffer):
                self._skip_lf = True  # perhaps half of a CRLF
            event = self._line(line)
            if event is not None:
                events.append(event)
        del self._buffer[:start]
        self._searched = len(self._buffer)
        return events

    def _whole(self, chunk: bytes) -> list[Event] | None:
        """Return the events of a chunk that holds whole ones of one line each, or ``None``.

        That is how engines write them; whatever looks different is read line by line.
        """
        if not self.clean or b"\r" in chunk or len(chunk) > MAX_EVENT_BYTES:
            return None
        try:
            text = chunk.decode()
        except UnicodeDecodeError:
            return None
        if text.find("\n") == len(text) - 2:
            return [Event(text[6:-2])] if text.startswith("data: ") else None
        blocks = text[:-2].split("\n\n")
        if not all(block.startswith("data: ") and "\n" not in block for block in blocks):
            return None
        return [Event(block[6:]) for block in blocks]

    def _line(self, raw: bytes) -> Event | None:
        if not self._started:
            self._started = True
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if not raw:
            return self._dispatch()
        if raw.startswith(b":"):
            return Event(None)
        try:
            field, _, value = raw.decode("utf-8").partition(":")
        except UnicodeDecodeError:
            raise UpstreamShape("the engine sent invalid UTF-8", code="upstream_utf8") from None
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
            self._size += len(raw)
        elif field == "event":
            self._name = value
        return None

    def _dispatch(self) -> Event | None:
        data, name = self._data, self._name
        self._data, self._name, self._size = [], None, 0
        return Event("\n".join(data), name) if data else None
