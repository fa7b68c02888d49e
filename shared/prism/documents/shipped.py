"""Where the data that comes with the package is."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def shipped_dir() -> Path:
    """Return the folder of the shipped data: inside a wheel, or in the repository."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_policies"
    return installed if installed.is_dir() else package.parents[1] / "policies"
