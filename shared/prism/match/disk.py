"""Compiled arrays kept in files, so that processes share them and none builds them twice.

A file is a line that says what it is, a header in JSON and the arrays, each as it lies in memory.
It is read by mapping it: its pages are those of the system's cache, shared by every process. The
key is in its name and in its header; the arrays' checksum is in the header and is verified before
anything is used, because compiled loops don't check bounds. Whatever is wrong with a file, it is
as if there were none. See ``docs/adr/0017-compiled-phrases-on-disk.md``.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

VARIABLE = "PRISM_CACHE_DIR"
"""Environment: the folder of the files, or ``off``."""
MOST_BYTES = 2 << 30
_MAGIC = b"prism arrays 1\n"
_ALIGN = 64
_LONGEST_HEADER = 1 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """What a file holds. The arrays are read-only."""

    meta: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]


def folder() -> Path | None:
    """Return where files are kept; ``None`` where nothing shall be."""
    said = os.environ.get(VARIABLE, "")
    if said == "off":
        return None
    if said:
        return Path(said)
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "prism" / "compiled"
    except RuntimeError:  # no home
        return None


@cache
def code_digest(*modules: str) -> str:
    """Return what tells the source of ``modules`` from any other, so that no file outlives it."""
    digest = hashlib.sha256()
    for name in modules:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise ImportError(f"{name} has no source")
        digest.update(Path(spec.origin).read_bytes())
    return digest.hexdigest()


def load(kind: str, key: str) -> Stored | None:
    """Return what was saved under ``kind`` and ``key``; ``None`` where there is nothing sound."""
    place = folder()
    if place is None:
        return None
    path = place / f"{kind}-{key}.bin"
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            if not _ours(about) or about.st_size < len(_MAGIC):
                return None
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        found = _read(mapped, kind, key)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    with suppress(OSError):
        os.utime(path)  # the files used last are kept
    return found


def save(kind: str, key: str, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Keep arrays for other processes. What can't be written is not kept.

    Several may write at once: each writes a file of its own and gives it the name when it is whole.
    """
    place = folder()
    if place is None:
        return
    payload = hashlib.sha256()
    laid, at = {}, 0
    for name, array in arrays.items():
        laid[name] = [array.dtype.str, list(array.shape), at]
        at += array.nbytes + -array.nbytes % _ALIGN
        payload.update(np.ascontiguousarray(array).data)
    header = {
        "kind": kind, "key": key, "order": sys.byteorder, "meta": dict(meta), "arrays": laid,
        "sha256": payload.hexdigest(),
    }  # fmt: skip
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=place, prefix=".", suffix=".new")  # mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                _write(file, header, arrays)
            Path(name).replace(place / f"{kind}-{key}.bin")
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _prune(place)
    except OSError:
        return


def _ours(about: os.stat_result) -> bool:
    """Whether nobody but this user can have written the file."""
    mine = not hasattr(os, "getuid") or about.st_uid in (os.getuid(), 0)
    return mine and stat.S_ISREG(about.st_mode) and not about.st_mode & 0o022


def _write(file: Any, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    line = json.dumps(header).encode() + b"\n"
    begin = len(_MAGIC) + len(line)
    file.write(_MAGIC + line[:-1] + b" " * (-begin % _ALIGN) + b"\n")
    for array in arrays.values():
        file.write(np.ascontiguousarray(array).data)
        file.write(b"\0" * (-array.nbytes % _ALIGN))


def _read(mapped: mmap.mmap, kind: str, key: str) -> Stored | None:
    if mapped[: len(_MAGIC)] != _MAGIC:
        return None
    end = mapped.find(b"\n", len(_MAGIC), len(_MAGIC) + _LONGEST_HEADER)
    header = json.loads(mapped[len(_MAGIC) : end]) if end > 0 else {}
    if (header.get("kind"), header.get("key"), header.get("order")) != (kind, key, sys.byteorder):
        return None
    arrays: dict[str, NDArray[Any]] = {}
    payload = hashlib.sha256()
    for name, (dtype, shape, at) in header["arrays"].items():
        kept = np.dtype(dtype)
        if kept.hasobject:
            return None
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(mapped, kept, count, end + 1 + at) if count else np.zeros(0, kept)
        array = array.reshape(shape)
        array.flags.writeable = False
        payload.update(array.data)
        arrays[name] = array
    return Stored(header["meta"], arrays) if payload.hexdigest() == header["sha256"] else None


def _prune(place: Path) -> None:
    """Remove the files that were not used for longest, until what is left is small enough."""
    files = []
    for path in place.glob("*.bin"):
        with suppress(OSError):
            about = path.stat()
            files.append((about.st_mtime, about.st_size, path))
    room = MOST_BYTES
    for _, size, path in sorted(files, reverse=True):
        room -= size
        if room < 0:
            with suppress(OSError):
                path.unlink()
