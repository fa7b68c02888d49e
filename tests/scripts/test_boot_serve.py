from __future__ import annotations

import json
import re
import shlex
import socket
from pathlib import Path

import pytest

import bootstrap
from boot import serve
from boot.shell import Stop


def server(**changes: object) -> serve.Server:
    values: dict[str, object] = {
        "host": "127.0.0.1",
        "port": 8000,
        "policy": "default",
        "model": Path("m.gguf"),
    }
    return serve.Server(**{**values, **changes})  # type: ignore[arg-type]


def test_a_busy_port_is_refused_before_anything_is_installed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        status = bootstrap.main(["serve", "--port", str(port), "--policy", "default"])

    said = capsys.readouterr().err
    assert status == 1
    assert f"127.0.0.1:{port} is taken" in said
    assert f"make serve PORT={port + 1}" in said
    assert "[1/" not in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"port": 0}, "a port is a number from 1 to 65535"),
        ({"port": 70000}, "a port is a number from 1 to 65535"),
        ({"host": "no.such.host.invalid"}, "HOST=no.such.host.invalid"),
        ({"policy": "policies/nowhere.yaml"}, "POLICY=policies/nowhere.yaml: there is no such"),
        ({"model": Path("/nowhere/m.gguf")}, "MODEL=/nowhere/m.gguf: there is no such file"),
    ],
)
def test_wrong_variables_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(Stop, match=re.escape(message)):
        serve.check(server(**changes), must_exist="model" in changes)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("localhost", "http://localhost:8000"),
    ],
)
def test_the_curl_lines_name_an_address_that_can_be_reached(host: str, url: str) -> None:
    assert server(host=host).url == url
    assert f"{url}/v1/completions" in serve.invitation(server(host=host))


def test_the_curl_lines_can_be_pasted() -> None:
    pasted = serve.invitation(server()).replace("\\\n", " ")
    lines = [line for line in pasted.splitlines() if line.strip().startswith("curl")]

    assert len(lines) == 2
    for line in lines:
        words = shlex.split(line)
        assert json.loads(words[words.index("-d") + 1])["max_tokens"] == 24


def test_nobody_there_is_not_healthy() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    healthy, state = serve.health(f"http://127.0.0.1:{port}")

    assert not healthy
    assert "refused" in state
