"""The command line as its users run it: arguments and input, then output and an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
from typer.testing import CliRunner

from prism.cli.app import app

POLICY = """\
prism: 1
id: house
extends: default
rules:
  - id: names
    category: prv
    stages: [prompt, output]
    phrases: ["zephyr lantern"]
    action: block
  - id: orders
    category: prv
    stages: [output]
    regexes: ['\\border-[0-9]{4}\\b']
    action: redact
  - id: trial
    category: hte
    mode: monitor
    phrases: ["amber quokka"]
    action: block
"""


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def house(tmp_path, monkeypatch) -> Path:
    """A working directory with ``house.yaml`` in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PRISM_POLICY", raising=False)
    monkeypatch.delenv("PRISM_CONFIG", raising=False)
    Path("house.yaml").write_text(POLICY)
    return tmp_path


@pytest.fixture
def prism(house):
    """Run a command in this process: the same code, without the start of an interpreter."""

    def run(*arguments: str, stdin: bytes | str | None = None) -> Result:
        result = CliRunner().invoke(app, arguments, input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Result(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def prism_process(house):
    """Run the installed command in its own process."""

    def run(
        *arguments: str | bytes,
        stdin: bytes = b"",
        stdout: IO[bytes] | int = subprocess.PIPE,
        closed: int | None = None,
        **environ: str,
    ) -> Result:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("prism")), *arguments],
            input=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=300,
            check=False,
            env={**os.environ, **environ},
            preexec_fn=None if closed is None else lambda: os.close(closed),
        )
        encoding = environ.get("PYTHONIOENCODING", "utf-8")
        out, err = done.stdout or b"", done.stderr
        return Result(done.returncode, out.decode(encoding), err.decode(encoding))

    return run
