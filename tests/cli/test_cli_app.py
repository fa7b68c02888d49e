"""The command as a whole: help everywhere, and nothing heavy behind it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from prism import __version__
from prism.cli.app import app


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the way to every command there is, and to every group of them."""
    yield path
    for name, member in getattr(group, "commands", {}).items():
        yield from commands(member, (*path, name))


ALL = tuple(commands(get_command(app)))
GROUPS = {path[:-1] for path in ALL if path}


def test_the_commands_that_others_build_on_are_there():
    wanted = {"check", "scan", "serve", "proxy", "eval", "bench", "conform", "audit verify"}
    wanted |= {f"policy {name}" for name in ("lint", "test", "show", "diff", "compile")}
    wanted |= {f"tenant {name}" for name in ("add", "rotate", "show", "list", "disable")}
    wanted |= {"watermark detect", "audit fingerprint"}
    assert {" ".join(path) for path in ALL if path not in GROUPS} == wanted


@pytest.mark.parametrize("command", ALL, ids=lambda path: " ".join(path) or "prism")
def test_help_has_an_example(prism, command):
    result = prism(*command, "--help")
    assert result.code == 0
    assert "Example:\n    " in result.out
    assert f"prism {' '.join(command)}" in result.out.partition("Example:")[2]
    if command not in GROUPS:
        assert "  --json " in result.out


def test_version(prism):
    assert prism("--version").out == f"prism {__version__}\n"


def test_an_unknown_command(prism):
    result = prism("polciy")
    assert result.code == 2
    assert "No such command 'polciy'" in result.err


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8"])
def test_a_terminal_of_any_encoding_can_show_it(prism_process, encoding):
    Path("said.yaml").write_text(
        "prism: 1\nid: said\nmessages: {en: “no” é 🏮}\nrules:\n"
        "  - {id: names, category: prv, phrases: [zephyr lantern], action: block}\n",
        encoding="utf-8",
    )
    ask = ("check", "--policy", "said.yaml", "--json", "zephyr lantern")
    told = prism_process(*ask, PYTHONIOENCODING=encoding)
    assert told.code == 3
    assert told.json["message"] == "“no” é 🏮"
    shown = prism_process("policy", "show", "said.yaml", PYTHONIOENCODING=encoding)
    assert shown.code == 0
    assert "no" in shown.out


def test_help_imports_nothing_heavy():
    script = (
        "import sys\nfrom prism.cli.app import app\n"
        "app(['policy', '--help'], standalone_mode=False)\n"
        "heavy = {'numba', 'numpy', 'vllm', 'llama_cpp', 'torch', 'httpx', 'starlette', 'regex'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
