"""Reading an audit log back: whatever was done to it shows."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from prism.record.audit import AuditLog, AuditSettings, head_path, rotated
from prism.record.chain import Head, Keys, digest
from prism.record.verify import verify

KEY = b"k" * 64
KEYS = Keys(KEY)
Lines = list[bytes]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of twelve lines."""
    path = tmp_path / "audit.jsonl"
    made = AuditLog(AuditSettings(path, KEY))

    async def write() -> None:
        for number in range(10):
            await made.write(lambda number=number: {"event": "answered", "number": number})

    asyncio.run(write())
    made.close()
    return path


def swapped(lines: Lines) -> Lines:
    lines[3], lines[4] = lines[4], lines[3]
    return lines


def forged(lines: Lines) -> Lines:
    """Change a line and chain all that follow anew, with another key."""
    keys, head, made = Keys(b"x" * 64), Head(), []
    for line in lines:
        record = json.loads(line)
        for key in ("v", "seq", "prev", "mac"):
            del record[key]
        if record.get("number") == 4:
            record["number"] = 44
        out, head = keys.seal(record, head)
        made.append(out)
    return made


MEDDLING: dict[str, tuple[Callable[[Lines], Lines], str]] = {
    "a letter": (
        lambda rows: [r.replace(b'"number":4', b'"number":5') for r in rows],
        "changed",
    ),
    "a line out": (lambda rows: rows[:4] + rows[5:], "1 lines are missing"),
    "a line in": (lambda rows: [*rows[:4], rows[3], *rows[4:]], "out of order"),
    "two lines": (swapped, "missing|out of order"),
    "the first": (lambda rows: rows[1:], "1 lines are missing"),
    "the last": (lambda rows: rows[:-1], "ends with line 11 where there were 12"),
    "all of it": (lambda rows: [], "ends with line 0"),
    "half a line": (lambda rows: [*rows[:-1], rows[-1][:50]], "breaks off"),
    "no break": (lambda rows: [*rows[:-1], rows[-1][:-1]], "has no end"),
    "noise": (lambda rows: [*rows[:4], b"\xff\n", *rows[4:]], "not JSON"),
    "another kind": (lambda rows: [*rows[:4], b"[]\n", *rows[4:]], "not a JSON object"),
    "another version": (lambda rows: [*rows[:4], b'{"v":2}\n', *rows[4:]], "of version 2"),
    "deep": (lambda rows: [*rows[:4], b"[" * 100_000 + b"\n", *rows[4:]], "not JSON"),
}


def test_a_log_as_it_was_written(log: Path) -> None:
    report = verify(log, KEYS)
    assert report.ok
    assert (report.lines, report.head.seq, report.seals) == (12, 12, True)
    assert report.head.digest == digest(log.read_bytes().splitlines()[-1])
    assert verify(log).ok


@pytest.mark.parametrize("what", MEDDLING)
@pytest.mark.parametrize("keys", [KEYS, None], ids=["with key", "without"])
def test_meddling_shows(log: Path, what: str, keys: Keys | None) -> None:
    change, told = MEDDLING[what]
    log.write_bytes(b"".join(change(log.read_bytes().splitlines(keepends=True))))
    report = verify(log, keys)
    assert not report.ok
    assert any(re.search(told, flaw.what) for flaw in report.flaws), report.flaws


def test_a_chain_made_anew_is_told_by_its_seals(log: Path) -> None:
    head = head_path(log)
    lines = forged(log.read_bytes().splitlines(keepends=True))
    log.write_bytes(b"".join(lines))
    head.write_bytes(Keys(b"x" * 64).head(Head(12, digest(lines[-1][:-1]))))
    assert verify(log).ok  # the chain alone can be made by anybody
    report = verify(log, KEYS)
    assert report.flaws_in_all == 13
    assert "seal" in report.flaws[0].what


def test_an_end_cut_off_with_its_head_is_told_by_a_head_noted_elsewhere(log: Path) -> None:
    noted = verify(log, KEYS).head
    lines = log.read_bytes().splitlines(keepends=True)[:-2]
    log.write_bytes(b"".join(lines))
    head_path(log).write_bytes(KEYS.head(Head(10, digest(lines[-1][:-1]))))
    assert verify(log, KEYS).ok  # an old log is a true log
    assert "is not in it" in verify(log, KEYS, expect=noted).flaws[0].what


def test_parts_that_were_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for _ in range(4):
        made = AuditLog(AuditSettings(path, KEY, max_bytes=400))
        made.close()
    first = rotated(path)[0]
    rows = first.read_bytes().splitlines()
    last = Head(json.loads(rows[-1])["seq"], digest(rows[-1]))
    assert verify(path, KEYS).ok
    first.rename(tmp_path / "kept")
    assert "missing" in verify(path, KEYS).flaws[0].what
    assert verify(path, KEYS, start=last).ok
    rotated(path)[1].unlink()
    assert "missing" in verify(path, KEYS, start=last).flaws[0].what


def test_the_head_file(log: Path) -> None:
    head = head_path(log)
    good = head.read_bytes()
    head.write_bytes(good.replace(b'"seq":                  12', b'"seq":                  11'))
    assert "seal" in verify(log, KEYS).flaws[0].what
    head.write_bytes(b"nonsense")
    assert "not a head file" in verify(log).flaws[0].what
    head.unlink()
    assert "missing" in verify(log).flaws[0].what


def test_a_flood_of_flaws_is_counted_and_not_told_in_full(log: Path) -> None:
    log.write_bytes(b"x\n" * 5000)
    report = verify(log)
    assert report.flaws_in_all == 5000
    assert len(report.flaws) == 100
