"""How the vLLM part asks and counts, before a scripted server; what makes its bare arm bare."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bench.parts import vllm
from bench.servers import environment, free_port, serving
from bench.settings import Settings

HERE = Path(__file__).parent
BARE = HERE.parents[1] / "benchmarks" / "bench" / "bare"


@pytest.fixture
def scripted(monkeypatch):
    """Have both arms answered by scripts; ``stopped`` is a word whose prompts end early."""

    def use(stopped: str) -> None:
        def server(name, settings, folder):
            port = free_port()
            command = [sys.executable, str(HERE / "scripted_completions.py"), str(port), stopped]
            return serving(command, environment(), port, "/health", folder / name, 60)

        monkeypatch.setattr(vllm, "_server", server)

    return use


def test_both_arms_are_asked_and_compared(scripted):
    scripted("no prompt holds this")
    rows = list(vllm.measure(Settings(quick=True, rounds=2), {}))
    found = {(row.name, row.arm, row.clock): row for row in rows}
    for arm in ("bare", "everything"):
        assert found["speed", arm, "wall"].n == 2
        assert found["first token", arm, "wall"].n == 4  # two requests a round
        assert found["CPU of a token", arm, "cpu"].median > 0
        assert found["memory of the server", arm, ""].median > 1
    assert found["speed against bare", "everything", "wall"].at == {"batch": 2, "tokens": 8}


def test_answers_that_end_early_are_no_figures(scripted):
    scripted(" ")
    with pytest.raises(SystemExit, match="only 0 of 6 prompts are answered in full"):
        list(vllm.measure(Settings(quick=True, rounds=1), {}))


def test_a_server_that_does_not_come_up_is_shown(tmp_path):
    command = [sys.executable, "-c", "print('no such thing')"]
    with (
        pytest.raises(SystemExit, match="did not come up\nno such thing"),
        serving(command, os.environ, free_port(), "/", tmp_path / "log", 60),
    ):
        pass


@pytest.mark.parametrize(("path", "own"), [(str(BARE), False), ("", True)])
def test_the_bare_arm_finds_no_plugin_of_ours(path, own):
    code = (
        "from importlib.metadata import entry_points as all_;"
        "print(['prism' in {e.name for e in all_(group=g)} for g in "
        "('vllm.logits_processors', 'vllm.general_plugins', 'console_scripts')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == str([own, own, True])
