"""The files that something was read from, and whether one of them is another by now."""

from __future__ import annotations

import time
from pathlib import Path

State = tuple[int, ...]
"""What changes when a file does; empty where there is none."""

SETTLED = 0.1
"""Seconds after which a file system's clock has surely moved on."""


def state_of(path: Path) -> State:
    """Return the state that the file at ``path`` is in."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode)


def is_settled(state: State) -> bool:
    """Whether a change that comes now would show: two in one tick of the clock look like one.

    A time in the future says nothing of when the file was written, and nobody waits for it.
    """
    return not state or not 0 <= time.time() - state[0] / 1e9 <= SETTLED


class Watched:
    """Files with the states in which they were read."""

    def __init__(self) -> None:
        self._files: dict[Path, State] = {}

    def note(self, path: Path) -> None:
        """Remember how ``path`` is; call it just before it is read, be it there or not."""
        self._files[path] = state_of(path)

    def now(self) -> tuple[State, ...]:
        """Return the states that the files are in now."""
        return tuple(map(state_of, self._files))

    def changed(self) -> bool:
        """Whether a file is another than the one that was read, and done with changing."""
        now = self.now()
        return now != tuple(self._files.values()) and all(map(is_settled, now))
