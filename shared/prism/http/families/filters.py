"""What the filters of streams of typed events have in common: their end, their engine's errors."""

from __future__ import annotations

from abc import ABC, abstractmethod

from prism.http.families.openai_common import read_json
from prism.http.family import Call, Json
from prism.http.judge import Judge
from prism.http.sse import Event

DONE = "[DONE]"


class EventFilter(ABC):
    """One answer on its way out, event by event."""

    def __init__(self, call: Call, judge: Judge) -> None:
        self._call = call
        self._judge = judge
        self._ended = False

    @property
    def done(self) -> bool:
        """Whether nothing more will be let out."""
        return self._ended

    def feed(self, event: Event) -> list[Event]:
        """Take one event of the engine and return those that may go out now."""
        if self._ended:
            return []
        if event.data is None:
            return [event]
        if event.data.strip() == DONE:
            return self._mark()
        body = read_json(event.data)
        if body.get("error") or body.get("type") == "error":
            return self._error(body)
        return self._event(body)

    def _mark(self) -> list[Event]:
        """Take OpenAI's end mark, which other APIs don't have though their engines send it."""
        return []

    @abstractmethod
    def _event(self, body: Json) -> list[Event]: ...

    @abstractmethod
    def _error(self, body: Json) -> list[Event]: ...
