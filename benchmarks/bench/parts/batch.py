"""How a step of the token layer grows with the batch."""

from __future__ import annotations

from collections.abc import Iterator

from bench.host import WARM, Host
from bench.inputs import blocks, policy_with, recorded
from bench.rows import Row
from bench.settings import Case, Settings

TITLE = "Growth with the batch"
ENGINE = False
_BLOCK = 8


def cases(settings: Settings) -> list[Case]:
    """One."""
    return [{}]


def measure(settings: Settings, case: Case) -> Iterator[Row]:
    """Yield µs per step and per token and row, by the size of the batch."""
    length = settings.pick(512, 48)
    for rows in settings.counts((1, 4, 16, 64, 256), (1, 8)):
        host = Host(settings.model, policy_with(settings.policy, 0), rows)
        _, cpu = host.drive(recorded(settings.model, rows, length + WARM))
        at = {"batch": rows}
        yield Row.of("a step", "µs per step", blocks(cpu, _BLOCK), at=at)
        each = [value / rows for value in cpu]
        yield Row.of("a step", "µs per token and row", blocks(each, _BLOCK), at=at)
