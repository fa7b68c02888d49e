"""What the figures are held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.rows import short

Parts = Mapping[str, Any]
COMPARABLE = ("litellm", "openai-guardrails", "guardrails-ai", "nemoguardrails", "presidio")
"""Products that look for the same phrases; a regular expression by itself is none."""


@dataclass(frozen=True, slots=True)
class Goal:
    """``measured`` returns the figure, or ``None`` while it isn't known."""

    text: str
    measured: Callable[[Parts], float | None]
    limit: float
    unit: str
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Whether ``value`` is good enough."""
        return value >= self.limit if self.at_least else value <= self.limit

    def said(self, value: float) -> str:
        """Return ``value`` with its unit."""
        return f"{short(value)}{f' {self.unit}' if self.unit else ''}"


def find(parts: Parts, part: str, name: str, **wanted: Any) -> float | None:
    """Return the median of a part's first row that is called ``name`` and is as ``wanted``.

    A quick run's don't count. ``unit``, ``clock`` and ``arm`` are the row's own; everything else is
    looked for in ``at``.
    """
    known = parts.get(part, {})
    for row in known.get("rows", ()) if not known.get("quick") else ():
        all_of = {**row["at"], "unit": row["unit"], "clock": row["clock"], "arm": row["arm"]}
        if row["name"] == name and all(all_of.get(k) == v for k, v in wanted.items()):
            return float(row["median"])
    return None


def _row(part: str, name: str, **wanted: Any) -> Callable[[Parts], float | None]:
    return lambda parts: find(parts, part, name, **wanted)


def _growth(
    part: str, name: str, axis: str, low: int, high: int
) -> Callable[[Parts], float | None]:
    def measured(parts: Parts) -> float | None:
        few = find(parts, part, name, **{axis: low})
        many = find(parts, part, name, **{axis: high})
        return None if few is None or many is None else many / few

    return measured


def _fastest_peer(words: int, arm: str) -> Callable[[Parts], float | None]:
    def measured(parts: Parts) -> float | None:
        ours = find(parts, "peers", "a check", arm=arm, words=words, clock="cpu")
        all_theirs = [
            find(parts, "peers", "a check", arm=peer, words=words, clock="cpu")
            for peer in COMPARABLE
        ]
        theirs = [value for value in all_theirs if value is not None]
        return None if ours is None or not theirs else min(theirs) / ours

    return measured


_MOST = 100_000
GOALS = (
    Goal("vLLM, batch 16, everything on: speed against bare at least 0.99",
         _row("vllm", "speed against bare", batch=16, clock="wall"), 0.99, "", True),
    Goal("llama.cpp, everything on: speed against bare at least 0.98",
         _row("llamacpp", "speed against bare", arm="everything", clock="wall"), 0.98, "", True),
    Goal("a step of the token layer for 256 rows: at most 500 µs of CPU",
         _row("step", "the whole step", batch=256, unit="µs per step", clock="cpu"), 500, "µs"),
    Goal("feed and mask per token and row at 100,000 phrases: at most 2 µs",
         _row("phrases", "feed and mask", phrases=_MOST), 2, "µs"),
    Goal("100,000 phrases are built in at most 5 s",
         _row("phrases", "build", phrases=_MOST, clock="wall"), 5, "s"),
    Goal("100,000 phrases keep at most 150 MiB",
         _row("phrases", "memory kept", phrases=_MOST), 150, "MiB"),
    Goal("a token after 32,768 others costs at most 1.2 times one after 1,024, token layer",
         _growth("length", "token layer", "tokens", 1_024, 32_768), 1.2, "times"),
    Goal("the same, text layer",
         _growth("length", "session, patterns and sketch", "tokens", 1_024, 32_768), 1.2, "times"),
    Goal("a piece of text among 10,000 tenants costs at most 1.2 times one with a single tenant",
         _growth("tenants", "text layer, 256 streams in turn", "tenants", 1, 10_000), 1.2, "times"),
    Goal("a check of 40 words, fastest peer over ours (no disguises, as theirs): at least 10",
         _fastest_peer(40, "prism, no disguises"), 10, "times", True),
    Goal("the same, 800 words", _fastest_peer(800, "prism, no disguises"), 10, "times", True),
    Goal("the same, 40 words, every disguise seen through", _fastest_peer(40, "prism"), 10,
         "times", True),
    Goal("the same, 800 words, every disguise seen through", _fastest_peer(800, "prism"), 10,
         "times", True),
)  # fmt: skip
