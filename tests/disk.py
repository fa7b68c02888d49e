"""A disk that really fills up: a small tmpfs where mounting is allowed, else a limit on files."""

from __future__ import annotations

import contextlib
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Disk:
    """``fill`` leaves room for a few lines at most (a block is 4 KiB); ``free`` makes room."""

    folder: Path
    mounted: bool

    @property
    def log(self) -> Path:
        return self.folder / "audit.jsonl"

    def fill(self) -> None:
        if not self.mounted:
            size = self.log.stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, resource.RLIM_INFINITY))
            return
        with contextlib.suppress(OSError), (self.folder / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)

    def free(self) -> None:
        if self.mounted:
            (self.folder / "filler").unlink()
        else:
            hard = resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@contextlib.contextmanager
def small_disk(parent: Path) -> Iterator[Disk]:
    folder = parent / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    made = Disk(folder, mounted)
    try:
        yield made
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        else:
            hard = resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
