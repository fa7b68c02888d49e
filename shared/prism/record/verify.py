"""Reading an audit log back: is it all there, and as it was written?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prism.record.audit import head_path, rotated
from prism.record.chain import Head, Keys, digest, read_head, read_line

_MOST = 100  # problems told


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something that is not as it was written."""

    file: str
    line: int  # in the file, from 1; 0: the file as a whole
    what: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.what}"


@dataclass(slots=True)
class Report:
    """What was found. ``head``: the last line read; note it elsewhere to find truncation later."""

    head: Head
    files: list[str] = field(default_factory=list)
    lines: int = 0
    seals: bool = False  # whether they were checked
    flaws: list[Flaw] = field(default_factory=list)
    flaws_in_all: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.flaws_in_all

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "ok": self.ok,
            "files": self.files,
            "lines": self.lines,
            "head": str(self.head),
            "seals_checked": self.seals,
            "flaws": [
                {"file": flaw.file, "line": flaw.line, "what": flaw.what} for flaw in self.flaws
            ],
            "flaws_in_all": self.flaws_in_all,
        }

    def add(self, path: Path, line: int, what: str) -> None:
        """Note a flaw."""
        self.flaws_in_all += 1
        if len(self.flaws) < _MOST:
            self.flaws.append(Flaw(path.name, line, what))


def verify(
    path: Path, keys: Keys | None = None, *, start: Head | None = None, expect: Head | None = None
) -> Report:
    """Read the log at ``path``, its rotated parts first.

    ``start``: the last line before the oldest part that is still here. ``expect``: a line that must
    be in the log as it was noted. Without ``keys`` the chain is followed, and seals are left aside.
    Raises ``OSError``.
    """
    report = Report(start or Head(), seals=keys is not None)
    met = expect is None
    parts = [*rotated(path), path]
    for part in parts:
        report.files.append(part.name)
        for number, line, ended in _lines(part):
            report.lines += 1
            _check(report, part, number, line, ended, keys)
            met = met or report.head == expect
    _check_head(report, path, keys)
    if not met:
        report.add(path, 0, f"line {expect} is not in it: it was cut off, or written anew")
    return report


def _lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            yield number, line.removesuffix(b"\n"), line.endswith(b"\n")


def _check(
    report: Report, path: Path, number: int, line: bytes, ended: bool, keys: Keys | None
) -> None:
    before = report.head
    try:
        record = read_line(line)
    except ValueError as error:
        report.add(path, number, str(error) if ended else "breaks off")
        report.head = Head(before.seq + 1, digest(line))
        return
    seq = record["seq"]
    if seq != before.seq + 1:
        missing = seq - before.seq - 1
        told = f"{missing} lines are missing before it" if missing > 0 else "it is out of order"
        report.add(path, number, f"is line {seq} where {before.seq + 1} is due: {told}")
    elif record["prev"] != before.digest:
        report.add(path, number, "does not follow from the line before: one of them was changed")
    if keys is not None and not keys.sealed(line):
        report.add(path, number, "does not bear its seal: it was changed, or the key is another")
    if not ended:
        report.add(path, number, "has no end")
    report.head = Head(seq, digest(line))


def _check_head(report: Report, path: Path, keys: Keys | None) -> None:
    beside = head_path(path)
    try:
        raw = beside.read_bytes()
        said = read_head(raw)
    except FileNotFoundError:
        report.add(beside, 0, "is missing: the log's end can't be known")
        return
    except ValueError as error:
        report.add(beside, 0, str(error))
        return
    if keys is not None and keys.head(said) != raw:
        report.add(beside, 0, "does not bear its seal: it was changed, or the key is another")
    if said.seq > report.head.seq:
        report.add(path, 0, f"ends with line {report.head.seq} where there were {said.seq}")
    elif said.seq == report.head.seq and said != report.head:
        report.add(path, 0, "does not end with the line that its head file names")
