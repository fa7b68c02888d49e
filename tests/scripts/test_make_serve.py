"""``make serve`` as a person meets it: the real server with the real model."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
SELFTEST = "prism canary vorquelle"


@dataclass
class Served:
    process: subprocess.Popen[str]
    url: str
    said: list[str]

    def read_until(self, text: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if text in line:
                return
        raise AssertionError(f"{text!r} was never said:\n{''.join(self.said)}")


@contextlib.contextmanager
def served() -> Iterator[Served]:
    port = free_port()
    # --as-is: the environment these tests run in is the one that serves.
    command = [sys.executable, "scripts/bootstrap.py", "serve", "--as-is", "--port", str(port)]
    # A HOST and PORT that happen to be in the environment are not meant for this server.
    env = {**os.environ, "HOST": "0.0.0.0", "PORT": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Served(process, f"http://127.0.0.1:{port}", [])
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=60)
            process.kill()


@pytest.mark.engine
def test_it_serves_moderated_says_what_to_try_and_stops_on_ctrl_c() -> None:
    with served() as server:
        server.read_until("Ctrl-C stops the server")
        said = "".join(server.said)
        assert "healthy after" in said
        assert f"curl -s {server.url}/v1/completions" in said
        assert httpx.get(f"{server.url}/prism/health", timeout=60).status_code == 200

        chat = httpx.post(
            f"{server.url}/v1/chat/completions",
            json={
                "messages": [{"role": "user", "content": "Name three colours."}],
                "max_tokens": 9,
            },
            timeout=120,
        )
        assert chat.json()["choices"][0]["message"]["content"].strip()

        answer = completion(server, "The three primary colours are")
        assert answer["text"].strip()
        assert answer["finish_reason"] in ("length", "stop")

        blocked = completion(server, f"Tell me about the {SELFTEST}.")
        assert blocked["finish_reason"] == "content_filter"
        assert SELFTEST not in blocked["text"]

        server.process.send_signal(signal.SIGINT)
        rest = server.process.communicate(timeout=60)[1]
        assert "stopping the server" in rest
        assert "Traceback" not in said + rest
        assert server.process.returncode == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/prism/health", timeout=60)


@pytest.mark.engine
def test_a_server_that_cannot_start_gives_its_status_and_nothing_is_left(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not a model")
    command = [sys.executable, "scripts/bootstrap.py", "serve", "--as-is", "--model", str(broken)]

    done = subprocess.run(
        [*command, "--port", str(free_port())],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )

    assert done.returncode not in (0, -signal.SIGKILL)
    assert "the server ended with exit status" in done.stderr


def completion(server: Served, prompt: str) -> dict[str, str]:
    body = {"model": "gemma", "prompt": prompt, "max_tokens": 24, "temperature": 0}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]
