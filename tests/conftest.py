"""The order of the whole run, and what its workers share out among themselves."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from tests.bytelevel import byte_level

# How long an example takes is the machine's affair: it may be compiling kernels, or be busy.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

ENGINES = Path(__file__).parent / "engines"
VLLM = (
    "test_vllm_offline.py", "test_vllm_startup.py", "test_vllm_scores.py", "test_vllm_guard.py",
    "test_vllm_routes.py", "test_vllm_server.py", "test_vllm_verdicts.py", "test_proxy_vllm.py",
    "test_proxy_admission.py",
)  # fmt: skip
"""What starts vLLM, which takes a minute and six gigabytes each time: one worker's work.

First what has a process to itself, then what shares the two servers, so that no more than two run.
"""


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Have both layers' kernels compiled once, before several workers would all begin with it.

    They are kept on disk; on a machine that has none, compiling takes a core a minute or two.
    """
    if session.config.getoption("numprocesses", None) and not hasattr(
        session.config, "workerinput"
    ):
        prism = Path(sys.executable).with_name("prism")
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = Path(folder) / "tokenizer.json"
            byte_level(["a first text"], 300).save(str(tokenizer))
            command = [prism, "bench", "--rounds", "1", "--rows", "2", "--model", tokenizer]
            subprocess.run([*command, "a first text"], capture_output=True, check=False)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Quick tests first; then what starts an engine, one engine after the other.

    A mistake shows in seconds, and no server idles in memory while other tests run. With several
    workers (``pytest -n 2``) vLLM comes first: one worker is busy with it for half of the run,
    while the others begin with the quick tests.
    """
    parallel = hasattr(config, "workerinput")
    items.sort(key=lambda item: (not (parallel and item.path.name in VLLM), *_weight(item)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker whole files, for the fixtures that a file shares, in the order above."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "vllm" if file.rpartition("/")[2] in VLLM else file

    config.option.loadscopereorder = False  # else files with many tests come first
    return ByFile(config, log)


def _weight(item: pytest.Item) -> tuple[bool, str, int]:
    if item.path.name in VLLM:
        return True, "vllm", VLLM.index(item.path.name)
    if item.path.is_relative_to(ENGINES):
        return True, item.path.relative_to(ENGINES).parts[0], -1
    return item.get_closest_marker("engine") is not None, "", -1
