"""llama.cpp's own HTTP server, as a process of its own: ``native_server.py MODEL PORT [CONTEXT]``.

The wheel of ``xllamacpp`` holds the C++ server with every route of ``llama-server``, and runs on
any x86-64 processor with AVX2.
"""

from __future__ import annotations

import sys
import threading

import xllamacpp


def main() -> None:
    """Serve until somebody ends the process."""
    model, port = sys.argv[1:3]
    settings = xllamacpp.CommonParams()
    settings.model.path = model
    settings.hostnames = ["127.0.0.1"]
    settings.port = int(port)
    settings.n_ctx = 2048
    settings.n_parallel = 2
    settings.n_gpu_layers = 0
    settings.cpuparams.n_threads = 1
    settings.endpoint_slots = True
    server = xllamacpp.Server(settings)
    assert server.listening_address
    threading.Event().wait()


if __name__ == "__main__":
    main()
