"""The command as a whole: help everywhere, and nothing heavy behind it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from prism import __version__

COMMANDS = (
    ("check",),
    ("serve",),
    ("policy", "lint"),
    ("policy", "test"),
    ("policy", "show"),
    ("policy", "diff"),
    ("policy", "compile"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example(prism, command):
    result = prism(*command, "--help")
    assert result.code == 0
    assert "Example:\n    prism " in result.out
    assert ("--json" in result.out) == (command != ("serve",))


def test_version(prism):
    assert prism("--version").out == f"prism {__version__}\n"


def test_an_unknown_command(prism):
    result = prism("polciy")
    assert result.code == 2
    assert "No such command 'polciy'" in result.err


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
