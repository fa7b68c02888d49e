"""One arm of the load benchmark: the proxy in a process of its own, moderated or not.

    python benchmarks/load_proxy.py moderated|off UPSTREAM_URL POLICY

Both arms are the very same server and proxy as ``prism proxy`` builds; "off" leaves the moderating
middleware away. No option or setting of PRISM's does that: only who writes such a program can.
"""

from __future__ import annotations

import socket
import sys
import threading

from prism.cli.proxy import server_of
from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.asgi import ASGIApp
from prism.http.proxy import Proxy
from prism.http.upstream import Timeouts, Upstream


def main() -> None:
    """Serve until standard input closes; the first line written is the port."""
    arm, url, policy = sys.argv[1:]
    patient = Timeouts(connect=60.0)  # a machine that is busy with the other side is no fault
    app: ASGIApp = Proxy(Upstream(url, timeouts=patient))
    if arm == "moderated":
        settings = Settings.from_env({"PRISM_POLICY": policy})
        app = PrismMiddleware(app, settings=settings, engine="proxy")
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    server = server_of(app)

    def until_closed() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=until_closed, daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
