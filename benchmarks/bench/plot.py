"""The plot of docs/benchmarks.md, as SVG: no script, no outside resource."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from bench.goals import COMPARABLE

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 460, 300, 150, 40, 34, 42
_COLOURS = ("#1b6ca8", "#c2571a", "#4a7c2f", "#7a4fa0")
"""Told apart with most colour blindness too."""
_STYLE = (
    "text{font:12px sans-serif;fill:#222}.title{font-weight:bold}.grid{stroke:#ddd}"
    ".line{fill:none;stroke-width:2}.range{stroke-width:2}"
)
Rows = Sequence[Mapping[str, Any]]


class Panel:
    """One diagram; ``x`` and ``y`` map values to 0..1."""

    def __init__(
        self, title: str, x: Callable[[float], float], y: Callable[[float], float]
    ) -> None:
        self._x, self._y = x, y
        self.parts = [f'<text class="title" x="12" y="20">{escape(title)}</text>']

    def across(self, value: float) -> float:
        """Return where ``value`` is, from the left."""
        return _LEFT + self._x(value) * (_WIDTH - _LEFT - _RIGHT)

    def up(self, value: float) -> float:
        """Return where ``value`` is, from the top."""
        return _HEIGHT - _BOTTOM - self._y(value) * (_HEIGHT - _BOTTOM - _TOP)

    def text(self, x: float, y: float, text: str, anchor: str = "middle") -> None:
        """Write."""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """Draw a straight line; ``style`` is attributes."""
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'
        )

    def x_ticks(self, ticks: Sequence[tuple[float, str]]) -> None:
        """Draw the grid's upright lines."""
        for value, label in ticks:
            x = self.across(value)
            self.line(x, _TOP, x, _HEIGHT - _BOTTOM, 'class="grid"')
            self.text(x, _HEIGHT - _BOTTOM + 16, label)

    def y_ticks(self, ticks: Sequence[tuple[float, str]]) -> None:
        """Draw the grid's level lines."""
        for value, label in ticks:
            y = self.up(value)
            self.line(_LEFT, y, _WIDTH - _RIGHT, y, 'class="grid"')
            self.text(_LEFT - 6, y + 4, label, "end")

    def curve(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        """Draw a line through ``points`` and mark each."""
        places = [(self.across(x), self.up(y)) for x, y in points]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        self.parts.append(f'<polyline class="line" points="{joined}" stroke="{colour}"/>')
        self.parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places
        ]


def draw(parts: Mapping[str, Any]) -> str:
    """Return the diagrams that ``parts``, of the file of results, have figures for."""
    rows = {name: part["rows"] for name, part in parts.items()}
    made = [_ratios(rows), _batch(rows), _growth(rows), _peers(rows)]
    panels = [panel for panel in made if panel is not None]
    height = _HEIGHT * -(-len(panels) // 2)
    body = "".join(
        f'<g transform="translate({i % 2 * _WIDTH} {i // 2 * _HEIGHT})">{"".join(p.parts)}</g>\n'
        for i, p in enumerate(panels)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * _WIDTH} {max(height, 1)}" '
        f'role="img" aria-label="What moderation costs">\n<style>{_STYLE}</style>\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}</svg>\n'
    )


def _log(low: float, high: float) -> Callable[[float], float]:
    span = math.log(high / low)
    return lambda value: math.log(max(value, low) / low) / span


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return round numbers from ``low`` to ``high``, about five."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(times for times in (1, 2, 5, 10) if times * power >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(i * step, f"{i * step:.6g}") for i in range(first, last + 1)]


def _ratios(rows: Mapping[str, Rows]) -> Panel | None:
    """Speed against the bare engine, with intervals."""
    found = [(f"vLLM, batch {row['at']['batch']}", row) for row in _named(rows, "vllm", "wall")] + [
        (f"llama.cpp, {row['arm']}", row) for row in _named(rows, "llamacpp", "wall")
    ]
    if not found:
        return None
    low = min(0.9, *(row["low"] for _, row in found))
    high = max(1.1, *(row["high"] for _, row in found))
    panel = Panel("Speed, moderated against bare (wall time)",
                  lambda v: (v - low) / (high - low), lambda v: v)  # fmt: skip
    panel.x_ticks(_ticks(low, high))
    for number, (label, row) in enumerate(found):
        y = panel.up(1 - (number + 0.5) / len(found))
        colour = f'class="range" stroke="{_COLOURS[0]}"'
        panel.line(panel.across(row["low"]), y, panel.across(row["high"]), y, colour)
        panel.parts.append(
            f'<circle cx="{panel.across(row["median"]):.1f}" cy="{y:.1f}" r="4" '
            f'fill="{_COLOURS[0]}"/>'
        )
        panel.text(_LEFT - 6, y + 4, label, "end")
    return panel


def _named(rows: Mapping[str, Rows], part: str, clock: str) -> Rows:
    wanted = rows.get(part, ())
    return [r for r in wanted if r["name"] == "speed against bare" and r["clock"] == clock]


def _batch(rows: Mapping[str, Rows]) -> Panel | None:
    """The step, per token and row, against the batch."""
    points = _points(rows, "batch", "a step", "batch")
    if len(points) < 2:
        return None
    last, most = points[-1][0], max(y for _, y in points)
    panel = Panel("A step of the token layer, µs of CPU per token and row",
                  _log(points[0][0], last), lambda v: v / most)  # fmt: skip
    panel.x_ticks([(x, f"{x:g}") for x, _ in points])
    panel.y_ticks(_ticks(0, most))
    panel.text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, "rows in the batch")
    panel.curve(points, _COLOURS[0])
    return panel


_GROWTHS = (
    ("phrases: token layer", "phrases", "a step of the token layer", "phrases"),
    ("phrases: text layer", "phrases", "the text layer's patterns", "phrases"),
    ("tenants: text layer", "tenants", "text layer, 256 streams in turn", "tenants"),
    ("tokens said before: token layer", "length", "token layer", "tokens"),
)


def _growth(rows: Mapping[str, Rows]) -> Panel | None:
    """How the cost of a token grows, against the smallest size of each."""
    series = []
    for label, part, name, axis in _GROWTHS:
        points = _points(rows, part, name, axis)
        if len(points) > 1:
            series.append((label, [(x, y / points[0][1]) for x, y in points]))
    if not series:
        return None
    most = max(2.0, *(y for _, points in series for _, y in points))
    panel = Panel("Cost of a token, against the smallest", _log(1, 1e5), lambda v: v / most)
    panel.x_ticks([(10.0**i, f"{10**i:,}") for i in range(6)])
    panel.y_ticks([(value, f"{text} times") for value, text in _ticks(0, most)])
    for number, (label, points) in enumerate(series):
        panel.curve(points, _COLOURS[number])
        y = _TOP + 14 * number
        panel.parts.append(f'<rect x="{_LEFT + 6}" y="{y - 9}" width="9" height="9" '
                           f'fill="{_COLOURS[number]}"/>')  # fmt: skip
        panel.text(_LEFT + 20, y, label, "start")
    panel.text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, "phrases, tenants, tokens said before")
    return panel


def _points(rows: Mapping[str, Rows], part: str, name: str, axis: str) -> list[tuple[float, float]]:
    return sorted(
        (float(row["at"][axis]), float(row["median"]))
        for row in rows.get(part, ())
        if row["name"] == name and row["clock"] == "cpu" and row["unit"] != "µs per step"
    )


def _peers(rows: Mapping[str, Rows]) -> Panel | None:
    """One check of 40 words by each product."""
    arms = ("prism, no disguises", "prism", *COMPARABLE)
    least = min((row["at"]["words"] for row in rows.get("peers", ())), default=0)
    found = {
        row["arm"]: row["median"]
        for row in rows.get("peers", ())
        if row["arm"] in arms and row["clock"] == "cpu" and row["at"]["words"] == least
    }
    if len(found) < 2:
        return None
    low, high = 10.0, 10 ** math.ceil(math.log10(max(found.values()) + 1))
    panel = Panel(f"One check of {least} words, 100 phrases, µs of CPU",
                  _log(low, high), lambda v: v)  # fmt: skip
    panel.x_ticks([(10.0**i, f"{10**i:,}") for i in range(1, round(math.log10(high)) + 1)])
    each = (_HEIGHT - _BOTTOM - _TOP) / len(found)
    for number, (name, value) in enumerate(sorted(found.items(), key=lambda item: item[1])):
        y = _TOP + each * number
        colour = _COLOURS[0] if name.startswith("prism") else _COLOURS[1]
        width = panel.across(value) - _LEFT
        panel.parts.append(f'<rect x="{_LEFT}" y="{y + 3:.1f}" width="{max(width, 1):.1f}" '
                           f'height="{each - 6:.1f}" fill="{colour}"/>')  # fmt: skip
        panel.text(_LEFT - 6, y + each / 2 + 4, name, "end")
    return panel
