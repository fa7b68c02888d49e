"""What moderation costs a proxy under load: throughput, latency per chunk, memory.

    python benchmarks/load.py [--streams 200] [--tokens 200] [--rounds 5] [--pace 0.05 0.01 …]
                              [--requests 0] [--asleep] [--policy default] [--models] [--json FILE]

Two proxies, alike but for the moderation, stand in front of one simulated engine; rounds alternate
between them and the order of each pair alternates too. Every byte that a client gets is checked:
each stream says its own name over and over, and every eighth holds a phrase that must not pass.

paced:  a token of every stream each ``--pace`` seconds, whether the last ones have arrived or not,
        as an engine makes them; what a chunk waits for is measured here, and what a proxy can take,
        where the pace is too much for it
fast:   an engine that waits for the proxy; one token of every stream, and when nine tenths have
        arrived the next. Nothing coalesces, so this is what a chunk costs at most
flood:  each answer at once, in one piece: what coalesces, coalesces

``--requests 100000`` runs so many short requests through the moderated proxy and shows its memory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load_rig import Rig, Round, Stream

ARMS = ("off", "moderated")
_CANARY_EVERY = 8
_POLICY = """prism: 1
id: load
title: Load
extends: {base}
{tiers}rules:
  - id: canary
    category: tox
    stages: [output]
    action: block
    phrases: [zephyr lantern]
"""


_PATTERNS_ONLY = "tiers: {sketch: off, encoder: off, guard: off}\n"


@dataclass(slots=True)
class Arm:
    """A proxy in a process of its own."""

    process: subprocess.Popen[str]
    port: int

    def cpu(self) -> float:
        """Return the seconds of CPU that it has used."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def memory(self) -> int:
        """Return the bytes that it keeps in memory."""
        rows = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
        return next(int(row.split()[1]) * 1024 for row in rows if row.startswith("Rss:"))


@contextlib.contextmanager
def arm(name: str, upstream: str, policy: Path) -> Iterator[Arm]:
    """Start one arm and end it."""
    command = [sys.executable, str(Path(__file__).with_name("load_proxy.py")), name, upstream]
    process = subprocess.Popen(
        [*command, str(policy)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Arm(process, int(process.stdout.readline()))
    finally:
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


async def healthy(found: Arm) -> None:
    """Wait until the moderated arm's self-test is green."""

    def ask() -> bool:
        with contextlib.suppress(OSError):
            url = f"http://127.0.0.1:{found.port}/prism/health"
            return bool(urllib.request.urlopen(url, timeout=5).status == 200)
        return False

    for _ in range(200):
        if await asyncio.to_thread(ask):
            return
        await asyncio.sleep(0.1)
    raise SystemExit("the moderated proxy did not become healthy")


class Load:
    """One run of the benchmark."""

    def __init__(self, rig: Rig, arms: dict[str, Arm], options: argparse.Namespace) -> None:
        self._rig = rig
        self._arms = arms
        self._options = options
        self._rng = random.Random(options.seed)
        self._number = 0

    def _streams(self, count: int, tokens: int) -> list[Stream]:
        made = []
        for _ in range(count):
            self._number += 1
            canary = self._number % _CANARY_EVERY == 0
            made.append(Stream.make(self._number, tokens, self._rng, canary=canary))
        return made

    async def compare(self, *, pace: float | None, flood: bool, rounds: int) -> dict[str, Any]:
        """Run rounds of both arms in turn."""
        options = self._options
        self._rig.flood = flood
        cpus: dict[str, list[float]] = {name: [] for name in ARMS}
        runs: dict[str, list[Round]] = {name: [] for name in ARMS}
        for number in range(rounds + 1):  # the first is for warming up
            for name in ARMS if number % 2 else reversed(ARMS):
                streams = self._streams(options.streams, options.tokens)
                before = self._arms[name].cpu()
                done = await self._rig.round(self._arms[name].port, streams, pace=pace)
                used = self._arms[name].cpu() - before
                for stream in streams:
                    stream.check(moderated=name == "moderated")
                if number:
                    runs[name].append(done)
                    cpus[name].append(used / done.events)
        rates = {name: [r.events / r.seconds for r in runs[name]] for name in ARMS}
        figures: dict[str, Any] = {
            "events per read": spread([r.events / r.reads for r in runs["off"]]),
        }
        for name in ARMS:
            figures[f"{name}: chunks/s"] = spread(rates[name])
            figures[f"{name}: CPU µs per chunk"] = spread([c * 1e6 for c in cpus[name]])
        if pace is not None:
            figures |= latencies(runs)
        pairs = zip(rates["off"], rates["moderated"], strict=True)
        figures["throughput ratio, wall"] = spread([b / a for a, b in pairs])
        pairs = zip(cpus["off"], cpus["moderated"], strict=True)
        figures["throughput ratio, CPU"] = spread([a / b for a, b in pairs])
        return figures

    async def memory(self, requests: int) -> dict[str, Any]:
        """Run many short requests through the moderated proxy and watch its memory."""
        options, found = self._options, self._arms["moderated"]
        self._rig.flood, self._rig.latencies = True, None
        left = requests
        seen: list[tuple[int, int]] = []

        async def client(slot: int) -> None:
            nonlocal left
            while left > 0:
                left -= 1
                (stream,) = self._streams(1, 8)
                await self._rig.ask(found.port, slot, stream)
                stream.check(moderated=True)
                if left % max(1, requests // 20) == 0:
                    seen.append((requests - left, found.memory()))

        before = found.cpu()
        await asyncio.gather(*(client(slot) for slot in range(options.streams)))
        used = found.cpu() - before
        seen.sort()
        warm = [row for row in seen if row[0] >= requests // 4]
        return {
            "requests": requests,
            "CPU µs per request": round(used / requests * 1e6, 1),
            "MiB after requests": {n: round(size / 2**20, 1) for n, size in seen},
            "bytes per request, last three quarters": round(slope(warm), 1),
        }


def slope(rows: list[tuple[int, int]]) -> float:
    """Return the least-squares slope of (requests, bytes)."""
    return statistics.linear_regression(*zip(*rows, strict=True)).slope if len(rows) > 1 else 0.0


def latencies(runs: dict[str, list[Round]]) -> dict[str, Any]:
    """Return what a chunk waits for, per arm, and what moderation adds to it."""
    figures: dict[str, Any] = {}
    for label, quantile in (("p50", 50), ("p99", 99)):
        rows = {
            name: [
                statistics.quantiles(run.latencies, n=100)[quantile - 1] * 1e3 for run in runs[name]
            ]
            for name in ARMS
        }
        for name in ARMS:
            figures[f"{name}: {label}, ms"] = spread(rows[name])
        pairs = zip(rows["off"], rows["moderated"], strict=True)
        figures[f"added {label}, ms"] = spread([b - a for a, b in pairs])
    return figures


def spread(values: list[float]) -> dict[str, float]:
    """Return median, least and most."""
    rows = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 3) for name, value in rows.items()}


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run everything asked for."""
    figures: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version()},
        "policy": options.policy + (" with its models" if options.models else ", patterns only"),
        "streams": options.streams,
        "tokens": options.tokens,
    }
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        policy = folder / "load.yaml"
        tiers = "" if options.models else _PATTERNS_ONLY
        policy.write_text(_POLICY.format(base=options.policy, tiers=tiers), encoding="utf-8")
        rig = Rig(awake=not options.asleep)
        url = await rig.start()
        arms = {name: stack.enter_context(arm(name, url, policy)) for name in ARMS}
        await healthy(arms["moderated"])
        load = Load(rig, arms, options)
        for mode in options.modes:
            for pace in options.pace if mode == "paced" else [None]:
                name = mode if pace is None else f"{mode}, {pace:g} s"
                rounds = options.rounds
                figures[name] = await load.compare(pace=pace, flood=mode == "flood", rounds=rounds)
                note(name, figures[name])
        if options.requests:
            figures["memory"] = await load.memory(options.requests)
            note("memory", figures["memory"])
    return figures


def note(name: str, figures: dict[str, Any]) -> None:
    """Tell at once what is known: a run takes minutes, and may be ended before the rest."""
    print(json.dumps({name: figures}, ensure_ascii=False), file=sys.stderr, flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--streams", type=int, default=200, help="at once")
    parser.add_argument("--tokens", type=int, default=200, help="per answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--pace", type=float, nargs="+", default=[0.05, 0.01], help="seconds per token, when paced"
    )
    parser.add_argument("--modes", nargs="*", default=["paced", "fast", "flood"])
    parser.add_argument("--requests", type=int, default=0, help="for the memory run")
    parser.add_argument("--policy", default="default")
    parser.add_argument("--models", action="store_true", help="its score models, too")
    parser.add_argument(
        "--asleep", action="store_true", help="let the other side sleep while it waits"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    try:
        import uvloop

        figures = uvloop.run(measure(options))
    except ImportError:
        figures = asyncio.run(measure(options))
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
