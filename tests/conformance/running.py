"""Servers for these tests: in threads where a test has to break them, else as users start them."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from tests.ports import START_SECONDS, free_port

PRISM = str(Path(sys.executable).with_name("prism"))


@contextlib.contextmanager
def in_thread(app: Any) -> Iterator[str]:
    """Serve an ASGI application and yield its URL."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    config = uvicorn.Config(app, log_level="critical", lifespan="off", ws="none",
                            timeout_graceful_shutdown=1)  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()


@contextlib.contextmanager
def command(log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``prism`` until the block ends."""
    with log.open("wb") as out:
        process = subprocess.Popen([PRISM, *arguments], stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def until_ok(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=60).status_code == 200:
                return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)


@contextlib.contextmanager
def engine(folder: Path) -> Iterator[str]:
    """Run the scripted engine as a user does, and yield its URL."""
    port, log = free_port(), folder / "engine.log"
    with command(log, "conform", "--serve-upstream", str(port)) as process:
        url = f"http://127.0.0.1:{port}"
        until_ok(f"{url}/health", process, log)
        yield url


@contextlib.contextmanager
def proxy(folder: Path, upstream: str, *options: str) -> Iterator[str]:
    """Run ``prism proxy`` until it is green, and yield its URL; its log is ``proxy.log``."""
    log = folder / "proxy.log"
    with command(log, "proxy", "--upstream", upstream, "--port", "0", *options) as process:
        until = time.monotonic() + START_SECONDS
        while not (told := re.search(r"prism: health: (\S+)\n", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        until_ok(told[1], process, log)
        yield told[1].removesuffix("/prism/health")
