"""Servers in processes of their own, as the engines' tests start them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.ports import START_SECONDS


@dataclass
class Running:
    """A server in a process of its own."""

    url: str
    process: subprocess.Popen[bytes]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@contextlib.contextmanager
def process(command: list[str], log: Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        started = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **environ}, start_new_session=True
        )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(60)
        except subprocess.TimeoutExpired:
            # One that hasn't come up yet may not listen, and vLLM has processes of its own.
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


def until_ok(
    url: str, started: subprocess.Popen[bytes], log: Path, seconds: float = START_SECONDS
) -> None:
    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=60).status_code == 200:
                return
        if started.poll() is not None or time.monotonic() > until:
            pytest.fail(f"the server did not come up:\n{log.read_text()[-4000:]}")
        time.sleep(0.2)
