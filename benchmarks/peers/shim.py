"""The thinnest HTTP server around a guardrail that is a library: pure ASGI, nothing judged here.

Runs in the peer's own environment, so it imports nothing of this project.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

Json = dict[str, Any]
Answer = Json | AsyncIterator[Json]
Handler = Callable[[Json], Awaitable[Answer]]

UPSTREAM = os.environ.get("UPSTREAM_V1", "http://127.0.0.1:9001/v1")
MODELS = {"object": "list", "data": [{"id": "conform", "object": "model"}]}


class Blocked(Exception):
    """The library stopped the request or the answer."""


def application(handlers: Mapping[str, Handler]) -> Callable[..., Awaitable[None]]:
    """Return an ASGI application that serves ``handlers`` by path."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["path"] == "/v1/models":
            await _json(send, 200, MODELS)
            return
        handler = handlers.get(scope["path"])
        if handler is None:
            await _json(send, 404, _error("no such route"))
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        await _answer(handler, json.loads(body), send)

    return app


async def _answer(handler: Handler, body: Json, send: Any) -> None:
    begun = False
    try:
        answer = await handler(body)
        if isinstance(answer, dict):
            await _json(send, 200, answer)
            return
        async for row in answer:
            if not begun:
                begun = True
                await _head(send, 200, b"text/event-stream")
            await _piece(send, row)
        if not begun:
            await _head(send, 200, b"text/event-stream")
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
    except Blocked:
        if begun:
            await _piece(send, _error("blocked"))
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        else:
            await _json(send, 400, _error("blocked"))
    except TypeError:  # a library's word for a parameter that it doesn't know
        if begun:
            raise
        await _json(send, 400, _error("unknown parameter"))
    except Exception as error:  # a library's own fault is its answer, whatever it is
        print(f"{type(error).__name__} in the library", file=sys.stderr)
        if begun:
            raise
        await _json(send, 500, _error("the library failed"))


def _error(message: str) -> Json:
    return {"error": {"message": message, "type": "invalid_request_error", "code": None}}


async def _head(send: Any, status: int, kind: bytes) -> None:
    headers = [(b"content-type", kind)]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _piece(send: Any, row: Json) -> None:
    data = b"data: " + json.dumps(row).encode() + b"\n\n"
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _json(send: Any, status: int, body: Json) -> None:
    await _head(send, status, b"application/json")
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
