"""``prism conform``: what is wrong is said at once, and the exit code tells a run's outcome."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import uvicorn

from prism.conform.texts import ASKED, POLICY, SAID, SECOND
from prism.conform.upstream import Upstream
from prism.moderator import Moderator
from prism.policy import load_policy


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    """The scripted engine, which moderates nothing."""
    config = uvicorn.Config(Upstream().app, port=0, log_level="critical", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "error: no URL: give that of the moderated server\n"),
        (
            ("127.0.0.1:8000",),
            "error: '127.0.0.1:8000' is not the URL of a server; write http://HOST:PORT\n",
        ),
        (
            ("http://host", "--upstream", "http://host/v1"),
            "error: 'http://host/v1': leave out the /v1 at its end; routes such as /v1/models are "
            "added to it\n",
        ),
        (
            ("http://host", "--log", "none.log"),
            "error: none.log: no such file; --log takes the log that the server is writing\n",
        ),
        (
            ("http://127.0.0.1:1",),
            "error: http://127.0.0.1:1 can't be reached: ConnectError; is the server up?\n",
        ),
    ],
)
def test_what_is_wrong_is_said(prism, arguments, message):
    result = prism("conform", *arguments)
    assert (result.code, result.out, result.err) == (2, "", message)


def test_what_is_wrong_is_said_in_json_too(prism):
    result = prism("conform", "http://127.0.0.1:1", "--json")
    assert result.code == 2
    assert "can't be reached" in result.json["error"]["message"]


def test_the_policy_that_it_prints_blocks_what_it_asks_for(prism, tmp_path):
    printed = prism("conform", "--policy")
    assert (printed.code, printed.out) == (0, POLICY)
    path = tmp_path / "conformance.yaml"
    path.write_text(printed.out + prism("conform", "--policy-2").out)
    moderator = Moderator(load_policy(path))
    assert moderator.check_prompt(ASKED).blocked
    assert moderator.check_output(SAID).blocked
    assert moderator.check_prompt(SECOND).blocked
    assert not moderator.check_prompt(SAID).blocked  # engines are told word for word what to say


def test_passed(prism, engine):
    result = prism("conform", engine, "--only", "chat.whole.harmless", "--only", "chunks.gaps")
    assert result.code == 0
    assert result.out.endswith("\n2 passed, 0 failed, 0 not applicable, 0 error\n")


def test_failed(prism, engine):
    result = prism("conform", engine, "--only", "chat.whole", "--json")
    assert result.code == 3
    rows = {row["name"]: row["outcome"] for row in result.json["checks"]}
    assert rows == {
        "chat.whole.prompt": "failed",
        "chat.whole.output": "failed",
        "chat.whole.marked": "not applicable",
        "chat.whole.harmless": "passed",
    }
    assert SAID not in json.dumps(result.json)


def test_nothing_that_could_be_asked_is_not_a_pass(prism, engine):
    result = prism("conform", engine, "--only", "tenants.no-key")
    assert result.code == 2
    assert "not a result" in result.err


def test_no_check_of_that_name(prism, engine):
    result = prism("conform", engine, "--only", "chats")
    assert (result.code, result.err) == (2, "error: no check's name begins with chats\n")


def test_help_shows_an_example(prism):
    result = prism("conform", "--help")
    assert result.code == 0
    assert "prism conform http://127.0.0.1:8000 --upstream http://127.0.0.1:9001" in result.out


def test_the_other_commands_are_as_quick_as_before():
    loaded = "import sys, prism.cli.app; print({'httpx', 'starlette'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, check=True)
    assert done.stdout == b"set()\n"


def test_the_report_as_a_web_page(prism, engine, tmp_path):
    page = tmp_path / "report.html"
    only = ("--only", "chat.whole.harmless")
    result = prism("conform", engine, *only, "--html", str(page))
    assert result.code == 0
    assert result.out.endswith(f"report: {page}\n")
    written = page.read_text(encoding="utf-8")
    assert written.startswith("<!doctype html>")
    assert "<code>chat.whole.harmless</code>" in written

    nowhere = tmp_path / "none" / "report.html"
    result = prism("conform", engine, *only, "--html", str(nowhere))
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        f"error: {nowhere}: there is no such folder; --html takes the file to write\n"
    )
    result = prism("conform", engine, *only, "--html", str(tmp_path), "--json")
    assert result.code == 2
    assert "Is a directory; --html takes the file to write" in result.json["error"]["message"]
