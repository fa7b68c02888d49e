"""The state of one choice of a stream, as far as OpenAI's and llama.cpp's families share it."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from prism.http.errors import UpstreamShape
from prism.http.family import Call, Json
from prism.http.judge import Judge
from prism.http.logprobs import Queue

FILTERED = "content_filter"

_REASON = re.compile(r"[a-z_]{1,32}")
_REASONS = frozenset({"stop", "length", "tool_calls", "function_call", FILTERED})


def said_stop(call: Call, judge: Judge, stop: object) -> str | None:
    """Return the stop string that ended an answer, if the request has it and an answer may.

    To name it is to say that the model wrote it.
    """
    if isinstance(stop, str) and stop in call.stop and judge.allows(stop):
        return stop
    return None


class ChoiceBase:
    """The state of one choice: its channels, its entries of logprobs, its end.

    ``paths`` lead to texts that a piece may have by itself, so that :mod:`template` applies.
    """

    paths: ClassVar[tuple[tuple[str, ...], ...]] = ()

    def __init__(self, call: Call, judge: Judge, index: int) -> None:
        self.over = False
        self._ready: str | None = None
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
        if self._ready is not None:
            ready, self._ready = self._ready, None
            return ready
        self._open.setdefault(channel)
        return self._out(channel, self._judge.feed(self._index, channel, text))

    def plain(self, piece: Json) -> tuple[str, ...] | None:
        """Return the path to the text of a piece that is nothing but that text."""
        if self._queue is not None or self.over or self.blocked:
            return None
        for path in self.paths:
            place: Any = piece
            for key in path[:-1]:
                place = place.get(key) if isinstance(place, dict) else None
            if not isinstance(place, dict) or not isinstance(place.get(path[-1]), str):
                continue
            flat = {**piece, **place, "index": None, path[0]: None, path[-1]: None}
            return path if all(value is None for value in flat.values()) else None
        return None

    def ahead(self, channel: str, text: str) -> str:
        """Judge the text of pieces to come; return what may go out.

        If that blocks the choice, the next piece fed is taken to be that text, judged already.
        """
        judge, index = self._judge, self._index
        self._open[channel] = None
        released = self._out(channel, judge.feed(index, channel, text))
        if index in judge.blocked:
            self._ready = released
        return released

    def token(self, channel: str, data: bytes) -> str | Literal[True] | None:
        """Do ``ahead`` with a few characters of ASCII; ``None``: nobody has judged them.

        ``True``: all may go out. For texts that :meth:`plain` told of.
        """
        judge, index = self._judge, self._index
        released = judge.token(index, channel, data)
        if released is None:
            return None
        self._open[channel] = None
        if released is True:
            if channel not in self._shown and data.strip():
                self._shown.add(channel)
            return True
        self._out(channel, released)
        if index in judge.blocked:
            self._ready = released
        return released

    def _end(self, channel: str) -> str:
        self._open.pop(channel, None)
        return self._out(channel, self._judge.finish(self._index, channel))

    def _out(self, channel: str, text: str) -> str:
        if channel not in self._shown and text.strip():
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
        if reason not in _REASONS and not self._judge.allows(reason):
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
        known = isinstance(stop, int) or said_stop(self._call, self._judge, stop) is not None
        return {"stop_reason": stop} if stop is not None and known else {}
