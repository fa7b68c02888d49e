"""The few ASGI names used here, so that the middleware needs no web framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]
Headers = Iterable[tuple[str, str] | tuple[bytes, bytes]]


class ClientGone(Exception):
    """The client hung up before its request was read."""


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first header called ``name`` (lower case), or ``None``."""
    for key, value in scope.get("headers", ()):
        if key.lower() == name:
            return bytes(value).decode("latin-1")
    return None


def headers(scope: Scope, name: bytes) -> list[str]:
    """Return every header called ``name``: a request may repeat one to confuse two readers."""
    return [
        bytes(value).decode("latin-1")
        for key, value in scope.get("headers", ())
        if key.lower() == name
    ]


def route_path(scope: Scope) -> str:
    """Return the path the engine's router will match: the decoded path without ``root_path``.

    The same rule as Starlette's own; a test holds the two against each other.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if not root or not path.startswith(root):
        return path
    if path == root:
        return ""
    return path[len(root) :] if path[len(root)] == "/" else path


async def send_bytes(send: Send, status: int, body: bytes, fields: dict[str, str]) -> None:
    """Send one whole answer."""
    raw = [(key.encode(), value.encode("latin-1")) for key, value in fields.items()]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
