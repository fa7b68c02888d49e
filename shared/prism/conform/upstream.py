"""The scripted engine: an OpenAI- and Anthropic-speaking server that says what a card says.

It stands behind the server under test, and tells the suite what reached it:
``GET /conform/asked/{number}``.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from prism.conform.cards import Card, Say, asked_for
from prism.conform.speakers import SPEAKERS
from prism.conform.speakers.speaker import MODEL

_REMEMBERED = 10_000
_NO_CARD = "fine"


@dataclass
class Record:
    """What became of the requests that named one number."""

    requests: int = 0
    pieces: int = 0
    """Events written so far."""
    total: int = 0
    """Events of the last answer, had it been written to its end."""
    ended: int = 0
    """Answers written to their end."""


class Upstream:
    """The engine, as an ASGI application in ``app``."""

    def __init__(self) -> None:
        self.records: OrderedDict[str, Record] = OrderedDict()
        self.requests = 0
        self.app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/conform/asked/{number}", self._asked),
                *(Route(path, self._answer, methods=["POST"]) for path in SPEAKERS),
            ]
        )

    async def _health(self, request: Request) -> Response:
        return Response(status_code=200)

    async def _models(self, request: Request) -> Response:
        row = {"id": MODEL, "object": "model", "created": 1, "owned_by": "conform"}
        return JSONResponse({"object": "list", "data": [row]})

    async def _asked(self, request: Request) -> Response:
        record = self.records.get(request.path_params["number"], Record())
        return JSONResponse({**asdict(record), "all_requests": self.requests})

    async def _answer(self, request: Request) -> Response:
        body: dict[str, Any] = await request.json()
        self.requests += 1
        asked = asked_for(body)
        record = self._record(asked.number) if asked is not None else Record()
        record.requests += 1
        said = asked.card if asked is not None else _without_card(body)
        speaker = SPEAKERS[request.url.path]
        if body.get("stream") is True:
            return StreamingResponse(
                _paced(list(speaker.stream(said, body)), said, record),
                media_type="text/event-stream",
            )
        record.ended += 1
        return JSONResponse(speaker.whole(said, body))

    def _record(self, number: str) -> Record:
        if number not in self.records and len(self.records) >= _REMEMBERED:
            self.records.popitem(last=False)
        return self.records.setdefault(number, Record())


async def _paced(events: list[bytes], card: Card, record: Record) -> AsyncIterator[bytes]:
    record.total = len(events)
    for number, event in enumerate(events):
        yield event
        record.pieces += 1
        if card.pace and number >= (card.slow_after or 0):
            await asyncio.sleep(card.pace)
    record.ended += 1


def _without_card(body: dict[str, Any]) -> Card:
    """Answer as a small engine: a word, behind the prompt if that is to be echoed."""
    prompt = body.get("prompt")
    echo = prompt if body.get("echo") and isinstance(prompt, str) else ""
    return Card((Say((f"{echo}{_NO_CARD}",)),))
