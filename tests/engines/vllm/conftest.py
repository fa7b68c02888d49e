"""vLLM for CPU with the real model: one server and one offline run, shared by all tests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.ports import START_SECONDS, free_port
from vllm_runs import ADMIN_KEY, API_KEY, HERE, Server, result_of
from vllm_texts import VLLM_POLICY


@pytest.fixture(scope="session")
def vllm_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy of these tests."""
    path = tmp_path_factory.mktemp("policy") / "vllm.yaml"
    path.write_text(VLLM_POLICY, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def vllm_env(vllm_policy: Path) -> dict[str, str]:
    """The environment of a process that runs vLLM."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PRISM_", "VLLM_"))}
    paths = [str(HERE.parent), str(HERE), env.get("PYTHONPATH", "")]
    return env | {
        "PRISM_POLICY": str(vllm_policy),
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        # Compiling the one kernel that counts ranks takes longer than all tests of it.
        "TORCH_COMPILE_DISABLE": "1",
    }


@pytest.fixture(scope="session")
def offline(vllm_model: str, vllm_env: dict[str, str]) -> Any:
    """What ``LLM`` made of every case of ``offline_run.py``."""
    return result_of("offline_run.py", vllm_model, env=vllm_env)


@pytest.fixture(scope="session")
def server(
    vllm_model: str, vllm_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """vLLM's own OpenAI server with the middleware, and developer routes switched on."""
    port = free_port()
    log = tmp_path_factory.mktemp("server") / "log"
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", vllm_model, "--served-model-name", "gemma", "--dtype", "bfloat16",
        "--enforce-eager", "--max-model-len", "768", "--max-num-seqs", "8",
        "--host", "127.0.0.1", "--port", str(port), "--api-key", API_KEY,
        "--chat-template", str(HERE / "chat.jinja"),
        "--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--enable-prompt-embeds",
        "--enable-scale-out", "--middleware", "vllm_prism.PrismMiddleware",
    ]  # fmt: skip
    with log.open("w") as out:
        process = subprocess.Popen(
            command,
            env=vllm_env | {"VLLM_SERVER_DEV_MODE": "1", "PRISM_ADMIN_KEY": ADMIN_KEY},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            yield Server(url, _wait(process, url, log), log)
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    """A client with the right key."""
    with server.client() as client:
        yield client


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> list[int]:
    seen: list[int] = []
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            seen.append(httpx.get(f"{url}/prism/health", timeout=60).status_code)
        except httpx.HTTPError:
            time.sleep(1)
            continue
        if seen[-1] == 200:
            return seen
        time.sleep(0.2)
    raise AssertionError(f"not healthy (exit {process.poll()})\n{log.read_text()[-6000:]}")
