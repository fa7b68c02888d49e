"""One step of the token layer for 256 rows, and what it is made of."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from bench.host import WARM, Host
from bench.inputs import blocks, policy_with, recorded, vocabulary
from bench.kernels import drive
from bench.rows import NONE, WALL, Row
from bench.settings import Case, Settings
from prism.steer.guard import TokenGuard

TITLE = "A step of the token layer, 256 rows"
ENGINE = False
_BLOCK = 8
_PER_ROW = "µs per token and row"


def cases(settings: Settings) -> list[Case]:
    """Return one for each part: they must not share caches."""
    return [{"of": "whole"}, {"of": "parts"}]


def measure(settings: Settings, case: Case) -> Iterator[Row]:
    """Yield µs per step, and µs per token and row."""
    yield from {"whole": _whole, "parts": _parts}[case["of"]](settings)


def _whole(settings: Settings) -> Iterator[Row]:
    rows, length = settings.pick(256, 16), settings.pick(256, 48)
    host = Host(settings.model, policy_with(settings.policy, 0), rows)
    wall, cpu = host.drive(recorded(settings.model, rows, length + WARM))
    at = {"batch": rows}
    yield Row.of("the whole step", "µs per step", blocks(cpu, _BLOCK), at=at)
    yield Row.of("the whole step", "µs per step", blocks(wall, _BLOCK), clock=WALL, at=at)
    each = [value / rows for value in cpu]
    yield Row.of("the whole step", _PER_ROW, blocks(each, _BLOCK), at=at)
    yield Row.of("rows that refused", "rows", [float(host.refusing)], clock=NONE, at=at)


def _parts(settings: Settings) -> Iterator[Row]:
    rows, length = settings.pick(256, 16), settings.pick(256, 48)
    policy = policy_with(settings.policy, 0)
    for name, values in drive(settings.model, policy, rows, length).items():
        yield Row.of(name, _PER_ROW, blocks(values, _BLOCK), at={"batch": rows})
    yield from _writes(settings, TokenGuard.compile(policy, vocabulary(settings.model)))


def _writes(settings: Settings, guard: TokenGuard) -> Iterator[Row]:
    """Yield what one row of logits costs where something is to be written."""
    logits = np.zeros(guard.vocabulary.size, np.float32)
    row = guard.row([])
    text = guard.vocabulary.encode(_phrase(guard))
    row.advance(text[:-1])
    open_, refused = row.step(), guard.row([])
    refused.refuse()
    for name, step in (("write, a phrase nearly there", open_), ("write, a refusal", None)):
        chosen = step or refused.step()
        values = []
        for _ in range(settings.times(15) * 8):
            used = time.process_time()
            chosen.write(logits)
            values.append((time.process_time() - used) * 1e6)
        yield Row.of(name, "µs per row", blocks(values, _BLOCK))


def _phrase(guard: TokenGuard) -> str:
    """Return a phrase that may not be said."""
    phrases = [phrase for rule in guard.policy.rules for phrase in rule.phrases]
    return max(phrases, key=len)
