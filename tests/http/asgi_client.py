"""Calling the middleware directly, byte by byte, where a real socket would blur what is tested."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from typing import Any

from prism.http.asgi import Message, Receive, Scope, Send
from prism.http.inprocess import Reply, call

PATIENCE = 120
"""Seconds: long, for kernels may have to be compiled first, on a machine that is busy."""


class Fixed:
    """An engine that always sends the same bytes, in the same pieces."""

    def __init__(
        self, pieces: Iterable[bytes], kind: str = "text/event-stream", status: int = 200
    ) -> None:
        self.pieces = list(pieces)
        self.kind = kind
        self.status = status
        self.headers: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/v1/models":
            await _reply(send, 200, b"application/json", [b'{"data": [{"id": "m"}]}'], [])
            return
        body = json.loads((await receive())["body"])
        pieces, kind = self.pieces, self.kind.encode()
        if "vorquelle" in str(body.get("prompt")):  # the self-test
            pieces, kind = [_echo(body)], b"text/event-stream"
            if not body.get("stream"):
                pieces, kind = [_echo(body)[6:-16]], b"application/json"
            await _reply(send, 200, kind, pieces, [])
            return
        await _reply(send, self.status, kind, pieces, self.headers)


def _echo(body: dict[str, Any]) -> bytes:
    row = {"index": 0, "text": body["prompt"], "finish_reason": "stop"}
    return b"data: " + json.dumps({"choices": [row]}).encode() + b"\n\ndata: [DONE]\n\n"


async def _reply(
    send: Send, status: int, kind: bytes, pieces: list[bytes], more: list[tuple[bytes, bytes]]
) -> None:
    headers = [(b"content-type", kind), *more]
    start: Message = {"type": "http.response.start", "status": status, "headers": headers}
    await send(start)
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def until_live(app: Any) -> None:
    """Wait for the self-test."""
    deadline = time.monotonic() + PATIENCE
    while True:
        reply = await call(app, "GET", "/prism/health", patience=PATIENCE)
        if reply.status == 200:
            return
        assert time.monotonic() < deadline, reply.body
        await asyncio.sleep(0.01)


async def chat(app: Any, **more: Any) -> Reply:
    """Ask for a chat completion."""
    body = {"messages": [{"role": "user", "content": "hello"}], "stream": True, **more}
    return await call(app, "POST", "/v1/chat/completions", body, patience=60)


async def completion(app: Any, **more: Any) -> Reply:
    """Ask for a completion."""
    body = {"prompt": "hello", "stream": True, **more}
    return await call(app, "POST", "/v1/completions", body, patience=60)


def events(reply: Reply) -> list[dict[str, Any]]:
    """Return the JSON events of a streamed reply."""
    blocks = reply.body.decode().split("\n\n")
    data = [block.removeprefix("data: ") for block in blocks if block.startswith("data: ")]
    return [json.loads(text) for text in data if text != "[DONE]"]


def said(reply: Reply, index: int = 0) -> tuple[str, str | None]:
    """Return the text and finish reason of one choice of a streamed reply."""
    text, reason = "", None
    for event in events(reply):
        for choice in event.get("choices", []):
            if choice["index"] == index:
                text += choice.get("text") or choice.get("delta", {}).get("content") or ""
                reason = choice["finish_reason"] or reason
    return text, reason
