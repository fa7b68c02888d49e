"""What the tests of the audit log share; the HTTP tests borrow the disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from disk import Disk, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path) as made:
        yield made
