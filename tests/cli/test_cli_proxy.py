"""``prism proxy``: what is wrong is said before anything listens."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--upstream", "127.0.0.1:8080"),
            "error: '127.0.0.1:8080' is not the URL of a server; write http://HOST:PORT\n",
        ),
        (
            ("--upstream", "http://host/v1"),
            "error: 'http://host/v1': leave out the /v1 at its end; routes such as /v1/models are "
            "added to it\n",
        ),
        (
            ("--upstream", "http://me:secret@host"),
            "error: leave user and password out of the URL; clients send their own Authorization "
            "header\n",
        ),
        (
            ("--upstream", "https://host", "--ca", "none.pem"),
            "error: none.pem: no such file; it has to be a file of PEM certificates\n",
        ),
        (
            ("--upstream", "http://localhost:8000"),
            "error: --upstream is where this proxy would listen (http://localhost:8000); "
            "change one\n",
        ),
        (
            ("--upstream", "http://host", "--policy", "hose"),
            "hose: is not the name of a shipped policy; use default, family, permissive, strict, "
            "or a path that ends in .yaml\n",
        ),
        (
            ("--upstream", "http://host", "--policy", "bad.yaml"),
            "bad.yaml:3:1: rulez: is not a known key; did you mean 'rules'?\n",
        ),
        (
            ("--upstream", "http://host", "--config", "prism.yaml"),
            "prism.yaml:1:1: polcy: is not a known key; did you mean 'policy'?\n",
        ),
        (
            ("--upstream", "http://host", "--policy", "marked.yaml", "--port", "0"),
            "marked: watermark: the policy demands a watermark, and nothing in front of an engine "
            "can carry one; serve the model with a PRISM plugin in the engine, or write "
            "`watermark: off`\n",
        ),
    ],
)
def test_nothing_starts_when_something_is_wrong(prism, arguments, message):
    Path("bad.yaml").write_text("prism: 1\nid: bad\nrulez: []\n")
    Path("prism.yaml").write_text("polcy: bad.yaml\n")
    Path("marked.yaml").write_text("prism: 1\nid: marked\nwatermark: required\n")
    result = prism("proxy", *arguments)
    told = re.sub(r"^prism: policy .*\n", "", result.err)
    assert (result.code, result.out, told) == (2, "", message)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--upstream", "http://host", "--port", "65536"),
        ("--upstream", "http://host", "--idle-timeout", "0"),
        ("--upstream", "http://host", "--connect-timeout", "soon"),
    ],
)
def test_options_that_arent_right(prism, arguments):
    assert prism("proxy", *arguments).code == 2


def test_what_is_wrong_can_be_had_as_json(prism):
    Path("bad.yaml").write_text("prism: 1\nid: bad\nrulez: []\n")
    told = prism("proxy", "--json", "--upstream", "127.0.0.1:8080")
    assert told.code == 2
    assert told.json["error"]["message"].startswith("'127.0.0.1:8080' is not the URL of a server")
    told = prism("proxy", "--json", "--upstream", "http://host", "--policy", "bad.yaml")
    assert told.code == 2
    (problem,) = told.json["error"]["problems"]
    assert (problem["line"], problem["key"]) == (3, "rulez")


def test_a_port_that_is_taken(prism):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = prism("proxy", "--upstream", "http://127.0.0.1:1", "--port", str(port))
    assert result.code == 2
    assert result.err.splitlines()[1:] == [
        f"error: can't listen on 127.0.0.1 port {port}: Address already in use; "
        "choose another --host or --port, or end what is using it"
    ]


def test_an_address_that_isnt_this_machines(prism):
    result = prism("proxy", "--upstream", "http://127.0.0.1:1", "--host", "nobody.invalid")
    assert result.code == 2
    assert "can't listen on nobody.invalid port 8000" in result.err


def test_help_shows_an_example(prism):
    result = prism("proxy", "--help")
    assert result.code == 0
    assert "prism proxy --upstream http://127.0.0.1:8080" in result.out


def test_uvicorn_and_httpx_wait_until_they_are_needed():
    """The other commands are as quick as before."""
    loaded = "import sys, prism.cli.app; print({'uvicorn', 'httpx', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, check=True)
    assert done.stdout == b"set()\n"


@pytest.fixture
def running(house, tmp_path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The command in its own process, with nobody behind it; its output is in ``out``."""
    log, told = tmp_path / "log", tmp_path / "out"
    command = [str(Path(sys.executable).with_name("prism")), "proxy", "--port", "0", "--json"]
    command += ["--upstream", "http://127.0.0.1:1/llm/", "--policy", "house.yaml"]
    # Where the tests run in a shell's background, Ctrl-C is ignored, and that is inherited.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with log.open("wb") as err, told.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=err)
    finally:
        signal.signal(signal.SIGINT, before)
    until = time.monotonic() + 300
    while not told.read_bytes().endswith(b"}\n"):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until
        time.sleep(0.05)
    yield process, log
    process.kill()
    process.wait(60)


def test_it_says_where_it_listens_and_ends_in_order(running):
    process, log = running
    lines = log.read_text().splitlines()
    assert re.fullmatch(r"prism: policy house \([0-9a-f]{12}\), \d+ rules", lines[0])
    listening = re.fullmatch(
        r"prism: listening on (http://127\.0\.0\.1:\d+), upstream http://127\.0\.0\.1:1/llm/",
        lines[1],
    )
    assert listening is not None
    assert lines[2] == f"prism: health: {listening[1]}/prism/health"
    told = json.loads(log.with_name("out").read_text())
    assert told.pop("policy").keys() == {"id", "digest"}
    assert told == {
        "url": listening[1],
        "health": f"{listening[1]}/prism/health",
        "upstream": "http://127.0.0.1:1/llm/",
    }
    # Nobody meets a closed door: the socket listens while policy and models are still loaded.
    health = httpx.get(f"{listening[1]}/prism/health", timeout=120)
    assert health.status_code == 503
    assert health.json()["policy_id"] == "house"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "Traceback" not in log.read_text()
