"""Peers that vanish without a word: no FIN, no RST, no ACK; over real sockets.

A filter on a socket makes the kernel drop whatever arrives for it, as if its machine were gone.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from house import FAST
from raw import Connection, Raw, Torrent
from serving import serving

from prism.config import Settings
from prism.http import PrismMiddleware, body
from prism.http import upstream as upstream_module
from prism.http.proxy import Proxy
from prism.http.upstream import Timeouts, Upstream

_SO_ATTACH_FILTER = 26
_DROP = struct.pack("HBBI", 0x06, 0, 0, 0)  # BPF: return 0, keep nothing of the packet
MESSAGES = [{"role": "user", "content": "hello"}]
SOON = 60.0
"""Seconds that nothing here takes, however busy the machine is."""


def vanish(peer: socket.socket) -> None:
    """Make ``peer`` deaf and dumb: nothing that is sent to it is answered, not even by its kernel.

    It must have nothing unsent, and must not be closed while the test goes on.
    """
    code = ctypes.create_string_buffer(_DROP)
    program = struct.pack("HL", 1, ctypes.addressof(code))
    peer.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def vanish_connection(connection: Connection) -> None:
    # asyncio wraps the socket and lets nobody set this option through the wrapper.
    with socket.socket(fileno=socket.dup(connection.writer.get_extra_info("socket").fileno())) as s:
        vanish(s)


async def until(happened: Callable[[], Any], wait: float = SOON) -> None:
    deadline = time.monotonic() + wait
    while not happened():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.fixture
def attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask after a silent upstream's machine every second instead of twice a minute."""
    options = [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
    ]
    monkeypatch.setattr(upstream_module, "_socket_options", lambda: options)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_upstream_that_vanishes(
    raw: Raw, settings: Settings, attentive: None, stream: bool
) -> None:
    """Found out by its kernel's silence, long before the time it may take to answer is over."""
    vanished = asyncio.Event()

    @raw.script
    async def gone(connection: Connection) -> None:
        if stream:
            await connection.stream("one two three. ", "zephyr lan", end=False)
            await asyncio.sleep(0.3)  # until it has arrived
        vanish_connection(connection)
        vanished.set()
        await asyncio.sleep(SOON)
        connection.open = False

    upstream = Upstream(raw.url, timeouts=Timeouts(connect=30, idle=600))
    app = PrismMiddleware(Proxy(upstream), settings=settings, timing=FAST)
    async with serving(app) as url, httpx.AsyncClient(timeout=SOON) as client:
        asked = {"model": "gone", "messages": MESSAGES, "stream": stream}
        reply = await client.post(f"{url}/v1/chat/completions", json=asked)
        assert vanished.is_set()
        assert "upstream_broke_off" in reply.text
        assert "zephyr" not in reply.text
        assert reply.status_code == (200 if stream else 502)
        if stream:
            assert "one two" in reply.text
            assert reply.text.endswith("data: [DONE]\n\n")
        fine = await client.post(f"{url}/v1/chat/completions", json={"messages": MESSAGES})
        assert fine.status_code == 200


def _connect(url: str) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
    return client


def _request(name: str, *, half: bool = False) -> bytes:
    asked = json.dumps({"model": name, "messages": MESSAGES, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(asked)}\r\n"
    whole = head.encode() + b"content-type: application/json\r\n\r\n" + asked
    return whole[:-10] if half else whole


async def test_a_client_that_vanishes_in_mid_stream(raw: Raw, settings: Settings) -> None:
    """It takes nothing any more, so nothing is fetched for it, and then it is given up."""
    torrent = raw.scripts["torrent"] = Torrent()
    upstream = Upstream(raw.url, timeouts=Timeouts(connect=30, idle=2))
    app = PrismMiddleware(Proxy(upstream), settings=settings, timing=FAST)
    async with serving(app) as url:
        client = _connect(url)
        client.sendall(_request("torrent"))
        await asyncio.to_thread(client.recv, 100)
        vanish(client)
        await asyncio.wait_for(torrent.gone.wait(), SOON)
        assert torrent.sent < 20_000_000  # what the sockets' buffers hold
        await until(lambda: b"prism_active_requests 0.0" in app.metrics.render())
        assert b'outcome="client_gone"' in app.metrics.render()
        async with httpx.AsyncClient(timeout=60) as other:
            reply = await other.post(f"{url}/v1/chat/completions", json={"messages": MESSAGES})
            assert reply.status_code == 200
        client.close()


async def test_a_client_that_vanishes_in_its_request(
    raw: Raw, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "BODY_TIMEOUT", 0.3)
    upstream = Upstream(raw.url)
    app = PrismMiddleware(Proxy(upstream), settings=settings, timing=FAST)
    async with serving(app) as url:
        client = _connect(url)
        client.sendall(_request("never", half=True))
        await asyncio.sleep(0.1)
        vanish(client)
        await until(lambda: b'outcome="refused_408"' in app.metrics.render())
        assert not [request for request in raw.requests if b"never" in request.body]
        assert b"prism_active_requests 0.0" in app.metrics.render()
        client.close()


async def test_a_client_that_vanishes_before_its_answer(raw: Raw, settings: Settings) -> None:
    """What little is sent to it goes into the kernel's buffers; nobody waits for it."""

    @raw.script
    async def late(connection: Connection) -> None:
        await asyncio.sleep(0.3)
        await connection.stream("one ", "two")

    upstream = Upstream(raw.url)
    app = PrismMiddleware(Proxy(upstream), settings=settings, timing=FAST)
    async with serving(app) as url:
        client = _connect(url)
        client.sendall(_request("late"))
        await until(lambda: [request for request in raw.requests if b"late" in request.body])
        vanish(client)
        await until(lambda: b'prism_requests_total{family="chat",outcome="passed"}' in (
            app.metrics.render()
        ))  # fmt: skip
        await until(lambda: b"prism_active_requests 0.0" in app.metrics.render())
        client.close()
