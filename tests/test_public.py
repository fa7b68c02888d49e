"""The public surface: what may be imported from ``prism``, and nothing by accident."""

from __future__ import annotations

import subprocess
import sys

import pytest

import prism

NAMES = [
    "Action", "Decision", "Finding", "Mode", "Moderator", "PolicyError", "Released", "Session",
    "Stage", "TierState", "__version__", "decide", "load_policy",
]  # fmt: skip


def test_the_public_names_are_these():
    assert prism.__all__ == NAMES
    for name in NAMES:
        assert getattr(prism, name) is not None


def test_unknown_names_say_so():
    with pytest.raises(AttributeError, match="no attribute 'moderate'"):
        _ = prism.moderate


def test_importing_prism_loads_no_kernels():
    code = "import prism, sys; print({'numba', 'numpy', 'regex'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
