"""Whatever the upstream or the client does, the other side gets its answer, and gets it soon."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from asgi_client import chat, events, said, until_live
from raw import Connection, Raw, Torrent
from serving import serving

from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.inprocess import Reply, call
from prism.http.proxy import Proxy
from prism.http.selftest import Timing
from prism.http.upstream import Timeouts, Upstream

FAST = Timing(first_retry=0.02, last_retry=0.2, probe=10.0, recheck=0.2)
IDLE = 1.0
"""Seconds that the proxy waits; answers that come must come sooner, on a busy machine, too."""
SOON = 60.0
MESSAGES: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture
async def upstream(raw: Raw) -> AsyncIterator[Upstream]:
    made = Upstream(raw.url, timeouts=Timeouts(connect=IDLE, idle=IDLE))
    yield made
    await made.aclose()


@pytest.fixture
async def app(upstream: Upstream, settings: Settings) -> AsyncIterator[PrismMiddleware]:
    """The moderated proxy, green."""
    made = PrismMiddleware(Proxy(upstream), settings=settings, timing=FAST)
    await until_live(made)
    yield made
    await made.selftest.stop()


def error_of(reply: Reply) -> tuple[int, str]:
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return reply.status, error["code"]


# Before an answer has begun


async def killed(connection: Connection) -> None:
    connection.kill()


async def garbage(connection: Connection) -> None:
    await connection.send(b"\x00\x01 not HTTP at all\r\n\r\n")
    connection.kill()


async def silent(connection: Connection) -> None:
    await connection.gone()
    connection.open = False


async def torn(connection: Connection) -> None:
    """Announce more than there is: killed in the middle of an answer in one piece."""
    await connection.head("content-type: application/json", "content-length: 1000")
    await connection.send(b'{"choices": [{"message": {"content": "half')
    connection.kill()


async def half(connection: Connection) -> None:
    await connection.head("content-type: application/json", "content-length: 1000")
    await connection.send(b'{"choices": [{"message": {"content": "half')
    await connection.gone()
    connection.open = False


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (killed, 502, "upstream_broke_off"),
        (garbage, 502, "upstream_broke_off"),
        (torn, 502, "upstream_broke_off"),
        (silent, 504, "upstream_timeout"),
        (half, 504, "upstream_timeout"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_never_comes(
    raw: Raw, app: PrismMiddleware, script: Any, status: int, code: str, stream: bool
) -> None:
    raw.scripts["broken"] = script
    reply = await chat(app, model="broken", stream=stream)
    assert error_of(reply) == (status, code)
    assert b"127.0.0.1" not in reply.body
    fine = await chat(app, model="fine", stream=False)  # the next request is none the worse
    assert fine.status == 200


async def test_an_upstream_that_is_gone(
    raw: Raw, app: PrismMiddleware, caplog: pytest.LogCaptureFixture
) -> None:
    await raw.stop()
    with caplog.at_level(logging.WARNING):
        reply = await chat(app, stream=False)
    assert error_of(reply) == (502, "upstream_unreachable")
    assert raw.url in caplog.text  # the operator is told where, and the client isn't
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("end", ["close", "kill"])
async def test_a_kept_connection_that_is_closed_under_the_request(
    raw: Raw, app: PrismMiddleware, end: str
) -> None:
    @raw.script
    async def tired(connection: Connection) -> None:
        if connection.number:
            connection.kill() if end == "kill" else connection.writer.close()
            connection.open = False
        else:
            await connection.stream("fine")

    reply = await chat(app, model="tired")  # on the connection that the self-test left
    assert said(reply)[0] == "fine"
    assert len([request for request in raw.requests if b"tired" in request.body]) == 2


async def test_a_request_that_kills_the_upstream_is_not_sent_again(
    raw: Raw, app: PrismMiddleware, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prism.http.upstream._STALE", 0.1)

    @raw.script
    async def poison(connection: Connection) -> None:
        await asyncio.sleep(0.2)
        connection.kill()

    assert error_of(await chat(app, model="poison")) == (502, "upstream_broke_off")
    assert len([request for request in raw.requests if b"poison" in request.body]) == 1


async def test_many_kept_connections_that_are_closed_under_their_requests(
    raw: Raw, app: PrismMiddleware
) -> None:
    together = asyncio.Barrier(6)

    @raw.script
    async def crowd(connection: Connection) -> None:
        await together.wait()
        await connection.stream("fine")

    @raw.script
    async def tired(connection: Connection) -> None:
        if connection.number:
            connection.kill()
        else:
            await connection.stream("fine")

    replies = await asyncio.gather(*(chat(app, model="crowd") for _ in range(6)))
    assert [said(reply)[0] for reply in replies] == ["fine"] * 6
    assert said(await chat(app, model="tired"))[0] == "fine"
    assert len([request for request in raw.requests if b"tired" in request.body]) == 2


async def test_a_connection_closed_while_the_machine_stood_still(
    raw: Raw, app: PrismMiddleware, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prism.http.upstream._STALE", 0.1)

    @raw.script
    async def tired(connection: Connection) -> None:
        if connection.number:
            connection.kill()
            # Nobody here sees it any sooner: neither the proxy nor anything else of this loop.
            await asyncio.sleep(0)
            time.sleep(0.3)  # noqa: ASYNC251
        else:
            await connection.stream("fine")

    assert said(await chat(app, model="tired"))[0] == "fine"
    assert len([request for request in raw.requests if b"tired" in request.body]) == 2


async def test_an_upstream_that_comes_back(raw: Raw, app: PrismMiddleware) -> None:
    port = int(raw.url.rpartition(":")[2])
    await raw.stop()
    await raw.start(port=port)
    assert (await chat(app, stream=False)).status == 200


@pytest.fixture
def deaf() -> Iterator[str]:
    """A port that answers no connection, because its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def test_a_connection_that_is_never_accepted(deaf: str) -> None:
    upstream = Upstream(deaf, timeouts=Timeouts(connect=IDLE, idle=600))
    reply = await call(Proxy(upstream), "GET", "/v1/models", patience=SOON)
    await upstream.aclose()
    assert error_of(reply) == (504, "upstream_timeout")


async def test_an_upstream_that_takes_no_request() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts in name only
        port = listener.getsockname()[1]
        stuck = Upstream(f"http://127.0.0.1:{port}", timeouts=Timeouts(connect=30, idle=IDLE))
        body = {"content": "x" * 20_000_000}  # more than the sockets' buffers hold
        reply = await call(Proxy(stuck), "POST", "/tokenize", body, patience=60)
        await stuck.aclose()
    assert error_of(reply) == (504, "upstream_timeout")


async def test_when_all_connections_are_in_use(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prism.http.upstream._CONNECTIONS", 1)
    monkeypatch.setattr("prism.http.upstream._WAIT_FOR_CONNECTION", 0.1)
    raw.scripts["silent"] = silent
    upstream = Upstream(raw.url, timeouts=Timeouts(connect=30, idle=2))
    app = Proxy(upstream)
    first = asyncio.create_task(call(app, "POST", "/tokenize", {"model": "silent"}, patience=60))
    while not raw.requests:
        assert not first.done()
        await asyncio.sleep(0.01)
    second = await call(app, "POST", "/tokenize", {}, patience=60)
    assert error_of(second) == (503, "upstream_busy")
    assert second.headers["retry-after"] == "1"
    assert (await first).status == 504
    assert (await call(app, "POST", "/tokenize", {}, patience=60)).status == 200
    await upstream.aclose()


# In the middle of a stream


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("kill", "upstream_broke_off"),
        ("close", "upstream_broke_off"),
        ("stall", "upstream_timeout"),
    ],
)
async def test_a_stream_that_breaks_off(
    raw: Raw, app: PrismMiddleware, end: str, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    @raw.script
    async def breaks(connection: Connection) -> None:
        await connection.stream("one two three. ", "zephyr lan", end=False)
        if end == "stall":
            await connection.gone()
        if end == "kill":
            await asyncio.sleep(0.1)  # a reset may overtake what was sent before it
            connection.kill()
        connection.open = False

    reply = await chat(app, model="breaks")
    assert reply.status == 200
    text, _ = said(reply)
    assert text.startswith("one two")
    assert "zephyr" not in text  # held when it broke off: it could have become a blocked phrase
    assert [event["error"]["code"] for event in events(reply) if "error" in event] == [code]
    assert reply.body.endswith(b"data: [DONE]\n\n")
    assert "Traceback" not in caplog.text


async def test_the_official_client_is_told(raw: Raw, settings: Settings) -> None:
    @raw.script
    async def breaks(connection: Connection) -> None:
        await connection.stream("one two three. ", end=False)
        connection.open = False

    app = PrismMiddleware(Proxy(Upstream(raw.url)), settings=settings, timing=FAST)
    seen = ""
    async with serving(app) as url:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        stream = await client.chat.completions.create(
            model="breaks", messages=MESSAGES, stream=True
        )

        async def listen() -> None:
            nonlocal seen
            async for chunk in stream:
                seen += chunk.choices[0].delta.content or ""

        with pytest.raises(openai.APIError, match="broke off"):
            await listen()
        raw.scripts["killed"] = killed
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="killed", messages=MESSAGES)
        await client.close()
    assert seen.startswith("one two")
    assert caught.value.status_code == 502
    assert caught.value.code == "upstream_broke_off"


async def test_a_route_without_moderation_that_breaks_off(raw: Raw, settings: Settings) -> None:
    raw.scripts["torn"] = torn
    app = PrismMiddleware(Proxy(Upstream(raw.url)), settings=settings, timing=FAST)
    async with serving(app) as url, httpx.AsyncClient(timeout=60) as client:
        with pytest.raises(httpx.RemoteProtocolError):  # seen as incomplete, not as an answer
            await client.post(f"{url}/tokenize", json={"model": "torn"})
        assert (await client.get(f"{url}/v1/models")).status_code == 200


# The client


async def endless(connection: Connection) -> None:
    await connection.stream(end=False)
    with contextlib.suppress(ConnectionError):
        while True:
            await connection.piece("and so on ")
            await asyncio.sleep(0.01)
    connection.open = False


async def test_a_client_that_leaves_stops_the_upstream(raw: Raw, settings: Settings) -> None:
    arrived, left = asyncio.Event(), asyncio.Event()

    async def watched(connection: Connection) -> None:
        arrived.set()
        await endless(connection)
        left.set()

    async def waiting(connection: Connection) -> None:
        arrived.set()
        await connection.gone()
        left.set()
        connection.open = False

    raw.scripts |= {"endless": watched, "waiting": waiting}
    app = PrismMiddleware(Proxy(Upstream(raw.url)), settings=settings, timing=FAST)
    async with serving(app) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        for model, stream in (("endless", True), ("waiting", True), ("waiting", False)):
            body = {"model": model, "messages": MESSAGES, "stream": stream}
            arrived.clear()
            left.clear()
            asked = asyncio.create_task(client.post("/v1/chat/completions", json=body))
            await asyncio.wait_for(arrived.wait(), SOON)
            await asyncio.sleep(0.05)  # in the middle of the stream, where there is one
            asked.cancel()
            await asyncio.wait_for(left.wait(), SOON)


async def test_a_blocked_stream_stops_the_upstream(raw: Raw, app: PrismMiddleware) -> None:
    ended = asyncio.Event()

    @raw.script
    async def goes_on(connection: Connection) -> None:
        await connection.stream("the zephyr lantern glows. ", end=False)
        await connection.gone()
        ended.set()
        connection.open = False

    reply = await chat(app, model="goes_on")
    assert said(reply)[1] == "content_filter"
    assert b"lantern" not in reply.body
    await asyncio.wait_for(ended.wait(), SOON)


@contextlib.contextmanager
def _stalled_client(url: str, name: str) -> Iterator[socket.socket]:
    """Ask for a stream and read none of it."""
    body = json.dumps({"model": name, "messages": MESSAGES, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        client.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + body)
        yield client


def _kernel_holds() -> int:
    """Return the bytes that the kernel may keep of two connections, one behind the other.

    Linux lets a socket's buffers grow up to these limits by itself, by how quickly it was read.
    """
    limits = Path("/proc/sys/net/ipv4")
    if not limits.exists():
        return 64_000_000
    return 2 * sum(
        int((limits / name).read_text().split()[-1]) for name in ("tcp_rmem", "tcp_wmem")
    )


@pytest.mark.parametrize("patient", [True, False])
async def test_a_slow_client_slows_the_upstream(
    raw: Raw, settings: Settings, patient: bool
) -> None:
    """Nothing is read that can't be passed on; and nobody is waited for without end."""
    torrent = raw.scripts["torrent"] = Torrent()
    idle = 60.0 if patient else IDLE
    upstream = Upstream(raw.url, timeouts=Timeouts(connect=30, idle=idle))
    app = PrismMiddleware(Proxy(upstream), settings=settings, timing=FAST)
    async with serving(app) as url:
        with _stalled_client(url, "torrent"):
            if patient:
                seen = -1
                while seen != torrent.sent < 2 * _kernel_holds():  # until nothing moves any more
                    seen = torrent.sent
                    await asyncio.sleep(1.0)
                assert 0 < torrent.sent <= _kernel_holds()
                assert not torrent.gone.is_set()
            else:
                await asyncio.wait_for(torrent.gone.wait(), SOON)
        await asyncio.wait_for(torrent.gone.wait(), SOON)


async def test_many_streams_at_once_stay_apart(raw: Raw, settings: Settings) -> None:
    @raw.script
    async def many(connection: Connection) -> None:
        name = connection.request.json["messages"][0]["content"]
        await connection.stream(end=False)
        for number in range(10):
            await connection.piece(f"{name}.{number} ")
            await asyncio.sleep(0.01)
        if int(name) % 2:
            await connection.piece("zephyr lantern ")
        await connection.chunk(b"data: [DONE]\n\n")
        await connection.send(b"0\r\n\r\n")

    app = PrismMiddleware(Proxy(Upstream(raw.url)), settings=settings, timing=FAST)

    async def one(client: httpx.AsyncClient, name: int) -> str:
        body = {
            "model": "many", "stream": True, "messages": [{"role": "user", "content": str(name)}]
        }  # fmt: skip
        reply = await client.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200
        return reply.text

    limits = httpx.Limits(max_connections=None)
    async with (
        serving(app) as url,
        httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as client,
    ):
        texts = await asyncio.gather(*(one(client, name) for name in range(200)))
    for name, text in enumerate(texts):
        rows = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        spoken = "".join(
            choice["delta"].get("content") or "" for row in rows for choice in row["choices"]
        )
        assert spoken.split() == [f"{name}.{number}" for number in range(10)]
        assert ("content_filter" in text) == bool(name % 2)
        assert "lantern" not in text
