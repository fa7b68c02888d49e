"""Large arrays that go back to the system as soon as nobody has them.

What a build needs for a moment is several times what it leaves. Memory that was freed stays with
the process where the allocator keeps it for next time, most of all that of threads which have
ended.
"""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_LARGE = 1 << 20
_HUGE = 1 << 22


def zeros(count: int, dtype: DTypeLike) -> NDArray[Any]:
    """Return what ``np.zeros`` does, in pages of its own where it is large."""
    size = count * np.dtype(dtype).itemsize
    if size < _LARGE:
        return np.zeros(count, dtype)
    pages = mmap.mmap(-1, size, access=mmap.ACCESS_COPY)
    if size >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):  # as numpy asks for its own
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype)


def joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Return ``parts``, which are of one type, end to end; empties the list as it goes."""
    whole = zeros(sum(map(len, parts)), parts[0].dtype)
    at = len(whole)
    while parts:
        part = parts.pop()
        at -= len(part)
        whole[at : at + len(part)] = part
    return whole


def trim() -> None:
    """Have the allocator give back what it keeps for next time, where it can be told to (glibc)."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
