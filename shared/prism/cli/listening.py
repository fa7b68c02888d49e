"""Where a command listens: the socket, and what is said if it can't be had."""

from __future__ import annotations

import os
import socket

from prism.cli.output import bad_input

BACKLOG = 2048


def listen(host: str, port: int, as_json: bool) -> socket.socket:
    """Return a socket that listens already, so that nobody meets a closed door meanwhile.

    Exits with 2 where there can't be one.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        reason = str(error.strerror or error)
        if error.errno is not None and not isinstance(error, socket.gaierror):
            reason = os.strerror(error.errno)  # without the address, which is said already
        bad_input(
            f"can't listen on {host} port {port}: {reason}; "
            "choose another --host or --port, or end what is using it",
            as_json,
        )


def authority(listener: socket.socket) -> str:
    """Return ``HOST:PORT`` of a socket as a URL has it."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
