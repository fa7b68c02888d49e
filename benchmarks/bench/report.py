"""Results as text: a line for the terminal, tables and a plot for docs/benchmarks.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.goals import GOALS
from bench.plot import draw
from bench.rows import short

Rows = Sequence[Mapping[str, Any]]

_AXES = ("phrases", "tenants", "policies", "words", "batch", "tokens")
"""What a table's columns are, where a part's rows differ in it; the first of these that do."""
_BLOCK = re.compile(r"(<!-- bench:(\w+) -->\n).*?(<!-- /bench:\2 -->)", re.DOTALL)
_CLOCKS = {"cpu": "CPU", "wall": "wall", "": ""}


def told(row: Mapping[str, Any]) -> str:
    """Return a row as a line."""
    at = ", ".join(f"{key} {value}" for key, value in row["at"].items())
    clock = f" {row['clock']}" if row["clock"] else ""
    return (
        f"{row['name']}{f' ({at})' if at else ''} [{row['arm']}]: {short(row['median'])} "
        f"({short(row['low'])} to {short(row['high'])}) {row['unit']}{clock}, n = {row['n']}"
    )


def render(results: Mapping[str, Any], document: Path) -> None:
    """Write what ``results`` say between the marks in ``document``, and the plot beside it.

    Raises ``SystemExit`` where the document has no marks.
    """
    text = document.read_text(encoding="utf-8")
    if not _BLOCK.search(text):
        raise SystemExit(f"{document} has no marks like <!-- bench:layers --> to write between")
    text = _BLOCK.sub(lambda m: f"{m[1]}{block(m[2], results)}\n{m[3]}", text)
    document.write_text(text, encoding="utf-8")
    document.with_suffix(".svg").write_text(draw(results["parts"]), encoding="utf-8")


def block(name: str, results: Mapping[str, Any]) -> str:
    """Return what stands between the marks called ``name``."""
    if name == "machine":
        return _machine(results)
    if name == "goals":
        return _goals(results["parts"])
    part = results["parts"].get(name)
    if part is None:
        return "Not measured yet."
    notes = ["Quick run: these figures mean nothing."] if part["quick"] else []
    if not part["complete"]:
        notes.append("Not complete: " + "; ".join(part.get("errors", ["it was interrupted"])) + ".")
    return "\n\n".join([*tables(part["rows"]), *notes])


def tables(rows: Rows) -> list[str]:
    """Return the tables of a part's rows, one for each thing that rows differ in."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(_axis(row, rows), []).append(row)
    return [_table(axis, group) for axis, group in groups.items()]


def _axis(row: Mapping[str, Any], rows: Rows) -> str:
    for axis in _AXES:
        here = {other["at"][axis] for other in rows if axis in other["at"]}
        if axis in row["at"] and len(here) > 1:
            return axis
    return ""


def _table(axis: str, rows: Rows) -> str:
    arms = len({row["arm"] for row in rows}) > 1
    columns = sorted({row["at"][axis] for row in rows}) if axis else [None]
    lines: dict[str, dict[Any, str]] = {}
    for row in rows:
        lines.setdefault(_label(row, axis, arms=arms), {})[row["at"].get(axis)] = _cell(row)
    heads = [_at(axis, value) for value in columns] if axis else ["median (95 % interval)"]
    table = [_line(["", *heads]), _line(["-"] * (1 + len(heads)))]
    table += [
        _line([label, *(cells.get(c, "") for c in columns)]) for label, cells in lines.items()
    ]
    return "\n".join(table)


def _label(row: Mapping[str, Any], axis: str, *, arms: bool) -> str:
    parts = [f"**{row['arm']}**: {row['name']}" if arms else row["name"]]
    parts += [_at(key, value) for key, value in row["at"].items() if key != axis]
    unit = " ".join(part for part in (row["unit"], _CLOCKS[row["clock"]]) if part)
    return f"{', '.join(parts)} ({unit})"


def _at(key: str, value: Any) -> str:
    return f"batch {value}" if key == "batch" else f"{value:,} {key}"


def _cell(row: Mapping[str, Any]) -> str:
    if row["n"] == 1:
        return short(row["median"])
    return f"{short(row['median'])} ({short(row['low'])}–{short(row['high'])})"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _machine(results: Mapping[str, Any]) -> str:
    found = results["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    dates = sorted({part["date"] for part in results["parts"].values()})
    spent = sum(part.get("seconds", 0) for part in results["parts"].values())
    when = " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "never"
    return (
        f"{when}, {spent / 60:.0f} minutes; {found['cpu']}, {found['cores']} cores, "
        f"{found['memory_gib']} GiB, {found['system']}; Python {found['python']}, {packages}."
    )


def _goals(parts: Mapping[str, Any]) -> str:
    table = [_line(["goal", "measured", "met"]), _line(["-"] * 3)]
    for goal in GOALS:
        found = goal.measured(parts)
        if found is None:
            table.append(_line([goal.text, "not measured yet", ""]))
        else:
            table.append(
                _line([goal.text, goal.said(found), "yes" if goal.met(found) else "**no**"])
            )
    return "\n".join(table)
