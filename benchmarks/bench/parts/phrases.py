"""Growth with phrases: to build, to keep, to read text with, to steer with."""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Iterator

from bench.host import WARM, Host
from bench.inputs import blocks, memory, policy_with, recorded, vocabulary
from bench.kernels import drive
from bench.rows import NONE, WALL, Row
from bench.settings import Case, Settings
from prism.assure.costs import TEXT, text_costs
from prism.moderator import Moderator
from prism.steer.guard import TokenGuard

TITLE = "Growth with phrases"
ENGINE = False
_BLOCK = 8


def cases(settings: Settings) -> list[Case]:
    """Return one for each number of phrases, each with an empty cache of its own."""
    counts = settings.phrases or settings.counts((100, 1_000, 10_000, 100_000), (20, 200))
    return [{"phrases": count} for count in counts]


def measure(settings: Settings, case: Case) -> Iterator[Row]:
    """Yield rows for one number of phrases, on top of the policy's own."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache  # nothing is found there that was built before
        yield from _measured(settings, int(case["phrases"]))


def _measured(settings: Settings, count: int) -> Iterator[Row]:
    at = {"phrases": count}
    policy = policy_with(settings.policy, count)
    yield from _built(settings, count)
    # The text layer's automaton has its own memory; its part is measured where it is used.
    host = Host(settings.model, policy, settings.pick(256, 16))
    texts = recorded(settings.model, settings.pick(256, 16), settings.pick(256, 48) + WARM)
    _, cpu = host.drive(texts)
    rows = len(texts)
    yield Row.of(
        "a step of the token layer", "µs per step", blocks(cpu, _BLOCK), at={**at, "batch": rows}
    )
    yield Row.of(
        "a step of the token layer",
        "µs per token and row",
        blocks([value / rows for value in cpu], _BLOCK),
        at=at,
    )
    found = drive(settings.model, policy, rows, settings.pick(256, 48))
    both = [feed + mask for feed, mask in zip(found["feed"], found["mask"], strict=True)]
    yield Row.of("feed and mask", "µs per token and row", blocks(both, _BLOCK), at=at)
    plain = Moderator(policy_with(settings.policy, count, alone=True))
    for cost in text_costs(plain, TEXT, settings.times(15)):
        if cost.name == "patterns":
            yield Row.taken("the text layer's patterns", cost.unit, cost.spread, at=at)


def _built(settings: Settings, count: int) -> Iterator[Row]:
    """Yield what building takes, once everything else is loaded and numba has compiled."""
    at = {"phrases": count}
    words = vocabulary(settings.model)
    TokenGuard.compile(policy_with(settings.policy, 7), words)
    policy = policy_with(settings.policy, count)
    gc.collect()
    before, wall, cpu = memory(), time.perf_counter(), time.process_time()
    guard = TokenGuard.compile(policy, words)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    gc.collect()
    kept = memory() - before
    yield Row.of("build", "s", [cpu], at=at)
    yield Row.of("build", "s", [wall], clock=WALL, at=at)
    yield Row.of("memory kept", "MiB", [max(kept, 0.0)], clock=NONE, at=at)
    del guard
