"""The proxy as a user starts it, in front of servers that know nothing of it."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_processes import Running, process, until_ok
from tests.ports import START_SECONDS, free_port

HERE = Path(__file__).parent
Start = Callable[..., contextlib.AbstractContextManager[Running]]


@pytest.fixture(scope="session")
def patterns_policy(engine_policy: Path) -> Path:
    """The engines' policy without score tiers, so that what is held back is a phrase's to say."""
    path = engine_policy.with_name("patterns.yaml")
    text = engine_policy.read_text(encoding="utf-8")
    path.write_text(f"{text}tiers: {{sketch: off, encoder: off}}\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def start_native(llama_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Start a native llama.cpp server."""

    @contextlib.contextmanager
    def start() -> Iterator[Running]:
        log = tmp_path_factory.mktemp("native") / "log"
        port = free_port()
        command = [sys.executable, str(HERE / "native_server.py"), str(llama_gguf), str(port)]
        with process(command, log) as started:
            until_ok(f"http://127.0.0.1:{port}/health", started, log)
            yield Running(f"http://127.0.0.1:{port}", started)

    return start


@pytest.fixture(scope="session")
def start_python(llama_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Start llama-cpp-python's server, without anything of PRISM's in it."""

    @contextlib.contextmanager
    def start() -> Iterator[Running]:
        log = tmp_path_factory.mktemp("python") / "log"
        port = free_port()
        where = ["--model", str(llama_gguf), "--host", "127.0.0.1", "--port", str(port)]
        how = ["--n_ctx", "512", "--n_threads", "1", "--logits_all", "false"]
        with process([sys.executable, "-m", "llama_cpp.server", *where, *how], log) as started:
            until_ok(f"http://127.0.0.1:{port}/v1/models", started, log)
            yield Running(f"http://127.0.0.1:{port}", started)

    return start


@pytest.fixture(scope="session")
def start_proxy(patterns_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Start ``prism proxy`` and wait until it is green."""

    @contextlib.contextmanager
    def start(upstream: str, *options: str) -> Iterator[Running]:
        log = tmp_path_factory.mktemp("proxy") / "log"
        command = [str(Path(sys.executable).with_name("prism")), "proxy", "--upstream", upstream]
        command += ["--policy", str(patterns_policy), "--port", "0", *options]
        with process(command, log) as started:
            until = time.monotonic() + START_SECONDS
            while not (told := re.search(r"prism: health: (\S+)\n", log.read_text())):
                assert started.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.1)
            until_ok(told[1], started, log)
            yield Running(told[1].removesuffix("/prism/health"), started)

    return start


@pytest.fixture(scope="session")
def native(start_native: Start) -> Iterator[Running]:
    """The native server, unmoderated."""
    with start_native() as running:
        yield running


@pytest.fixture(scope="session")
def moderated(native: Running, start_proxy: Start) -> Iterator[Running]:
    """The same server behind the proxy."""
    with start_proxy(native.url) as running:
        yield running
