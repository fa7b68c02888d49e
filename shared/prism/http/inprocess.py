"""Calling an ASGI application without a network: how the self-test talks to the server it is in."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import anyio

from prism.http.asgi import ASGIApp, Message


@dataclass(slots=True)
class Reply:
    """An answer, read to its end."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        """Return the body's JSON, or ``None``."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


async def call(
    app: ASGIApp,
    method: str,
    path: str,
    body: object = None,
    *,
    headers: dict[str, str] | None = None,
    extra: dict[str, Any] | None = None,
    patience: float,
) -> Reply:
    """Send one request. Raises ``TimeoutError``, or what the application raises."""
    payload = b"" if body is None else json.dumps(body).encode()
    sent = {"host": "prism.invalid", "content-length": str(len(payload)), **(headers or {})}
    if body is not None:
        sent["content-type"] = "application/json"
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(key.encode(), value.encode("latin-1")) for key, value in sent.items()],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
        "state": {},
        **(extra or {}),
    }
    reply = Reply()
    waiting: list[Message] = [{"type": "http.request", "body": payload, "more_body": False}]
    over = anyio.Event()

    async def receive() -> Message:
        if waiting:
            return waiting.pop()
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            reply.status = message["status"]
            reply.headers = {
                key.decode("latin-1").lower(): value.decode("latin-1")
                for key, value in message.get("headers", ())
            }
        elif message["type"] == "http.response.body":
            reply.body += message.get("body", b"")
            if not message.get("more_body", False):
                over.set()

    with anyio.fail_after(patience):
        await app(scope, receive, send)
    return reply
