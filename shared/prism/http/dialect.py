"""How an API puts a stream together, and how it words an error.

An API family that says nothing of it speaks OpenAI's dialect: server-sent events, ``[DONE]`` at the
end, errors as an object called ``error``.
"""

from __future__ import annotations

from typing import Any, Protocol

from prism.http.errors import UpstreamShape, dumps
from prism.http.sse import MAX_EVENT_BYTES, Event, Reader

Json = dict[str, Any]


class EventReader(Protocol):
    """Turns the bytes of a stream into events, however they are cut."""

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes and return the events that are complete now."""
        ...


class Dialect:
    """OpenAI's, and the base of the others. Error bodies are made in its shape, then translated."""

    media_type = "text/event-stream"
    content_type = "text/event-stream; charset=utf-8"
    tail = b""  # what a stream that ended may lack
    texts: frozenset[str] = frozenset()  # media types of whole answers that are text, not JSON

    def reader(self) -> EventReader:
        """Return a reader at the start of a stream."""
        return Reader()

    def encode(self, event: Event) -> bytes:
        """Return an event as bytes."""
        return event.encode()

    def note(self, receipt: str) -> bytes:
        """Return a receipt on its own: a comment, which clients ignore by the book."""
        return f": prism-receipt {receipt}\n\n".encode()

    def last(self, event: Event, receipt: str) -> bytes:
        """Return a stream's last event, with its receipt."""
        return self.note(receipt) + self.encode(event)

    def error(self, body: Json) -> Json:
        """Translate an error's body from OpenAI's shape."""
        return body

    def engine_error(self, body: Json) -> Json:
        """Return an error of the engine's own, which speaks the API, as the client gets it."""
        return body

    def broken(self, body: Json) -> list[Event]:
        """Return how a stream says that it ends in an error, given in OpenAI's shape."""
        return [_event(self.error(body)), Event("[DONE]")]


class Bare(Dialect):
    """Server-sent events that simply end: no ``[DONE]``."""

    def broken(self, body: Json) -> list[Event]:
        """Return the error as the last event."""
        return [_event(self.error(body))]


class NdJson(Bare):
    """One JSON object a line. Comments there are none: the receipt is a key of the last object."""

    media_type = "application/x-ndjson"
    content_type = "application/x-ndjson"
    tail = b"\n"  # not every server ends its last line

    def reader(self) -> EventReader:
        """Return a reader at the start of a stream."""
        return LineReader()

    def encode(self, event: Event) -> bytes:
        """Return an event as a line."""
        return b"" if event.data is None else event.data.encode("utf-8", "replace") + b"\n"

    def note(self, receipt: str) -> bytes:
        """Return nothing: there is no place for a receipt but in an object."""
        return b""

    def last(self, event: Event, receipt: str) -> bytes:
        """Return the last object, with its receipt as ``prism``."""
        if event.data is None or not event.data.endswith("}"):
            return self.encode(event)
        comma = "" if event.data == "{}" else ","
        return self.encode(Event(f'{event.data[:-1]}{comma}"prism":{receipt}}}'))

    def error(self, body: Json) -> Json:
        """Return Ollama's shape: ``error`` is the message."""
        error = body.get("error")
        return {"error": error["message"]} if isinstance(error, dict) else body


class CohereV2(Dialect):
    """Cohere's: events as OpenAI's, ``[DONE]`` too, and errors that are a message and no more."""

    def error(self, body: Json) -> Json:
        """Return Cohere's shape."""
        error = body.get("error")
        return {"message": error["message"]} if isinstance(error, dict) else body

    def broken(self, body: Json) -> list[Event]:
        """Return the end of a message that an error broke off."""
        delta = {"error": self.error(body).get("message", ""), "finish_reason": "ERROR"}
        return [_event({"type": "message-end", "delta": delta}), Event("[DONE]")]


class Texts(Dialect):
    """OpenAI's, where an answer may also be a text: a transcript, perhaps as subtitles."""

    texts = frozenset({"text/plain", "text/vtt", "text/srt", "application/x-subrip"})


class LineReader:
    """Turns bytes into lines, incrementally. A line that never ends is never reported."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes and return the lines that are complete now."""
        searched = len(self._buffer)
        self._buffer += chunk
        if len(self._buffer) > MAX_EVENT_BYTES:
            raise UpstreamShape("the engine sent a line that is too long", code="event_too_large")
        if self._buffer.find(b"\n", searched) < 0:
            return []
        *lines, rest = bytes(self._buffer).split(b"\n")
        self._buffer = bytearray(rest)
        try:
            return [Event(line.decode("utf-8")) for line in lines if line.strip()]
        except UnicodeDecodeError:
            raise UpstreamShape("the engine sent invalid UTF-8", code="upstream_utf8") from None


OPENAI = Dialect()
BARE = Bare()
NDJSON = NdJson()
COHERE = CohereV2()
TEXTS = Texts()


def dialect_of(family: object) -> Dialect:
    """Return the dialect that a family names as ``dialect``, or OpenAI's."""
    named = getattr(family, "dialect", OPENAI)
    assert isinstance(named, Dialect)
    return named


def _event(body: Json) -> Event:
    return Event(dumps(body).decode())
