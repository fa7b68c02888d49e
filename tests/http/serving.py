"""A real server for the tests: uvicorn in a thread, on a port of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

PATIENCE = 120
"""Seconds for a server to start and to stop: long, for the machine may be busy with an engine."""
http = httpx.Client(timeout=60)
"""One client for all tests: making one costs more than most of the requests."""


@contextmanager
def served(app: Any, **options: Any) -> Iterator[str]:
    """Serve ``app`` and yield its base URL; wait until the lifespan has begun."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = uvicorn.Config(
        app, log_level="error", lifespan="on", ws="websockets-sansio", **options
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        listener.close()
        assert not thread.is_alive(), "the server did not stop"


def healthy(url: str, wait: float = PATIENCE) -> dict[str, Any]:
    """Wait until ``/prism/health`` is green and return what it says."""
    deadline = time.monotonic() + wait
    while True:
        reply = http.get(f"{url}/prism/health")
        if reply.status_code == 200:
            return dict(reply.json())
        assert time.monotonic() < deadline, reply.text
        time.sleep(0.05)


@contextlib.asynccontextmanager
async def serving(app: Any, *, moderated: bool = True, **options: Any) -> AsyncIterator[str]:
    """Do the same for a test whose own loop has something to do meanwhile, and wait for green."""
    manager = served(app, **options)
    url = await asyncio.to_thread(manager.__enter__)
    try:
        if moderated:
            await asyncio.to_thread(healthy, url)
        yield url
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)
