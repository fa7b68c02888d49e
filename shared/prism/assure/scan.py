"""A data set through a policy: rows in, one result per row out, in order, resumable.

Each line that isn't blank gives one line, so what is already in the output says where to go on.
Every row there must be the input's and the policy's, or nothing is done.
"""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import signal
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import resource_tracker
from pathlib import Path
from typing import IO, Any

from prism.assure.batch import BATCH, Judge, Row, RowError, judge_lines, name, open_judge

STANDARD = "-"
"""As a file's name: standard input or output."""
_ALONE = 2 * BATCH  # rows that aren't worth starting processes for
_AHEAD = 3  # batches in work or waiting, per worker

Line = tuple[int, bytes]


class ScanError(Exception):
    """The files don't fit the run; ``str()`` says why and what to do."""


@dataclass(slots=True)
class Summary:
    """What a run came to."""

    rows: int = 0
    resumed: int = 0
    errors: int = 0
    actions: dict[str, int] = field(default_factory=dict)

    def add(self, result: dict[str, Any]) -> None:
        """Count one result."""
        self.rows += 1
        if "error" in result:
            self.errors += 1
        else:
            action = result["action"]
            self.actions[action] = self.actions.get(action, 0) + 1


@contextmanager
def opened(source: str) -> Iterator[IO[bytes]]:
    """Open a file of JSON lines, gzipped or not, or standard input. Raises ``ScanError``."""
    if source == STANDARD:
        if sys.stdin is None or sys.stdin.isatty():  # none: it was closed before the start
            raise ScanError("no rows: give a file, or pipe them in")
        yield sys.stdin.buffer
        return
    unzip: Callable[[str, str], Any] = gzip.open if source.endswith(".gz") else open
    try:
        stream = unzip(source, "rb")
    except OSError as error:
        raise ScanError(f"{source}: {error.strerror or error}") from None
    with stream:
        try:
            yield stream
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:  # told while it is read
            raise ScanError(f"{source}: {error}") from None


def numbered(stream: IO[bytes]) -> Iterator[Line]:
    """Yield the lines that aren't blank, with their numbers from 1 on."""
    for number, raw in enumerate(stream, 1):
        if raw.strip():
            yield number, raw


def resume(out: Path, lines: Iterator[Line], digest: str) -> int:
    """Move ``lines`` past what ``out`` has results for; return how many those are.

    A last line that was cut off is removed. Raises ``ScanError`` where a result isn't of this input
    under this policy; the file is left as it is.
    """
    done = whole = 0
    with out.open("r+b") as written:
        for at, raw in enumerate(written, 1):
            if not raw.endswith(b"\n"):
                break
            _compare(f"{out}:{at}", raw, next(lines, None), digest)
            done, whole = done + 1, whole + len(raw)
        written.truncate(whole)
    return done


def _compare(where: str, raw: bytes, line: Line | None, digest: str) -> None:
    fix = "choose another output file, or start afresh with --fresh"
    try:
        result = json.loads(raw)
        keys = result.keys()
    except (ValueError, AttributeError):
        raise ScanError(f"{where} is not a result of a scan; {fix}") from None
    if line is None:
        raise ScanError(f"{where}: there are more results than rows in the input; {fix}")
    try:
        row = Row.parse(*line)
        called = name(row.line, row.id)
    except RowError as error:
        called = name(line[0], error.row_id)
    if any(result.get(key) != value for key, value in called.items()):
        raise ScanError(f"{where} is the result of another row than line {line[0]}; {fix}")
    if "error" not in keys and result.get("policy") != digest:
        raise ScanError(f"{where} was made under another policy; {fix}")


def scan(
    lines: Iterator[Line], judge: Judge, policy: str | None, config: str | None, workers: int
) -> Iterator[tuple[list[Line], list[dict[str, Any]]]]:
    """Yield batches of lines with their results, in order.

    ``judge`` is used where one process is enough; others open their own from ``policy`` and
    ``config``.
    """
    first = list(islice(lines, _ALONE))
    if workers == 1 or len(first) < _ALONE:
        for batch in _batches(_chained(first, lines)):
            yield batch, judge_lines(judge, batch)
        return
    try:
        yield from _with_workers(_chained(first, lines), policy, config, workers)
    except BrokenProcessPool:
        fix = "run the command again to go on; fewer --workers need less memory"
        raise ScanError(f"a worker process was ended from outside; {fix}") from None


def _with_workers(
    lines: Iterator[Line], policy: str | None, config: str | None, workers: int
) -> Iterator[tuple[list[Line], list[dict[str, Any]]]]:
    context = multiprocessing.get_context("spawn")  # a fork would copy threads' locks
    with ProcessPoolExecutor(workers, context, _begin, (policy, config)) as pool:
        waiting: deque[tuple[list[Line], Future[list[dict[str, Any]]]]] = deque()
        try:
            for batch in _batches(lines):
                with _uninterrupted():  # the first call starts the workers
                    waiting.append((batch, pool.submit(_work, batch)))
                if len(waiting) >= workers * _AHEAD:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back to the end of the block, and from processes started in it for good.

    A terminal sends it to all of them; this process alone ends the run.
    """
    resource_tracker.ensure_running()  # when it is started, it lets the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _chained(first: list[Line], rest: Iterator[Line]) -> Iterator[Line]:
    yield from first
    yield from rest


def _batches(lines: Iterator[Line]) -> Iterator[list[Line]]:
    while batch := list(islice(lines, BATCH)):
        yield batch


_judge: Judge | None = None  # a worker process's own


def _begin(policy: str | None, config: str | None) -> None:
    global _judge
    _judge, _ = open_judge(policy, config)


def _work(batch: list[Line]) -> list[dict[str, Any]]:
    assert _judge is not None
    return judge_lines(_judge, batch)


def write(out: IO[bytes], results: list[dict[str, Any]]) -> None:
    """Write results, one a line, and see to it that they are in the file."""
    out.write(b"".join(json.dumps(result).encode() + b"\n" for result in results))
    out.flush()


def cores() -> int:
    """Return how many processes can run at once."""
    return len(os.sched_getaffinity(0))
