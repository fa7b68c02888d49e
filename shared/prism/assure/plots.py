"""Plots as inline SVG: curves, the reliability diagram, cost. No script, no outside resource."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

COLOURS = ("#1b6ca8", "#c2571a")
"""Of the first and the second system; told apart with most colour blindness too."""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 420, 300, 52, 40, 12, 14

Points = Sequence[tuple[float, float]]


class Plot:
    """Axes from 0 to 1 on both sides, unless told otherwise."""

    def __init__(
        self,
        title: str,
        across: str,
        up: str,
        x_ticks: Sequence[tuple[float, str]] | None = None,
        x_of: Callable[[float], float] = lambda x: x,
    ) -> None:
        self._title, self._x_of = title, x_of
        ticks = [(i / 5, f"{i / 5:.1f}") for i in range(6)]
        self._parts: list[str] = []
        for value, label in x_ticks or ticks:
            x = self._x(value)
            self._line(x, self._y(0), x, self._y(1), "grid")
            self._text(x, _HEIGHT - _BOTTOM + 16, label, "middle")
        for value, label in ticks:
            y = self._y(value)
            self._line(_LEFT, y, _WIDTH - _RIGHT, y, "grid")
            self._text(_LEFT - 6, y + 4, label, "end")
        self._text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, across, "middle")
        middle = (_TOP + _HEIGHT - _BOTTOM) / 2
        self._parts.append(
            f'<text x="13" y="{middle:.1f}" text-anchor="middle" '
            f'transform="rotate(-90 13 {middle:.1f})">{escape(up)}</text>'
        )

    def _x(self, value: float) -> float:
        return _LEFT + self._x_of(value) * (_WIDTH - _LEFT - _RIGHT)

    def _y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - value * (_HEIGHT - _BOTTOM - _TOP)

    def _line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        self._parts.append(
            f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
        )

    def _text(self, x: float, y: float, text: str, anchor: str) -> None:
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def curve(self, points: Points, colour: str) -> None:
        """Draw a line through ``points``."""
        places = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in points)
        self._parts.append(f'<polyline points="{places}" stroke="{colour}"/>')

    def diagonal(self) -> None:
        """Draw where both axes are equal."""
        self._line(self._x(0), self._y(0), self._x(1), self._y(1), "ideal")

    def dot(self, x: float, y: float, interval: tuple[float, float], colour: str) -> None:
        """Draw a point with its interval upright."""
        across = self._x(x)
        self._parts.append(
            f'<line stroke="{colour}" x1="{across:.1f}" y1="{self._y(interval[0]):.1f}" '
            f'x2="{across:.1f}" y2="{self._y(interval[1]):.1f}"/>'
            f'<circle cx="{across:.1f}" cy="{self._y(y):.1f}" r="3.5" fill="{colour}"/>'
        )

    def svg(self) -> str:
        """Return the plot as an SVG element."""
        title = escape(self._title)
        return (
            f'<figure><figcaption>{title}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            f'role="img" aria-label="{title}">{"".join(self._parts)}</svg></figure>'
        )


def precision_recall(curves: Sequence[Points]) -> str:
    """Return the precision-recall plot of up to two systems."""
    plot = Plot("Precision and recall", "recall", "precision")
    for points, colour in zip(curves, COLOURS, strict=False):
        plot.curve(points, colour)
    return plot.svg()


def reliability(systems: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Return the reliability diagram: what was said against what is true, with 95 % intervals."""
    plot = Plot("Reliability", "score", "share of unsafe texts")
    plot.diagonal()
    for bins, colour in zip(systems, COLOURS, strict=False):
        plot.curve([(b["said"], b["true"]) for b in bins], colour)
        for b in bins:
            plot.dot(b["said"], b["true"], b["interval"], colour)
    return plot.svg()


def cost(samples: Sequence[Sequence[float]]) -> str:
    """Return how many texts take at most how many milliseconds, on a logarithmic scale."""
    values = [value for sample in samples for value in sample]
    low = math.floor(math.log10(max(min(values, default=1.0), 1e-3)))
    high = math.ceil(math.log10(max(max(values, default=1.0), 1e-2)))
    high = max(high, low + 1)
    ticks = [(10.0**n, f"{10.0**n:g}") for n in range(low, high + 1)]
    plot = Plot(
        "Cost per text",
        "milliseconds for one text alone, at most",
        "share of texts",
        ticks,
        lambda x: (math.log10(max(x, 10.0**low)) - low) / (high - low),
    )
    for sample, colour in zip(samples, COLOURS, strict=False):
        ordered = sorted(sample)
        plot.curve([(x, (i + 1) / len(ordered)) for i, x in enumerate(ordered)], colour)
    return plot.svg()
