"""A server that breaks HTTP in the ways that real ones do when they are killed, hang or lie."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

Script = Callable[["Connection"], Awaitable[None]]


@dataclass
class Request:
    """What reached the server."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Connection:
    """One connection: a script writes the answers into it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    request: Request
    number: int  # of the request on this connection
    open: bool = True

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, *lines: str, status: str = "200 OK") -> None:
        await self.send("\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode())

    async def answer(self, body: bytes, *lines: str, status: str = "200 OK") -> None:
        kind = "content-type: application/json"
        await self.head(kind, f"content-length: {len(body)}", *lines, status=status)
        await self.send(body)

    async def stream(self, *pieces: str, end: bool = True) -> None:
        """Send a chat stream's events; ``end``: and its end, so that the connection can go on."""
        await self.head("content-type: text/event-stream", "transfer-encoding: chunked")
        for text in pieces:
            await self.piece(text)
        if end:
            await self.chunk(b"data: [DONE]\n\n")
            await self.send(b"0\r\n\r\n")

    async def piece(self, text: str) -> None:
        row = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        event = {"id": "c", "object": "chat.completion.chunk", "created": 1, "choices": [row]}
        await self.chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    async def chunk(self, data: bytes) -> None:
        await self.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def kill(self) -> None:
        """End it as the death of a process does."""
        self.open = False
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Wait until the other side has hung up."""
        while await self.reader.read(65536):
            pass


@dataclass
class Raw:
    """The server. A request's ``model`` names the script that answers it."""

    scripts: dict[str, Script] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    hung_up: list[str] = field(default_factory=list)
    url: str = ""
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=context)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http{'s' if context else ''}://127.0.0.1:{port}"

    async def stop(self) -> None:
        """Die: the port is closed and every connection broken."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._server = None

    def script(self, function: Script) -> Script:
        """Register a script under its function's name."""
        self.scripts[function.__name__] = function
        return function

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            number = 0
            while (request := await _read(reader)) is not None:
                self.requests.append(request)
                connection = Connection(reader, writer, request, number)
                number += 1
                await self._answer(connection)
                if not connection.open:
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, connection: Connection) -> None:
        request = connection.request
        if request.target.endswith("/v1/models"):
            await connection.answer(b'{"data": [{"id": "small"}]}')
        elif b"vorquelle" in request.body:  # the self-test's phrase: nothing is echoed here
            await connection.answer(b'{"choices": [{"index": 0, "text": "fine"}]}')
        else:
            name = request.json.get("model", "fine") if request.body else "fine"
            await self.scripts.get(name, _fine)(connection)


@dataclass
class Torrent:
    """A script that writes for as long as it may. ``sent``: bytes so far; ``gone``: it may not."""

    sent: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, connection: Connection) -> None:
        await connection.stream(end=False)
        with contextlib.suppress(ConnectionError):
            while True:
                await connection.piece("and so on " * 100)
                self.sent += 1000
        self.gone.set()
        connection.open = False


async def _fine(connection: Connection) -> None:
    message = {"role": "assistant", "content": "fine"}
    row = {"index": 0, "message": message, "finish_reason": "stop"}
    await connection.answer(json.dumps({"id": "c", "choices": [row]}).encode())


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
        return None
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = [(k.lower(), v.strip()) for k, _, v in (line.partition(":") for line in lines)]
    size = next((int(value) for key, value in headers if key == "content-length"), 0)
    return Request(method, target, headers, await reader.readexactly(size))
