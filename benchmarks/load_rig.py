"""The engine's side and the clients' side of the load benchmark, in one process beside the proxy's.

Both ends in one place make two things possible. The engine can wait for its tokens to arrive, so
that it is as fast as the proxy, and every event still crosses it alone, as from an engine that
batches: one token of every stream, then the next. And the time a token takes is read off one clock.

Every byte that a client gets is kept and checked afterwards: :meth:`Stream.check`.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

CANARY = (" zephyr", " lan", "tern")
PROSE = (
    "The market opened early and people walked along the river, some with bread under their arms. "
    "In 1972 the bridge was closed for repairs (see the records of the town); it cost $45,000 and "
    "took a year. Nobody minded: the ferry ran every 20 minutes & was cheap. "
)
_WORDS = PROSE.split()
_NAMES = (
    "river", "maple", "orbit", "tulip", "cedar", "pearl", "sugar", "north", "ivory", "hazel",
)  # fmt: skip
_ASK = (
    "Please tell me about the old bridge and the ferry, what they cost, and how people lived with "
    "the repairs. Answer in a few paragraphs. This is request"
)
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_END = b"0\r\n\r\n"
_ARRIVED = 0.9  # of the streams, before the engine's next step
_PATIENCE = 120.0  # seconds
_STALL = 0.2  # seconds; a token may be held back until the next one comes


@dataclass(slots=True)
class Stream:
    """One request: what the engine will say, and what came of it."""

    name: str
    pieces: list[str]
    canary: int | None  # the piece before which the canary stands
    events: list[bytes] = field(default_factory=list)  # as HTTP chunks
    position: int = 0
    engine: asyncio.Transport | None = None
    sent: float = 0.0
    arrived: bool = True
    got: bytearray = field(default_factory=bytearray)
    reads: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def make(cls, number: int, tokens: int, rng: random.Random, *, canary: bool) -> Stream:
        """Return stream ``number``, which says its own name over and over among ordinary words."""
        name = " ".join(_NAMES[int(digit)] for digit in f"{number:05d}")
        start = rng.randrange(len(_WORDS))
        words = [
            name.split()[i % 5] if i % 8 < 5 else _WORDS[(start + i) % len(_WORDS)]
            for i in range(tokens)
        ]
        pieces = [f" {word}" for word in words]
        at = rng.randrange(tokens) if canary else None
        if at is not None:
            pieces[at:at] = CANARY
        made = cls(f"r{number:06d}", pieces, at)
        made.events = [made._event({"role": "assistant", "content": ""}, None)]
        made.events += [made._event({"content": piece}, None) for piece in pieces]
        made.events += [made._event({}, "stop"), _chunk(b"data: [DONE]\n\n") + _END]
        return made

    def _event(self, delta: dict[str, str], reason: str | None) -> bytes:
        row = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        body = {
            "id": f"chatcmpl-{self.name}",
            "object": "chat.completion.chunk",
            "created": 1_700_000_000,
            "model": "load",
            "choices": [row],
        }
        return _chunk(b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n")

    def request(self) -> bytes:
        """Return the request as bytes."""
        asked = {
            "model": "load",
            "stream": True,
            "messages": [{"role": "user", "content": f"{_ASK} {self.name}"}],
        }
        body = json.dumps(asked).encode()
        return (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: load\r\ncontent-type: application/json"
            b"\r\ncontent-length: %d\r\n\r\n" % len(body)
        ) + body

    def check(self, *, moderated: bool) -> None:
        """Compare every byte that arrived with what had to. Raises ``AssertionError``."""
        head, _, rest = bytes(self.got).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), (self.name, head[:200])
        assert (b"x-prism-id" in head) == moderated, self.name
        body = _dechunked(rest)
        blocks = body.decode().split("\n\n")
        assert blocks.pop() == "", self.name
        notes = [block for block in blocks if block.startswith(":")]
        datas = [block.removeprefix("data: ") for block in blocks if block.startswith("data: ")]
        assert len(notes) + len(datas) == len(blocks), self.name
        assert len(notes) == moderated, (self.name, notes)
        assert datas.pop() == "[DONE]", self.name
        text, reason = "", None
        for data in datas:
            event = json.loads(data)
            assert event["id"] == f"chatcmpl-{self.name}", (self.name, event["id"])
            (choice,) = event["choices"]
            assert reason is None, self.name
            text += choice["delta"].get("content", "")
            reason = choice["finish_reason"]
        stopped = moderated and self.canary is not None
        wanted = self.pieces[: self.canary] if stopped else self.pieces
        # The space in front of the canary is no part of it, and may go out or not.
        if stopped and self.canary == 0:
            assert "zephyr" not in text, self.name  # a refusal, because nothing went out before it
        else:
            assert text.rstrip() == "".join(wanted).rstrip(), (self.name, text)
        assert reason == ("content_filter" if stopped else "stop"), (self.name, reason)


@dataclass(slots=True)
class Round:
    """What one round came to. Latencies, in seconds, are of events that crossed alone."""

    seconds: float
    events: int
    reads: int
    latencies: list[float]


class Rig:
    """An engine on a port of its own, and as many clients as there are streams."""

    def __init__(self, *, awake: bool = True) -> None:
        self._awake = awake
        self.streams: dict[str, Stream] = {}
        self.latencies: list[float] | None = None
        self.flood = False
        self._server: asyncio.Server | None = None
        self._ready = asyncio.Event()
        self._step = asyncio.Event()
        self._waiting = 0
        self._begun = 0
        self._clients: dict[int, list[_Client]] = {}
        self._connecting = asyncio.Lock()  # or each of many clients would connect all the others

    async def start(self) -> str:
        """Listen; return the engine's URL."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Engine(self), "127.0.0.1", 0, backlog=2048)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def round(self, port: int, streams: list[Stream], *, pace: float | None) -> Round:
        """Run all streams at once. ``pace``: seconds per token; ``None``: as fast as they go."""
        clients = await self._connected(port, len(streams))
        self.streams = {stream.name: stream for stream in streams}
        self._begun, self._ready = 0, asyncio.Event()
        self.latencies = []
        turning = asyncio.create_task(_turn()) if self._awake else None
        begin = time.perf_counter()
        for client, stream in zip(clients, streams, strict=True):
            client.ask(stream)
        if not self.flood:
            await asyncio.wait_for(self._ready.wait(), _PATIENCE)
            await self._steps(streams, pace)
        for stream in streams:
            await asyncio.wait_for(stream.done.wait(), _PATIENCE)
        seconds = time.perf_counter() - begin
        if turning is not None:
            turning.cancel()
        events = sum(stream.position for stream in streams)
        reads = sum(stream.reads for stream in streams)
        return Round(seconds, events, reads, self.latencies)

    async def _steps(self, streams: list[Stream], pace: float | None) -> None:
        due = time.perf_counter()
        while True:
            live = [s for s in streams if s.engine is not None and s.position < len(s.events)]
            if not live:
                return
            self._step.clear()
            self._waiting = int(len(live) * _ARRIVED)
            for stream in live:
                self.say(stream)
            if pace is None:
                try:
                    await asyncio.wait_for(self._step.wait(), _STALL)
                except TimeoutError:
                    continue
            else:
                due += pace
                await asyncio.sleep(max(0.0, due - time.perf_counter()))

    def say(self, stream: Stream) -> None:
        """Send the next token of a stream."""
        assert stream.engine is not None
        stream.arrived = False
        stream.sent = time.perf_counter()
        stream.engine.write(stream.events[stream.position])
        stream.position += 1

    def began(self, stream: Stream) -> None:
        """Note that a request reached the engine."""
        self._begun += 1
        if self.flood:
            assert stream.engine is not None
            stream.engine.write(b"".join(stream.events))
            stream.position = len(stream.events)
        elif self._begun == len(self.streams):
            self._ready.set()

    def read(self, stream: Stream) -> None:
        """Note that something of a stream reached its client."""
        stream.reads += 1
        if not stream.arrived:
            stream.arrived = True
            if self.latencies is not None:
                self.latencies.append(time.perf_counter() - stream.sent)
            self._waiting -= 1
            if self._waiting <= 0:
                self._step.set()

    async def ask(self, port: int, slot: int, stream: Stream) -> None:
        """Run one stream on connection ``slot`` to its end."""
        self.streams[stream.name] = stream
        (await self._connected(port, slot + 1))[slot].ask(stream)
        await asyncio.wait_for(stream.done.wait(), _PATIENCE)
        del self.streams[stream.name]

    async def _connected(self, port: int, count: int) -> list[_Client]:
        loop = asyncio.get_running_loop()
        clients = self._clients.setdefault(port, [])
        async with self._connecting:
            clients += [_Client(self) for _ in range(count - len(clients))]
            # While one is connected, the server may close another that was idle for too long.
            while dead := [n for n, client in enumerate(clients[:count]) if not client.connected]:
                for number in dead:
                    _, clients[number] = await loop.create_connection(
                        lambda: _Client(self), "127.0.0.1", port
                    )
        return clients[:count]


async def _turn() -> None:
    """Keep this process awake: look for news again and again instead of waiting for it."""
    while True:  # noqa: ASYNC110 (nothing is waited for)
        await asyncio.sleep(0)


class _Engine(asyncio.Protocol):
    """A connection to the engine: just enough of HTTP/1.1."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._buffer = b""
        self._stream: Stream | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._stream is not None and self._stream.engine is self._transport:
            self._stream.engine = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, mark, rest = self._buffer.partition(b"\r\n\r\n")
        if not mark:
            return
        size = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                size = int(line.partition(b":")[2])
        if len(rest) < size:
            return
        self._buffer = rest[size:]
        self._answer(head, rest[:size])

    def _answer(self, head: bytes, body: bytes) -> None:
        assert self._transport is not None
        stream = None
        status, answer = b"200 OK", b'{"object":"list","data":[]}'
        if head.startswith(b"POST"):
            messages = json.loads(body).get("messages")
            if messages:
                stream = self._rig.streams.get(messages[-1]["content"].rpartition(" ")[2])
            status, answer = b"404 Not Found", b"{}"
        if stream is None:  # the self-test asks whether the engine is there
            self._transport.write(
                b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (status, len(answer), answer)
            )
            return
        self._stream = stream
        stream.engine = self._transport
        self._transport.write(_HEAD)
        self._rig.began(stream)


class _Client(asyncio.Protocol):
    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._stream: Stream | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    @property
    def connected(self) -> bool:
        """Whether a request can be sent."""
        return self.transport is not None and not self.transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._stream is not None:
            self._stream.done.set()

    def ask(self, stream: Stream) -> None:
        assert self.transport is not None
        self._stream = stream
        self.transport.write(stream.request())

    def data_received(self, data: bytes) -> None:
        stream = self._stream
        if stream is None:
            return
        if stream.got:  # the head of an answer is no token
            self._rig.read(stream)
        refused = not stream.got and not data.startswith(b"HTTP/1.1 200")
        stream.got += data
        if refused or data.endswith(_END):
            self._stream = None
            stream.done.set()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _dechunked(data: bytes) -> bytes:
    parts, at = [], 0
    while True:
        end = data.index(b"\r\n", at)
        size = int(data[at:end], 16)
        at = end + 2
        parts.append(data[at : at + size])
        assert data[at + size : at + size + 2] == b"\r\n"
        at += size + 2
        if size == 0:
            assert at == len(data), "more than one answer"
            return b"".join(parts)
