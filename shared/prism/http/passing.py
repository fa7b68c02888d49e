"""What is handed to the engine unmoderated, because no model wrote it; and WebSockets, denied."""

from __future__ import annotations

from prism.http.asgi import Message, Receive, Scope, Send, route_path
from prism.http.body import read_body
from prism.http.errors import HttpError, NotModerated, send_error
from prism.http.heads import OURS
from prism.http.routes import ENGINE_HEALTH, Route
from prism.http.server import Server


async def pass_on(server: Server, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
    """Hand a route without generated text to the engine."""
    if route.path in ENGINE_HEALTH and not server.ok:
        server.require_live()
    if route.admin and not route.preflight:
        guest = server.tenancy.operator(scope)
    else:
        guest = await server.tenancy.visit(route.path, scope)
    if scope["method"] == "POST":
        body = await read_body(scope, receive, guest.max_body_bytes)
        receive = _replay(body, receive)
    started = False

    async def watched(message: Message) -> None:
        nonlocal started
        started = True
        if message["type"] == "http.response.start":
            # A receipt of the engine's would be taken for this server's.
            head = [p for p in message.get("headers", ()) if not p[0].lower().startswith(OURS)]
            message = {**message, "headers": head}
        await send(message)

    try:
        await server.app(guest.forward(scope), receive, watched)
    except HttpError:
        # A proxy's upstream broke off. After the head no error can be told; the server in
        # front closes the connection, and the client sees that something is missing.
        if not started:
            raise


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def deny_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Turn a WebSocket away, with a reason where the server can carry one."""
    message = await receive()
    if message["type"] != "websocket.connect":
        return
    error = NotModerated(
        f"WebSocket {route_path(scope)[:256]!r} is not covered by this server's moderation, so it "
        "is denied",
        code="route_not_moderated",
    )
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": "not moderated"})
        return

    async def as_websocket(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    await send_error(as_websocket, error)
