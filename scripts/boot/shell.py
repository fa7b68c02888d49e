"""Running commands: quiet when they work, plain about what went wrong when they do not."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

HEARTBEAT_S = 30.0
"""How often a long command is said to be still at work."""

TAIL_LINES = 40
"""How much of a failed command's output is shown; the whole of it stays in its log."""


held: set[int] = set()
"""Descriptors of lock files. Commands inherit them: if this process is killed and a command lives
on, the lock lives on with it, and the next run waits instead of working against it."""


class Stop(Exception):
    """Something the person at the terminal has to act on. The text says what."""


class CommandFailed(Stop):
    """A command ended with a status other than 0."""

    def __init__(self, what: str, status: int, log: Path, tail: str) -> None:
        self.status = status
        self.tail = tail
        ended = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exit {status}"
        super().__init__(f"{what} failed ({ended}). The end of {log}:\n\n{tail}\n")


def say(text: str) -> None:
    """Tell the person at the terminal, on stderr, at once."""
    print(f"prism: {text}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Return ``8 s`` or ``6 min 12 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def run(
    what: str,
    command: Sequence[str | Path],
    log: Path,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run ``command`` with its output in ``log``, return that output, raise if it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as sink:
        sink.write("$ " + " ".join(str(word) for word in command) + "\n")
        sink.flush()
        child = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            pass_fds=tuple(held),
            # A group of its own, so that compilers and other grandchildren can be ended with it.
            process_group=0,
        )
        try:
            while True:
                try:
                    status = child.wait(timeout=HEARTBEAT_S)
                    break
                except subprocess.TimeoutExpired:
                    say(f"  … {what}: {duration(time.monotonic() - started)} so far")
        except BaseException:
            stop(child)
            raise
    output = log.read_text(encoding="utf-8", errors="replace")
    if status != 0:
        tail = "\n".join(output.splitlines()[-TAIL_LINES:])
        raise CommandFailed(what, status, log, tail)
    return output


def stop(child: subprocess.Popen[bytes], patience_s: float = 15.0) -> None:
    """End a child that leads a process group, and the group with it: ask, wait, then insist."""
    _signal_group(child, signal.SIGTERM)
    try:
        child.wait(timeout=patience_s)
    except subprocess.TimeoutExpired:
        _signal_group(child, signal.SIGKILL)
        child.wait()


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)
