"""What a person types: make, and what it says when something is missing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def make(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    # Nothing of a make that these tests may themselves be run by.
    clean = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    return subprocess.run(
        ["make", *words],
        cwd=ROOT,
        env={**clean, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_make_alone_shows_help() -> None:
    done = make()

    assert done.returncode == 0
    for target in ("serve", "test", "setup", "lint", "clean"):
        assert f"make {target}" in done.stdout


def test_variables_come_from_the_command_line_and_not_from_the_environment() -> None:
    assert "--host '127.0.0.1' --port '8000'" in make("-n", "serve", HOST="box", PORT="1").stdout
    assert "--port '9000'" in make("-n", "serve", "PORT=9000").stdout


def test_without_a_usable_python_it_says_which_is_needed_and_how_to_get_it() -> None:
    done = make("setup", "PYTHON=/nowhere/python9")

    assert done.returncode != 0
    assert "no usable Python found (tried: /nowhere/python9)" in done.stderr
    assert "Python 3.11 to 3.14" in done.stderr
    assert "sudo apt-get install python3 python3-venv" in done.stderr


def test_ci_runs_the_readmes_own_test_command() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]

    assert commands == ["make test"]
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tree_knows_no_machine_and_no_package_host() -> None:
    for path in [ROOT / "Makefile", ROOT / "constraints.txt", *ROOT.glob("scripts/**/*.py")]:
        text = path.read_text(encoding="utf-8")
        for word in ("/tmp/", "/root/", "/work/", "@ file:"):
            assert word not in text, path
