"""The audit log: one line per decision, never text, chained so that a change shows.

One thread writes; whoever has a line to write waits until the operating system took all of it (with
``fsync``: until the disk has it). So what was answered is on record, and a full disk is noticed by
the very request whose line did not fit. A line that was written in part is taken back.

The log may hold an answer that was never sent (the client left, the writing was too slow), never
the other way round.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prism.record.chain import Head, Keys, digest, read_head

_log = logging.getLogger("prism.audit")

RETRY = 1.0
"""Seconds between two tries to write where writing failed."""
PATIENCE = 5.0
"""Seconds that a decision waits for its line to be written."""
_TAIL = 4_000_000  # bytes of the file's end that are looked through for its last line

Record = Callable[[], dict[str, Any]]
"""Makes what a line says. Called on the writer's thread: fingerprints take a while."""


class AuditError(RuntimeError):
    """The log can't be opened, or a line can't be written. ``str()`` says what to do."""


class AuditTakenError(AuditError):
    """Another process writes this log."""


NUMBER = "{n}"
"""Stands in a log's name for the first number, from 1 on, whose file no other process writes."""
_MOST_PROCESSES = 256


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """Where the log is and how it is kept. ``key`` seals lines and fingerprints texts.

    With :data:`NUMBER` in the name of ``path`` every process has a file of its own.
    """

    path: Path
    key: bytes
    max_bytes: int = 100_000_000
    queue: int = 1024
    fsync: bool = False
    closes: bool = True  # what can't be recorded isn't answered


@dataclass(slots=True)
class _Entry:
    records: Sequence[Record]
    done: Callable[[AuditError | None], None]


class AuditLog:
    """Appends to the log at ``settings.path``. Raises :class:`AuditError` when it can't be opened.

    The file belongs to one process at a time.
    """

    def __init__(self, settings: AuditSettings) -> None:
        self.keys = Keys(settings.key)
        self._file = _own_file(settings, self.keys)
        self.settings = settings = self._file.settings
        self._queue: deque[_Entry] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._failure: str | None = None
        self._lost = 0
        self._since: float | None = None  # when the write under way began
        try:
            self._append([_marker("opened", **self._file.opened)])
        except OSError as error:
            reason = error.strerror or str(error)
            raise AuditError(f"can't write the audit log {settings.path}: {reason}") from None
        self._thread = threading.Thread(target=self._run, name="prism-audit", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> str | None:
        """What keeps lines from being written, or ``None``."""
        since = self._since
        if since is not None and time.monotonic() - since > PATIENCE:
            return "the disk does not answer"
        return self._failure

    @property
    def full(self) -> bool:
        """Whether as many lines wait to be written as may."""
        return len(self._queue) >= self.settings.queue

    @property
    def head(self) -> Head:
        """The last line written."""
        return self._file.head

    async def write(self, *records: Record) -> None:
        """Append a line for each record and wait for them. Raises :class:`AuditError`."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()

        def settle(error: AuditError | None) -> None:
            if written.done():
                return
            if error is None:
                written.set_result(None)
            else:
                written.set_exception(error)

        def done(error: AuditError | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone, and with it who waited
                loop.call_soon_threadsafe(settle, error)

        with self._wake:
            if self._closing:
                raise AuditError("the audit log is closed")
            self._queue.append(_Entry(records, done))
            self._wake.notify()
        try:
            await asyncio.wait_for(written, PATIENCE)
        except TimeoutError:
            raise AuditError(f"the audit log took longer than {PATIENCE:g} s") from None

    def close(self) -> None:
        """Write what waits, say that the log was closed, and end the thread."""
        with self._wake:
            if self._closing:
                return
            self._closing = True
            self._wake.notify()
        self._thread.join(PATIENCE)
        if not self._thread.is_alive():
            with contextlib.suppress(OSError):
                self._append([_marker("closed")])
            self._file.close()

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._queue and not self._closing:
                    self._wake.wait(RETRY if self._failure else None)
                if not self._queue and self._closing:
                    return
                batch = list(self._queue)
                self._queue.clear()
            self._turn(batch)

    def _turn(self, batch: list[_Entry]) -> None:
        """Write everything that waits; in one go, so that one ``fsync`` serves all of it."""
        if not batch and self._failure is None:
            return
        error: AuditError | None = None
        records = [record for entry in batch for record in entry.records]
        resumed = [_marker("resumed", lost=self._lost)] if self._failure else []
        try:
            self._append([*resumed, *records])
        except OSError as failure:
            error = AuditError(self._failed(failure.strerror or str(failure), len(records)))
        except Exception as failure:  # a record that can't be made; nothing was written
            _log.exception("a line of the audit log could not be made")
            error = AuditError(self._failed(type(failure).__name__, len(records)))
        else:
            if self._failure is not None:
                _log.warning("the audit log is being written again; %d lines lost", self._lost)
            self._failure, self._lost = None, 0
        for entry in batch:
            entry.done(error)

    def _failed(self, reason: str, records: int) -> str:
        told = f"can't write {self.settings.path.name}: {reason}"
        if self._failure != told:
            _log.error("audit log: can't write %s: %s", self.settings.path, reason)
        self._failure = told
        self._lost += records
        return told

    def _append(self, records: Sequence[Record]) -> None:
        self._since = time.monotonic()
        try:
            head, lines = self._file.head, []
            for record in records:
                stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
                line, head = self.keys.seal({"time": stamp, **record()}, head)
                lines.append(line)
            self._file.append(b"".join(lines), head)
        finally:
            self._since = None


def _own_file(settings: AuditSettings, keys: Keys) -> _File:
    """Return the file that this process alone writes. Raises :class:`AuditError`."""
    name = settings.path.name
    if NUMBER not in name:
        return _File(settings, keys)
    for number in range(1, _MOST_PROCESSES + 1):
        path = settings.path.with_name(name.replace(NUMBER, str(number)))
        with contextlib.suppress(AuditTakenError):
            return _File(replace(settings, path=path), keys)
    raise AuditError(f"{_MOST_PROCESSES} processes write the audit log {settings.path} already")


class _File:
    """The file that is appended to, and beside it the one that says where it ends."""

    def __init__(self, settings: AuditSettings, keys: Keys) -> None:
        self.settings = settings
        self._keys = keys
        self._path = settings.path
        self.opened: dict[str, Any] = {}
        try:
            self._head_file = os.open(
                head_path(self._path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            self._lock()
            self._open()
            self.head = self._resume()
        except OSError as error:
            reason = error.strerror or str(error)
            raise AuditError(f"can't open the audit log {self._path}: {reason}") from None

    def append(self, data: bytes, head: Head) -> None:
        """Append whole lines, or nothing. Raises ``OSError``."""
        self._check_place()
        if self._size and self._size + len(data) > self.settings.max_bytes:
            self._rotate()
        try:
            _write(self._file, data)
            if self.settings.fsync:
                os.fsync(self._file)
            self._say(head)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
                self._say(self.head)
            raise
        self._size += len(data)
        self.head = head

    def close(self) -> None:
        os.close(self._file)
        os.close(self._head_file)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._head_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._head_file)
            raise AuditTakenError(
                f"the audit log {self._path} is being written by another process; each process "
                f"needs a file of its own: write {NUMBER} into the name, as in audit-{NUMBER}.jsonl"
            ) from None

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._file).st_size

    def _resume(self) -> Head:
        """Return where the log ends. Raises :class:`AuditError` where lines are missing."""
        raw = os.pread(self._head_file, 4096, 0)
        start = max(0, self._size - _TAIL)
        tail = os.pread(self._file, self._size - start, start)
        if not raw and not tail:
            return Head()
        try:
            said = read_head(raw)
        except ValueError:
            raise self._refused(
                f"its head file {head_path(self._path).name} is missing or broken"
            ) from None
        whole = tail[: tail.rfind(b"\n") + 1]
        if len(whole) < len(tail):  # its writer died; nobody was answered on the strength of it
            os.ftruncate(self._file, start + len(whole))
            self.opened = {"cut": len(tail) - len(whole)}
            self._size = start + len(whole)
        if not whole:
            if said.seq and digest(_last_line(rotated(self._path))) != said.digest:
                raise self._refused(f"it is empty, but had {said.seq} lines")
            return said  # its writer died just after a part was full
        last = whole[:-1].rpartition(b"\n")[2]
        found = re.match(rb'\{"v":1,"seq":(\d+),', last)
        if found is None or not self._keys.sealed(last):
            raise self._refused("its last line does not bear the seal of this key")
        head = Head(int(found[1]), digest(last))
        if head.seq < said.seq or (head.seq == said.seq and head != said):
            raise self._refused(f"it ends with line {head.seq}, but had {said.seq}")
        return head

    def _refused(self, reason: str) -> AuditError:
        return AuditError(
            f"the audit log {self._path} can't be continued: {reason}; examine it with `prism audit"
            " verify`, then move it and its head file away to begin a new one"
        )

    def _check_place(self) -> None:
        here = os.fstat(self._file)
        try:
            there = self._path.stat()
        except FileNotFoundError:
            there = None
        if there is None or (there.st_ino, there.st_dev) != (here.st_ino, here.st_dev):
            raise OSError(0, "the file was moved or replaced; put it back, or restart")
        if here.st_size != self._size:
            raise OSError(0, "the file was changed by somebody else; examine it and restart")

    def _rotate(self) -> None:
        numbers = [int(path.suffix[1:]) for path in rotated(self._path)]
        full = self._path.with_name(f"{self._path.name}.{max(numbers, default=0) + 1:06}")
        was = self._file
        self._path.rename(full)
        try:
            self._open()
        except OSError:
            full.rename(self._path)
            raise
        os.close(was)

    def _say(self, head: Head) -> None:
        data = self._keys.head(head)
        if os.pwrite(self._head_file, data, 0) != len(data):
            raise OSError(28, "No space left on device")
        if self.settings.fsync:
            os.fsync(self._head_file)


def head_path(path: Path) -> Path:
    """Return the file beside a log that says where it ends."""
    return path.with_name(f"{path.name}.head")


def rotated(path: Path) -> list[Path]:
    """Return the parts of a log that are full, the oldest first."""
    found = [
        beside
        for beside in path.parent.glob(f"{path.name}.*")
        if re.fullmatch(r"\.\d{6,}", beside.suffix) and beside.name == path.name + beside.suffix
    ]
    return sorted(found, key=lambda beside: int(beside.suffix[1:]))


def _last_line(parts: list[Path]) -> bytes:
    if not parts:
        return b""
    with parts[-1].open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        return file.read().removesuffix(b"\n").rpartition(b"\n")[2]


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _marker(event: str, **facts: Any) -> Record:
    return lambda: {"event": event, **facts}
