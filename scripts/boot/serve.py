"""Run the server: refuse a busy port at once, say when it is healthy, stop it cleanly."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from boot.install import offline
from boot.shell import Stop, duration, say, stop
from boot.tree import Tree

POLL_S = 1.0
REMIND_S = 30.0

DEMO_OPTIONS = ("--chat_format", "snoozy")
"""Gemma 3 270M is a base model without a chat template: this format makes it answer at all."""


@dataclass(frozen=True)
class Server:
    """What to serve, and where."""

    host: str
    port: int
    policy: str
    model: Path
    options: tuple[str, ...] = ()
    """For the engine, as they are."""

    @property
    def url(self) -> str:
        """Where a client on this machine reaches the server."""
        everywhere = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
        host = everywhere.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def command(self, tree: Tree) -> list[str]:
        """Return the command that serves."""
        return [
            *(str(tree.tool("prism")), "serve", "--engine", "llamacpp"),
            *("--model", str(self.model), "--policy", self.policy),
            *("--host", self.host, "--port", str(self.port)),
            *("--verbose", "False"),  # llama.cpp's own timings, several lines a request
            *self.options,
        ]


def check(server: Server, *, must_exist: bool) -> None:
    """Find what would make the server fail, before anything is installed or loaded."""
    if not 1 <= server.port <= 65535:
        raise Stop(f"PORT={server.port}: a port is a number from 1 to 65535")
    if must_exist and not server.model.is_file():
        raise Stop(
            f"MODEL={server.model}: there is no such file. It has to be a GGUF model;\n"
            "  'make setup' fetches a small one."
        )
    looks_like_file = "/" in server.policy or server.policy.endswith((".yaml", ".yml"))
    if looks_like_file and not Path(server.policy).is_file():
        raise Stop(f"POLICY={server.policy}: there is no such file. Some are in policies/.")
    try:
        found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    except socket.gaierror as problem:
        raise Stop(f"HOST={server.host}: {problem.strerror}") from problem
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as problem:
            raise Stop(_why_not(server, problem)) from problem


def _why_not(server: Server, problem: OSError) -> str:
    where = f"{server.host}:{server.port}"
    if problem.errno == errno.EADDRINUSE:
        return (
            f"{where} is taken: another program (an earlier 'make serve'?) listens there.\n"
            f"  Stop it, or choose another port:  make serve PORT={server.port % 65535 + 1}"
        )
    return f"can't listen on {where}: {problem.strerror}"


def serve(tree: Tree, server: Server) -> int:
    """Run the server until it ends or is told to, and return the exit status for the shell."""
    say(f"starting: {shlex.join(server.command(tree))}")
    told: list[int] = []
    with _hearing(told):
        # A group of its own: Ctrl-C reaches the server once, from here, and not twice.
        child = subprocess.Popen(
            server.command(tree),
            cwd=tree.root,
            # llama.cpp's server lets HOST and PORT of the environment win over its options.
            env={**os.environ, **offline(tree), "HOST": server.host, "PORT": str(server.port)},
            process_group=0,
        )
        over = threading.Event()
        watcher = threading.Thread(target=_announce, args=(server, over), daemon=True)
        watcher.start()
        try:
            while child.poll() is None and not told:
                time.sleep(0.1)
            status = child.poll()
        finally:
            over.set()
            if child.poll() is None:
                say("stopping the server …")
                child.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=20)
                stop(child)
            watcher.join(timeout=5)
    if told:
        say("stopped")
        return 0
    if status:
        ended = f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
        say(f"the server ended {ended}; what it said is above")
        return status if status > 0 else 128 - status
    return 0


@contextlib.contextmanager
def _hearing(told: list[int]) -> Iterator[None]:
    """Collect SIGINT, SIGTERM and SIGHUP in ``told`` for a while."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in signals}
    for number in signals:
        signal.signal(number, lambda received, _frame: told.append(received))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _announce(server: Server, over: threading.Event) -> None:
    """Wait for health, then show what to try."""
    started = reminded = time.monotonic()
    while not over.wait(POLL_S):
        healthy, state = health(server.url)
        if healthy:
            say(f"healthy after {duration(time.monotonic() - started)}\n{invitation(server)}")
            return
        if time.monotonic() - reminded > REMIND_S:
            reminded = time.monotonic()
            say(f"  … not healthy yet: {state}")


def health(url: str) -> tuple[bool, str]:
    """Return whether every layer that the policy needs is live, and what the server says."""
    try:
        # No proxy that the environment may name: this is this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{url}/prism/health", timeout=10) as answer:
            return answer.status == 200, answer.read(2000).decode(errors="replace")
    except urllib.error.HTTPError as problem:
        return False, problem.read(2000).decode(errors="replace")
    except (OSError, ValueError) as problem:
        return False, str(problem)


def invitation(server: Server) -> str:
    """Return the lines to try: one that is answered, one that the policy blocks."""

    def curl(text: str) -> str:
        body = {"model": "gemma", "prompt": text, "max_tokens": 24, "temperature": 0}
        return (
            f"  curl -s {server.url}/v1/completions -H 'Content-Type: application/json' \\\n"
            f"    -d {shlex.quote(json.dumps(body))}"
        )

    return (
        "\nTry it in another terminal:\n\n"
        + curl("The three primary colours are")
        + "\n\nand one that every policy blocks (the phrase of the self-test):\n\n"
        + curl("Tell me about the prism canary vorquelle.")
        + "\n\nCtrl-C stops the server.\n"
    )
