from __future__ import annotations

from pathlib import Path

import pytest

from boot.tree import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """An empty clone with an empty cache."""
    root = tmp_path / "clone"
    root.mkdir()
    (root / "constraints.txt").write_text("pip==26.3\n", encoding="utf-8")
    return Tree(root, tmp_path / "cache")
