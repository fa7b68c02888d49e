"""Ports for servers that have to be told theirs before they are up, and how long that may take."""

from __future__ import annotations

import os
import random
import re
import socket

START_SECONDS = 900
"""Long: a server's start may have to compile its kernels, on a machine that is busy."""
_FIRST, _WORKERS = 15_000, 16
# Those that the system gives out begin here: by the time a slow server binds one of them, it may
# be the client's end of somebody's connection.
_LAST = 32_000


def free_port() -> int:
    """Return a port that nobody listens on, and that no other worker of this run picks."""
    worker = int("0" + re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")))
    while True:
        port = random.randrange(_FIRST, _LAST, _WORKERS) + worker % _WORKERS
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
