"""A reverse proxy as an ASGI application: what :class:`PrismMiddleware` wraps where no Python runs.

It knows nothing of moderation. The middleware sees it as it sees any engine's own application, and
decides what reaches it.
"""

from __future__ import annotations

import anyio

from prism.http.asgi import ClientGone, Message, RawHeaders, Receive, Scope, Send, route_path
from prism.http.errors import HttpError, UpstreamDown, send_error
from prism.http.upstream import Answer, Upstream

LINGER = 0.05
"""Seconds between a hang-up and ours. A stream is often over a few bytes after the client has all
of it, and a stream read to its end leaves a connection that can be used again."""

_LOOKS = 4
# at a client, within the time that it may take nothing

_HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization",
        b"proxy-connection", b"te", b"trailer", b"trailers", b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip
_NOT_SENT = frozenset(
    {
        # Made afresh, or already answered by this server.
        b"host", b"content-length", b"expect",
        # llama-server: keep on generating when the client is gone, and keep the text, unmoderated,
        # for whoever asks for it.
        b"x-conversation-id", b"last-event-id",
        # Servers and gateways that heed one of these serve another route than was admitted here.
        b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-original-url",
        b"x-rewrite-url",
    }
)  # fmt: skip
_NOT_RETURNED = frozenset({b"date"})  # this server writes its own
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})


class Proxy:
    """Forwards HTTP requests to ``upstream``.

    An answer is passed on piece by piece: the next one is read when the client took the last. The
    bodies of requests are sent whole; the middleware has bounded them.
    """

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._lifespan(receive, send)
        elif kind == "http":
            await self._http(scope, receive, send)
        else:
            raise RuntimeError(f"connections of type {kind!r} are not forwarded")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.upstream.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        failure: HttpError | ClientGone | None = None
        relay = _Relay(self.upstream, send)
        body = b""
        if scope["method"] not in _WITHOUT_BODY:
            body = await _read(receive)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_hang_up, receive, tasks.cancel_scope)
            tasks.start_soon(relay.watch, tasks.cancel_scope)
            try:
                await relay.run(scope, body)
            except (HttpError, ClientGone) as error:
                failure = error  # raised outside of the group, which would wrap it
            tasks.cancel_scope.cancel()
        if relay.stalled:
            raise ClientGone
        if failure is None:
            return
        if isinstance(failure, ClientGone) or relay.started:
            raise failure
        await send_error(send, failure)


class _Relay:
    """One answer on its way to the client."""

    def __init__(self, upstream: Upstream, send: Send) -> None:
        self._upstream = upstream
        self._send = send
        self._pieces = 0  # that were passed on, or are on their way
        self._sending = False
        self.started = False
        self.stalled = False

    async def watch(self, scope: anyio.CancelScope) -> None:
        """Give up a client that takes nothing while the upstream waits.

        One look now and then, because a timer for every piece costs more than passing it on, and
        so does a look at the clock.
        """
        looks, seen = 0, -1
        while True:
            await anyio.sleep(self._upstream.timeouts.idle / _LOOKS)
            looks = looks + 1 if self._sending and self._pieces == seen else 0
            seen = self._pieces
            if looks == _LOOKS:
                self.stalled = True
                scope.cancel()

    async def run(self, scope: Scope, body: bytes) -> None:
        ask = self._upstream.ask(
            scope["method"],
            route_path(scope),
            scope.get("query_string", b""),
            _forwarded(scope),
            body,
        )
        async with ask as answer:
            await self._begin(answer)
            async for piece in answer.pieces():
                await self._pass({"type": "http.response.body", "body": piece, "more_body": True})
            await self._pass({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self, answer: Answer) -> None:
        if 300 <= answer.status < 400 and answer.status != 304:
            raise UpstreamDown(
                "the upstream redirects; the proxy has to be pointed at where it leads",
                code="upstream_redirect",
            )
        headers = _end_to_end(answer.headers, _NOT_RETURNED)
        self.started = True
        await self._pass(
            {"type": "http.response.start", "status": answer.status, "headers": headers}
        )

    async def _pass(self, message: Message) -> None:
        self._pieces += 1
        self._sending = True
        try:
            await self._send(message)
        except OSError:  # a server's word for a client that has gone
            raise ClientGone from None
        self._sending = False


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _hang_up(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.deadline = anyio.current_time() + LINGER


def _forwarded(scope: Scope) -> RawHeaders:
    given = [(bytes(key), bytes(value)) for key, value in scope.get("headers", ())]
    return [pair for pair in _end_to_end(given, _NOT_SENT) if not pair[0].startswith(b"x-prism-")]


def _end_to_end(headers: RawHeaders, dropped: frozenset[bytes]) -> RawHeaders:
    """Return the headers that are for the other end, not for this connection."""
    lower = [(key.lower(), value) for key, value in headers]
    named = {
        name.strip().lower()
        for key, value in lower
        if key == b"connection"
        for name in value.split(b",")
    }
    return [
        pair
        for pair in lower
        if pair[0] not in _HOP_BY_HOP and pair[0] not in dropped and pair[0] not in named
    ]
