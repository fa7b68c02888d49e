from __future__ import annotations

from pathlib import Path

import pytest
from tests.bytelevel import byte_level


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small byte-level tokenizer, in place of a model's."""
    tokenizer = byte_level(["how a lantern is made, and what for"] * 20, 500)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path
