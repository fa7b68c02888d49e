"""Where things lie: the clone, its ``.venv``, and the cache that outlives both."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from boot.shell import held, say


def cache_root(environ: Mapping[str, str]) -> Path:
    """Return ``${XDG_CACHE_HOME:-~/.cache}/prism``."""
    home = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "prism"


@dataclass(frozen=True)
class Tree:
    """One clone of the project and the caches it shares with others."""

    root: Path
    cache: Path

    @property
    def venv(self) -> Path:
        """The clone's own virtual environment."""
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        """The interpreter inside ``.venv``."""
        return self.venv / "bin" / "python"

    @property
    def state(self) -> Path:
        """Stamps and logs. They lie in ``.venv``, so deleting it forgets them too."""
        return self.venv / ".boot"

    @property
    def constraints(self) -> Path:
        """The exact versions everything is installed with, whatever the order."""
        return self.root / "constraints.txt"

    @property
    def gguf(self) -> Path:
        """The demonstration model for llama.cpp."""
        return self.cache / "models" / "gemma-3-270m-q4_k_m.gguf"

    def tool(self, name: str) -> Path:
        """Return a console script of ``.venv``."""
        return self.venv / "bin" / name

    def pip(self, verb: str, *words: str | Path) -> list[str]:
        """Return a pip command; what it installs has the pinned versions."""
        pins = ("-c", str(self.constraints)) if verb == "install" else ()
        return [str(self.python), "-m", "pip", verb, "-q", *pins, *map(str, words)]


def digest(*parts: str | bytes | Path) -> str:
    """Return a short digest of texts and of files' contents; a missing file counts as empty."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            part = part.read_bytes() if part.exists() else b""
        raw = part.encode() if isinstance(part, str) else part
        total.update(len(raw).to_bytes(8, "big") + raw)
    return total.hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file; say who is waited for. The system frees it however the holder ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            say(f"another run (process {holder}) is busy with {what}; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
        held.add(handle.fileno())
        try:
            yield
        finally:
            held.discard(handle.fileno())
