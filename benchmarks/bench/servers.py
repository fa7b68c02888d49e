"""Servers under measurement: started, waited for, watched, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Server:
    """A process and those that it started."""

    process: subprocess.Popen[bytes]
    url: str

    def cpu(self) -> float:
        """Return the seconds of CPU that all of them have used."""
        total = 0
        for pid in self._all():
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def memory(self) -> float:
        """Return MiB that they keep, what they share counted once."""
        total = 0.0
        for pid in self._all():
            with contextlib.suppress(OSError):
                rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total += next(int(row.split()[1]) for row in rows if row.startswith("Pss:")) / 1024
        return total

    def _all(self) -> list[int]:
        found, left = [], [self.process.pid]
        while left:
            pid = left.pop()
            found.append(pid)
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    left += map(int, (task / "children").read_text().split())
        return found


@contextlib.contextmanager
def serving(
    command: list[str],
    environ: Mapping[str, str],
    port: int,
    ready: str,
    log: Path,
    patience: float,
) -> Iterator[Server]:
    """Start a server, wait until ``ready`` is answered with 200, and end it.

    Raises ``SystemExit`` with the end of its log where it doesn't come up.
    """
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=dict(environ), stdout=out, stderr=out, start_new_session=True
        )
    try:
        until = time.monotonic() + patience
        while not _ok(url + ready):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{command[2]} did not come up\n{log.read_text()[-3000:]}")
            time.sleep(0.5)
        yield Server(process, url)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # vLLM's engine is a process of its own
            process.wait()


def _ok(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without settings of vLLM's or of this project's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PRISM_", "VLLM_"))}
    return kept | more
