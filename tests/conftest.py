"""The order of the whole run."""

from __future__ import annotations

from pathlib import Path

import pytest

ENGINES = Path(__file__).parent / "engines"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first; then what starts an engine, one engine after the other.

    A mistake shows in seconds, and no server idles in memory while other tests run.
    """
    items.sort(key=_weight)


def _weight(item: pytest.Item) -> tuple[bool, str]:
    if item.path.is_relative_to(ENGINES):
        return True, item.path.relative_to(ENGINES).parts[0]
    return item.get_closest_marker("engine") is not None, ""
