"""Numba's ``njit``, with compiled code kept on disk under a name that covers all of our kernels.

Numba looks at the file of a cached function alone. Our kernels call, and so contain, those of other
files: after an update of one file, code of the old version would go on running inside functions of
the others, on data laid out anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from numba import carray, config
from numba import njit as _njit
from numba.core import cgutils, types
from numba.extending import intrinsic

ROOMS = ("classify", "match", "steer")
"""The folders of this package that hold kernels."""
_UNUSED_DAYS = 30
_LENGTH = 16


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Do what ``numba.njit`` does; ``NUMBA_CACHE_DIR`` names another folder than the user's."""

    def compiled(function: Callable[..., Any]) -> Any:
        folder = _folder()
        if folder is None:  # Numba finds a place, or says why there is none
            return _njit(**options)(function)
        # Numba asks for the folder when a function is declared, and not again.
        before, config.CACHE_DIR = config.CACHE_DIR, str(folder)
        try:
            return _njit(**options)(function)
        finally:
            config.CACHE_DIR = before

    return compiled


@cache
def _folder() -> Path | None:
    try:
        base = Path(config.CACHE_DIR) if config.CACHE_DIR else _user_cache()
        folder = base / sources_digest()[:_LENGTH]
        # What is read from here is run.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.utime(folder)
    except (OSError, RuntimeError):  # no home, or none that can be written to
        return None
    _drop_unused(base)
    return folder


def _user_cache() -> Path:
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if given else Path.home() / ".cache") / "prism" / "numba"


@cache
def sources_digest() -> str:
    """Return what tells these kernels from those of any other version (SHA-256, hex)."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((here / room).rglob("*.py")):
            digest.update(path.relative_to(here).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _drop_unused(base: Path) -> None:
    oldest = time.time() - _UNUSED_DAYS * 86_400
    with suppress(OSError):
        for folder in base.iterdir():
            ours = len(folder.name) == _LENGTH and not set(folder.name) - set("0123456789abcdef")
            if ours and folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)


def _pointer(_: Any, address: Any) -> Any:
    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


pointer = intrinsic(_pointer)
"""In a kernel: an address (int64) as what ``carray`` takes. Whose it is must outlive the call."""

__all__ = ["ROOMS", "carray", "njit", "pointer", "sources_digest"]
