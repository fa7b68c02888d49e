"""Answers made here must be readable to the browsers that the engine admits.

An engine's CORS rules live in its own middleware, behind this one. So for an answer that the engine
never saw, its rules are asked for: a preflight request, answered in this process.
"""

from __future__ import annotations

import logging

from prism.http.asgi import ASGIApp, Message, Scope, Send, header
from prism.http.inprocess import call

_log = logging.getLogger("prism.http")
_COPIED = (
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "vary",
)
_PATIENCE = 2.0


def readable(app: ASGIApp, scope: Scope, send: Send) -> Send:
    """Return a ``send`` for answers made here: it adds what the engine's CORS rules allow."""
    origin = header(scope, b"origin")
    if origin is None:
        return send

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            allowed = await _ask(app, scope, origin)
            message = {**message, "headers": [*message.get("headers", ()), *allowed]}
        await send(message)

    return with_headers


async def _ask(app: ASGIApp, scope: Scope, origin: str) -> list[tuple[bytes, bytes]]:
    extra = {key: scope[key] for key in ("app", "router", "root_path", "state") if key in scope}
    asked = {"origin": origin, "access-control-request-method": "POST"}
    try:
        reply = await call(
            app, "OPTIONS", scope["path"], headers=asked, extra=extra, patience=_PATIENCE
        )
    except Exception:  # an engine that can't answer a preflight admits no browser
        _log.exception("asking the engine for its CORS rules failed")
        return []
    if not 200 <= reply.status < 300:
        return []
    return [
        (name.encode(), reply.headers[name].encode("latin-1"))
        for name in _COPIED
        if name in reply.headers
    ]
