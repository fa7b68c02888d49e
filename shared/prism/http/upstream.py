"""The server behind the proxy: its address, its connections, and what can go wrong with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import quote

import anyio
import httpx

from prism.http.asgi import RawHeaders
from prism.http.errors import BadRequest, HttpError, Unavailable, UpstreamDown, UpstreamSlow

_log = logging.getLogger("prism.proxy")

_KEEP_ALIVE = 4.0
# llama-server, uvicorn and Node close idle connections after 5 s; ours go first.
_STALE = 1.0
_LOOKS = 10
# Still, a server may close a kept connection just when a request is under way (llama-server does so
# after about every second stream). It does that at once, so the request is sent again; what takes
# longer to fail was perhaps the request's own doing, and happens once. "Longer" is when the loop
# has looked that often after that many seconds and there was nothing to see: if this machine stood
# still for a minute, the news that waited for it is old, but it was made at once.
_CONNECTIONS = 1000
_SHARE, _KEPT = 32, 8
# httpcore looks at every connection of a pool whenever a request begins or ends, which at 200
# streams costs more than all else. So there are many small pools, filled one after the other;
# the first of them keep their connections.
_WAIT_FOR_CONNECTION = 5.0
_CLOSING = 1.0
_PATH_SAFE = "/:@!$&'()*+,;=~"


class AddressError(ValueError):
    """The upstream's address is not one. ``str()`` says what would be right."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How patient the proxy is, in seconds."""

    connect: float = 5.0
    idle: float = 600.0  # until the next piece of an answer; also how long a client may take none


class Upstream:
    """One server, and a pool of connections to it.

    ``url`` is its root, perhaps with a path in front of its routes. ``ca`` is a file of
    certificates to trust instead of the system's. Raises :class:`AddressError`.

    No cookies are kept, no redirect is followed and no proxy of the environment is used: a request
    goes to this server or nowhere.
    """

    def __init__(
        self, url: str, *, timeouts: Timeouts | None = None, ca: str | Path | None = None
    ) -> None:
        self.url = parse_address(url)
        self.timeouts = timeouts or Timeouts()
        self._base = self.url.raw_path.rstrip(b"/")
        trust = _trust(ca)
        count = -(-_CONNECTIONS // _SHARE)
        size = -(-_CONNECTIONS // count)
        self._pools = [_Pool(trust, size, size if n < _KEPT else 0) for n in range(count)]
        self._fresh = _Pool(trust, _CONNECTIONS, 0)  # for those whose connection was closed
        self._patience = {
            "connect": self.timeouts.connect,
            "read": self.timeouts.idle,
            "write": self.timeouts.idle,
            "pool": _WAIT_FOR_CONNECTION,
        }

    @contextlib.asynccontextmanager
    async def ask(
        self, method: str, path: str, query: bytes, headers: RawHeaders, body: bytes
    ) -> AsyncIterator[Answer]:
        """Send a request and yield the answer, its body unread; give the connection back after.

        Raises :class:`~prism.http.errors.HttpError` that says what the upstream did.
        """
        target = self._base + quote(path, safe=_PATH_SAFE).encode()
        if query:
            target += b"?" + quote(query, safe=f"{_PATH_SAFE}?%[]").encode()
        with self._explained():
            request = httpx.Request(
                method,
                self.url.copy_with(raw_path=target),
                headers=headers,
                content=body or None,
            )
            pool = next((pool for pool in self._pools if pool.busy < pool.size), self._pools[0])
            pool.busy += 1
            try:
                response = await self._send(request, pool)
            except BaseException:
                pool.busy -= 1
                raise
        try:
            yield Answer(self, response)
        finally:
            pool.busy -= 1
            # Closing a stream that isn't at its end closes its connection, and so stops the
            # upstream. That has to happen when this task is cancelled, too.
            with anyio.move_on_after(_CLOSING, shield=True):
                await response.aclose()

    async def _send(self, request: httpx.Request, pool: _Pool) -> httpx.Response:
        fresh = False

        async def note(event: str, _: object) -> None:
            nonlocal fresh
            fresh = fresh or event.startswith("connection.connect")

        request.extensions = {"timeout": self._patience, "trace": note}
        with _Prompt(_STALE) as prompt:
            try:
                return await pool.transport.handle_async_request(request)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                if fresh or not prompt.still:
                    raise
        # On a connection of its own: there may be more in the pool that are as good as closed.
        return await self._fresh.transport.handle_async_request(request)

    async def aclose(self) -> None:
        """Close every connection."""
        for pool in (*self._pools, self._fresh):
            await pool.transport.aclose()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (httpx.TransportError, httpx.InvalidURL) as error:
            told = _explain(error, self.timeouts)
            if not isinstance(told, BadRequest):
                detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                _log.warning("upstream %s: %s (%s)", self.url, told, detail)
            raise told from error


class _Prompt:
    """Tells whether something happens at once: within ``seconds``, or as soon as the loop looks."""

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._looks = _LOOKS
        self._timer: asyncio.Handle = self._loop.call_later(seconds, self._look)

    @property
    def still(self) -> bool:
        """Whether it would still be at once."""
        return self._looks > 0

    def _look(self) -> None:
        self._looks -= 1
        if self._looks:
            self._timer = self._loop.call_soon(self._look)

    def __enter__(self) -> _Prompt:
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


class _Pool:
    """A few connections, and how many requests are on them."""

    def __init__(self, trust: ssl.SSLContext, size: int, kept: int) -> None:
        self.size = size
        self.busy = 0
        self.transport = httpx.AsyncHTTPTransport(
            verify=trust,
            trust_env=False,
            limits=httpx.Limits(
                max_connections=size,
                max_keepalive_connections=kept,
                keepalive_expiry=_KEEP_ALIVE,
            ),
            socket_options=_socket_options(),
        )


class Answer:
    """An upstream's answer: its head, and its body as it arrives."""

    def __init__(self, upstream: Upstream, response: httpx.Response) -> None:
        self._upstream = upstream
        self._response = response
        self.status = response.status_code
        self.headers: RawHeaders = response.headers.raw

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes, undecoded. Nothing is read before it is asked for."""
        with self._upstream._explained():
            async for piece in cast(httpx.AsyncByteStream, self._response.stream):
                yield piece


def parse_address(text: str) -> httpx.URL:
    """Return ``text`` as the root of a server. Raises :class:`AddressError`."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise AddressError(f"{text!r} is not a URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise AddressError(f"{text!r} is not the URL of a server; write http://HOST:PORT")
    if url.userinfo:
        raise AddressError(
            "leave user and password out of the URL; clients send their own Authorization header"
        )
    if url.query or url.fragment or "?" in text or "#" in text:
        raise AddressError(f"{text!r}: leave out everything from the ? or # on")
    path = url.path.rstrip("/")
    if path.endswith("/v1"):
        raise AddressError(
            f"{text!r}: leave out the /v1 at its end; routes such as /v1/models are added to it"
        )
    return url


def _trust(ca: str | Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca) if ca is not None else None)
    except (OSError, ssl.SSLError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise AddressError(f"{ca}: {reason}; it has to be a file of PEM certificates") from None


def _socket_options() -> list[tuple[int, int, int]]:
    """Find out within a minute that a silent upstream's machine is gone, whatever the timeout."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # not every system lets a program choose
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


def _explain(error: Exception, timeouts: Timeouts) -> HttpError:
    """Return what a client may know: what happened, nothing of where the upstream is."""
    if isinstance(error, httpx.PoolTimeout):
        return Unavailable(
            "all connections to the upstream are in use", code="upstream_busy", retry_after=1
        )
    if isinstance(error, httpx.ConnectTimeout):
        return UpstreamSlow(
            f"the upstream did not accept a connection within {timeouts.connect:g} s",
            code="upstream_timeout",
        )
    if isinstance(error, httpx.TimeoutException):
        return UpstreamSlow(
            f"the upstream was silent for {timeouts.idle:g} s", code="upstream_timeout"
        )
    if isinstance(error, httpx.ConnectError):
        return UpstreamDown("the upstream can't be reached", code="upstream_unreachable")
    if isinstance(error, httpx.LocalProtocolError | httpx.InvalidURL):
        return BadRequest("the request can't be passed on as HTTP", code="invalid_request")
    return UpstreamDown("the upstream broke off, or does not speak HTTP", code="upstream_broke_off")
