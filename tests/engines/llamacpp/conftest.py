"""One model and one server for the whole run; both take seconds to start."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from llama_cpp import Llama, LogitsProcessorList
from tests.ports import START_SECONDS, free_port

from llamacpp_prism import guard
from llamacpp_prism.vocabulary import vocabulary_of
from prism.moderator import Moderator
from prism.policy import load_policy
from prism.policy.compiled import CompiledPolicy
from prism.steer.vocabulary import Vocabulary

ONE_THREAD = ("--n_threads", "1", "--n_threads_batch", "1")
"""The engine's threads spin while they wait for one another: on a busy machine two are slower."""


def load(gguf: Path, **options: Any) -> Llama:
    settings = {
        "n_ctx": 512,
        "n_threads": 1,
        "n_threads_batch": 1,
        "seed": 7,
        "verbose": False,
        **options,
    }
    return Llama(str(gguf), **settings)


@pytest.fixture(scope="session")
def policy(engine_policy: Path) -> CompiledPolicy:
    return load_policy(engine_policy)


@pytest.fixture(scope="session")
def moderator(policy: CompiledPolicy) -> Moderator:
    """The judge of what came out."""
    return Moderator(policy)


@pytest.fixture(scope="session")
def plain(llama_gguf: Path) -> Iterator[Llama]:
    """The model as it comes, for runs to compare with."""
    llama = load(llama_gguf)
    yield llama
    llama.close()


@pytest.fixture(scope="session")
def vocabulary(plain: Llama) -> Vocabulary:
    return vocabulary_of(plain)


@pytest.fixture(scope="session")
def _guarded(llama_gguf: Path) -> Iterator[Llama]:
    llama = load(llama_gguf)
    yield llama
    llama.close()


@pytest.fixture
def llama(_guarded: Llama, policy: CompiledPolicy, vocabulary: Vocabulary) -> Llama:
    """The model under ``policy``, with nothing in its context."""
    _guarded.reset()
    _guarded.set_cache(None)
    return guard(_guarded, policy, vocabulary=vocabulary)


@pytest.fixture
def make_llama(llama_gguf: Path) -> Iterator[Callable[..., Llama]]:
    """Load further models, for options that can't be changed later."""
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> Llama:
            llama = load(llama_gguf, **options)
            stack.callback(llama.close)
            return llama

        yield make


@pytest.fixture(scope="session")
def pieces(plain: Llama) -> dict[bytes, int]:
    """The printable tokens of the model, by what they print."""
    found: dict[bytes, int] = {}
    for token in range(plain.n_vocab()):
        found.setdefault(plain.detokenize([token]), token)
    found.pop(b"", None)
    return found


class Insist:
    """A logits processor of the request's own that wants certain tokens and nothing else."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = list(tokens)
        self.start: int | None = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if self.start is None:
            self.start = len(input_ids)
        at = len(input_ids) - self.start
        if at < len(self.tokens):
            scores[self.tokens[at]] = np.float32(1e6)
        return scores


@pytest.fixture(scope="session")
def insist() -> Callable[[Sequence[int]], LogitsProcessorList]:
    """Return the processors of a request that makes the engine want these very tokens."""
    return lambda tokens: LogitsProcessorList([Insist(tokens)])


@dataclass
class Server:
    """A running ``python -m llamacpp_prism``."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


Serving = Callable[..., contextlib.AbstractContextManager[Server]]


@contextlib.contextmanager
def _serving(
    log: Path, *options: str, fault: str = "", healthy: bool = True, env: dict[str, str]
) -> Iterator[Server]:
    """Run the server until its state is known, then until the block ends.

    ``fault``: Python statements run before the server starts, in its process.
    """
    port = free_port()
    start = ["-m", "llamacpp_prism"]
    if fault:
        start = ["-c", f"{fault}\nfrom llamacpp_prism.server import main; main()"]
    # A config file's host and port win over the options, and the environment over both.
    env = {"HOST": "127.0.0.1", "PORT": str(port), **env}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                sys.executable,
                *(start if fault else ["-m", "llamacpp_prism"]),
                *ONE_THREAD,
                *options,
            ],
            stdout=out,
            stderr=out,
            env={**os.environ, **env},
        )
    try:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(httpx.TransportError):
                health = httpx.get(f"{url}/prism/health", timeout=60)
                if health.status_code == 200 or (
                    # The first round is through: every layer was tried.
                    not healthy and health.json()["checked_s_ago"] is not None
                ):
                    break
            if process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"the server did not come up:\n{log.read_text()[-4000:]}")
            time.sleep(0.2)
        yield Server(url, process, log)
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def serving(llama_gguf: Path, engine_policy: Path, tmp_path: Path) -> Serving:
    """Start a server of the test's own."""

    def start(
        *options: str,
        fault: str = "",
        healthy: bool = True,
        model: bool = True,
        env: dict[str, str] | None = None,
    ) -> contextlib.AbstractContextManager[Server]:
        given = ["--policy", str(engine_policy), *options]
        given += ["--model", str(llama_gguf), "--n_ctx", "512"] if model else []
        log = tmp_path / "server.log"
        return _serving(log, *given, fault=fault, healthy=healthy, env=env or {})

    return start


@pytest.fixture(scope="session")
def server(
    llama_gguf: Path, engine_policy: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The moderated server, started as a user starts it."""
    log = tmp_path_factory.mktemp("llamacpp") / "server.log"
    options = ("--model", str(llama_gguf), "--policy", str(engine_policy), "--n_ctx", "512")
    with _serving(log, *options, env={}) as running:
        yield running
