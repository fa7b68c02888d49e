"""Writing the audit log: whole lines or none, in one chain, through every fault."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from disk import Disk
from prism.record import audit
from prism.record.audit import AuditError, AuditLog, AuditSettings, head_path, rotated
from prism.record.chain import Keys
from prism.record.verify import verify

KEY = b"k" * 64
KEYS = Keys(KEY)


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[AuditLog]:
    log = AuditLog(AuditSettings(path, options.pop("key", KEY), **options))
    try:
        yield log
    finally:
        log.close()


def line(number: int, **more: Any) -> Any:
    return lambda: {"event": "answered", "number": number, **more}


def lines(*paths: Path) -> list[dict[str, Any]]:
    return [json.loads(row) for path in paths for row in path.read_text().splitlines()]


async def test_a_line_is_in_the_file_when_its_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with opened(path) as log:
        await log.write(line(1))
        assert lines(path)[-1]["number"] == 1
        assert log.head.seq == 2  # after the one that says that the log was opened
    events = [row["event"] for row in lines(path)]
    assert events == ["opened", "answered", "closed"]
    assert path.stat().st_mode & 0o077 == 0
    assert verify(path, KEYS).ok


async def test_processes_that_share_a_configuration_have_a_file_each(tmp_path: Path) -> None:
    asked = tmp_path / "audit-{n}.jsonl"
    with opened(asked) as one, opened(asked) as two:
        paths = [log.settings.path.name for log in (one, two)]
        assert paths == ["audit-1.jsonl", "audit-2.jsonl"]
        await one.write(line(1))
        await two.write(line(2))
    with opened(asked) as again:  # a number that is free is taken up, and its chain goes on
        assert again.settings.path.name == "audit-1.jsonl"
        assert again.head.seq == 4
    for number in (1, 2):
        assert verify(tmp_path / f"audit-{number}.jsonl", KEYS).ok


async def test_many_writers_make_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with opened(path, fsync=True) as log:
        await asyncio.gather(*(log.write(line(n), line(-n)) for n in range(200)))
    rows = lines(path)
    assert [row["seq"] for row in rows] == list(range(1, 403))
    assert {row["number"] for row in rows[1:-1]} == set(range(-199, 200))
    assert verify(path, KEYS).ok


async def test_the_chain_goes_on_over_restarts_and_parts(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for _ in range(3):
        with opened(path, max_bytes=2000) as log:
            for number in range(10):
                await log.write(line(number))
    parts = rotated(path)
    assert len(parts) > 2
    assert all(part.stat().st_size <= 2000 for part in [*parts, path])
    rows = lines(*parts, path)
    assert [row["seq"] for row in rows] == list(range(1, 37))
    assert verify(path, KEYS).ok


async def test_a_full_disk_takes_no_part_of_a_line(
    disk: Disk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "RETRY", 0.05)
    with opened(disk.log) as log:
        await log.write(line(1))
        disk.fill()
        tries = [log.write(line(number, padding="x" * 1000)) for number in range(2, 12)]
        errors = [
            error for task in tries for error in await asyncio.gather(task, return_exceptions=True)
        ]
        failed = sum(isinstance(error, AuditError) for error in errors)
        assert failed >= 6
        assert "audit.jsonl" in str(errors[-1])
        assert log.failure is not None
        assert disk.log.read_bytes().endswith(b"}\n")
        assert verify(disk.log, KEYS).ok
        written = {row.get("number") for row in lines(disk.log)}
        disk.free()
        deadline = time.monotonic() + 60
        while log.failure is not None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        await log.write(line(99))
    rows = lines(disk.log)
    resumed = next(row for row in rows if row["event"] == "resumed")
    assert resumed["lost"] == failed
    assert len(written - {None}) == 11 - failed
    assert rows[-2]["number"] == 99
    assert verify(disk.log, KEYS).ok
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 1  # once, not per line


def test_a_disk_that_is_full_from_the_start(disk: Disk) -> None:
    with opened(disk.log):
        pass
    disk.fill()

    def again_and_again() -> None:
        for _ in range(100):
            with opened(disk.log):
                pass

    with pytest.raises(AuditError, match="can't write the audit log"):
        again_and_again()


async def test_a_disk_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "PATIENCE", 0.2)
    stuck, go = threading.Event(), threading.Event()
    inner = os.write

    def slow(file: int, data: Any) -> int:
        if threading.current_thread().name == "prism-audit":
            stuck.set()
            go.wait(60)
        return inner(file, data)

    with opened(tmp_path / "audit.jsonl") as log:
        monkeypatch.setattr(os, "write", slow)
        with pytest.raises(AuditError, match="longer than"):
            await log.write(line(1))
        assert stuck.is_set()
        assert log.failure == "the disk does not answer"
        go.set()
        await log.write(line(2))
        assert log.failure is None
    assert [row.get("number") for row in lines(tmp_path / "audit.jsonl")] == [None, 1, 2, None]


async def test_a_record_that_cannot_be_made_is_an_error_of_its_writer(tmp_path: Path) -> None:
    def broken() -> dict[str, Any]:
        raise ValueError("no")

    with opened(tmp_path / "audit.jsonl") as log:
        with pytest.raises(AuditError):
            await log.write(broken)
        await log.write(line(1))
    assert verify(tmp_path / "audit.jsonl", KEYS).ok


@pytest.mark.parametrize("fault", ["moved", "grown", "cut"])
async def test_a_file_that_somebody_meddles_with(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "audit.jsonl"
    with opened(path) as log:
        await log.write(line(1))
        if fault == "moved":
            path.rename(tmp_path / "elsewhere")
        elif fault == "grown":
            with path.open("ab") as file:
                file.write(b"{}\n")
        else:
            os.truncate(path, 10)
        with pytest.raises(AuditError, match=r"moved|changed"):
            await log.write(line(2))
        if fault == "moved":
            (tmp_path / "elsewhere").rename(path)
            await log.write(line(3))
            assert verify(path, KEYS).ok


def test_a_log_belongs_to_one_process(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with opened(path):
        with pytest.raises(AuditError, match="another process"):
            AuditLog(AuditSettings(path, KEY))
        code = (
            "import sys; from pathlib import Path; from prism.record.audit import *\n"
            f"AuditLog(AuditSettings(Path({str(path)!r}), b'k' * 64))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert "another process" in done.stderr


def test_what_its_writer_died_over_is_cut_and_said_so(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with opened(path):
        pass
    with path.open("ab") as file:
        file.write(b'{"v":1,"seq":3,"prev')
    with opened(path):
        pass
    assert [(row["event"], row.get("cut")) for row in lines(path)] == [
        ("opened", None), ("closed", None), ("opened", 20), ("closed", None),
    ]  # fmt: skip
    assert verify(path, KEYS).ok


def test_a_writer_that_died_between_line_and_head(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with opened(path):
        before = head_path(path).read_bytes()
    head_path(path).write_bytes(before)
    with opened(path):
        pass
    assert verify(path, KEYS).ok


async def test_a_writer_that_died_between_two_parts(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with opened(path):
        pass
    path.rename(tmp_path / "audit.jsonl.000001")
    with opened(path):
        pass
    assert [row["seq"] for row in lines(path)] == [3, 4]
    assert verify(path, KEYS).ok


@pytest.mark.parametrize("fault", ["cut", "no head", "broken head", "key", "edited", "gone"])
def test_a_log_that_is_not_whole_is_not_continued(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "audit.jsonl"
    with opened(path):
        pass
    data = path.read_bytes()
    key = KEY
    if fault == "cut":
        path.write_bytes(data[: data.index(b"\n") + 1])
    elif fault == "no head":
        head_path(path).unlink()
    elif fault == "broken head":
        head_path(path).write_bytes(b"{}")
    elif fault == "key":
        key = b"x" * 64
    elif fault == "edited":
        path.write_bytes(data.replace(b'"closed"', b'"closeD"'))
    else:
        path.unlink()
    with pytest.raises(AuditError, match="can't be continued"):
        AuditLog(AuditSettings(path, key))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="No such file"):
        AuditLog(AuditSettings(tmp_path / "none" / "audit.jsonl", KEY))
