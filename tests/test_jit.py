"""Compiled kernels are kept on disk, and never outlive the source of any of them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

from prism import jit

_USE = """
import numpy as np
from numba import config
from prism.match import automaton
block = automaton.build(["zephyr", "phyr"])
print(automaton.advance(block, np.int32(0), 122), config.CACHE_DIR)
"""


def use(folder):
    env = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", _USE], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_kernels_are_kept_under_the_digest_of_all_their_sources(tmp_path):
    node, folder = use(tmp_path)
    assert int(node) > 0
    assert folder == str(tmp_path)  # other users of Numba keep theirs where they did
    kept = tmp_path / jit.sources_digest()[:16]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    compiled = {path: path.stat().st_mtime_ns for path in kept.rglob("*.nbc")}
    assert compiled
    use(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in kept.rglob("*.nbc")} == compiled


def test_a_change_of_any_kernel_is_a_change_of_all(tmp_path, monkeypatch):
    for room in jit.ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / "kernel.py").write_text("ONE = 1\n")
    monkeypatch.setattr(jit, "__file__", str(tmp_path / "jit.py"))
    seen = {jit.sources_digest.__wrapped__()}
    for room in jit.ROOMS:
        (tmp_path / room / "kernel.py").write_text("ONE = 2\n")
        seen.add(jit.sources_digest.__wrapped__())
    assert len(seen) == 1 + len(jit.ROOMS)


def test_what_nobody_used_for_long_is_dropped_and_nothing_else(tmp_path):
    old, other = tmp_path / "0123456789abcdef", tmp_path / "match_0123456789"
    for folder in (old, other):
        folder.mkdir()
        os.utime(folder, (0, 0))
    use(tmp_path)
    assert not old.exists()
    assert other.exists()
