"""The same texts, the same phrases, through other products: one check of one text.

Every peer answers in an environment and a process of its own (``benchmarks/peers/checks.py``), and
all of them are asked in turn. Each must find a phrase that is there and none that isn't, or it has
no figure.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.inputs import phrases, words
from bench.rows import CPU, WALL, Row
from bench.settings import CACHE, Case, Settings

TITLE = "One check, beside other products"
ENGINE = False
_PEERS = Path(__file__).parents[2] / "peers"
_OURS = ("prism", "prism, no disguises", "prism, every tier", "prism, sketch")
_THEIRS = {
    "litellm": "litellm",
    "openai-guardrails": "openai-guardrails",
    "guardrails-ai": "guardrails-ai",
    "nemoguardrails": "nemoguardrails",
    "presidio": "presidio",
    "presidio, recogniser": "presidio",
    "alt-profanity-check": "alt-profanity-check",
}
"""Each arm's environment, which is also the name of its file of requirements."""
_MODELS = ("prism, sketch", "alt-profanity-check")
"""Know no phrases."""
_WORDS = (40, 800)
_ENOUGH = 0.05
"""Seconds that one round of checks takes about."""


def cases(settings: Settings) -> list[Case]:
    """One: all are asked in turn."""
    return [{}]


class Peer:
    """A process that checks texts."""

    def __init__(self, name: str, given: dict[str, Any]) -> None:
        self.name = name
        python = sys.executable
        if name in _THEIRS:
            python = str(CACHE / "peers" / _THEIRS[name] / "bin" / "python")
        environ = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "DO_NOT_TRACK": "1"}
        # A home of its own: peers write to it, and this one says that no metrics are to be sent.
        self.home = tempfile.TemporaryDirectory()
        shutil.copytree(_PEERS / "guardrails_ai_home", self.home.name, dirs_exist_ok=True)
        if name in _THEIRS:
            environ["HOME"] = self.home.name
        self.process = subprocess.Popen(
            [python, str(_PEERS / "checks.py"), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env=environ,
        )  # fmt: skip
        if self._say(given) != "ready\n":
            raise SystemExit(f"{name} did not start: try benchmarks/peers/checks.py by hand")

    def _say(self, what: Any) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def check(self, number: int, times: int) -> tuple[float, float, bool]:
        """Check a text so many times; return seconds per check, wall and CPU, and the verdict."""
        line = self._say([number, times])
        if not line:
            raise SystemExit(f"{self.name} ended: try benchmarks/peers/checks.py by hand")
        wall, cpu, hit = json.loads(line)
        return wall / times, cpu / times, hit

    def close(self) -> None:
        """End it."""
        with self.home, self.process:  # closes its pipes and waits
            pass


def measure(settings: Settings, case: Case) -> Iterator[Row]:
    """Yield µs per check of every arm."""
    chosen = settings.peers or tuple(_THEIRS)
    unknown = set(chosen) - set(_THEIRS) - {"none"}
    if unknown:
        raise SystemExit(f"no such peer: {', '.join(sorted(unknown))}")
    theirs = [name for name in _THEIRS if name in chosen]
    _build({_THEIRS[name] for name in theirs})
    known = phrases(100)
    texts = [words(count, skip=1000) for count in _WORDS]
    given = {"phrases": known, "texts": [*texts, f"{texts[0]} {known[50]} and so on"]}
    arms = [Peer(name, given) for name in (*_OURS, *theirs)]
    try:
        yield from _compared(settings, arms)
    finally:
        for arm in arms:
            arm.close()


def _build(names: set[str]) -> None:
    if names:
        command = [sys.executable, str(_PEERS / "conform.py"), "--build", *sorted(names)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _how_many(arm: Peer, number: int, enough: float) -> int:
    """Return how many checks of a text take about ``enough`` seconds, by warm ones."""
    times = 1
    while True:
        each = arm.check(number, times)[0]
        if each * times >= enough / 4:
            return max(1, round(enough / each))
        times *= 4


def _compared(settings: Settings, arms: list[Peer]) -> Iterator[Row]:
    for arm in arms:
        seen = [arm.check(number, 1)[2] for number in range(len(_WORDS) + 1)]
        wanted = [False] * len(_WORDS) + [arm.name not in _MODELS]
        if seen != wanted:
            raise SystemExit(f"{arm.name} says {seen} where {wanted} is right")
    for number, count in enumerate(_WORDS):
        enough = settings.pick(1, 0) * _ENOUGH
        times = [_how_many(arm, number, enough) for arm in arms]
        taken: dict[str, list[tuple[float, float]]] = {arm.name: [] for arm in arms}
        order = list(zip(arms, times, strict=True))
        for round_ in range(settings.times(11)):
            for arm, many in order if round_ % 2 else reversed(order):
                wall, cpu, _ = arm.check(number, many)
                taken[arm.name].append((wall * 1e6, cpu * 1e6))
        at = {"words": count, "phrases": 100}
        for name, values in taken.items():
            for place, clock in enumerate((WALL, CPU)):
                yield Row.of(
                    "a check",
                    "µs",
                    [v[place] for v in values],
                    clock=clock,
                    arm=name,
                    at=at if name not in _MODELS else {"words": count},
                )
