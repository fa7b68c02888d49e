"""Steps with stamps: each is skipped while its inputs are what they were when it last worked."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from boot.shell import CommandFailed, duration, say
from boot.tree import Tree


@dataclass(frozen=True)
class Step:
    """One thing to do. ``inputs`` digests all that its result depends on."""

    name: str
    what: str
    inputs: Callable[[], str]
    do: Callable[[], None]
    there: Callable[[], bool] = lambda: True
    """Whether the result still exists; a stamp alone proves nothing about a deleted file."""
    installs: bool = False
    """It writes into ``.venv``: interrupted half-way, only a new ``.venv`` is surely sound."""


class Runner:
    """Does the steps that are due, in order."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def due(self, step: Step) -> bool:
        """Return whether ``step`` has to be done."""
        stamp = self._tree.state / f"{step.name}.stamp"
        done = stamp.read_text(encoding="utf-8") if stamp.exists() else None
        return done != step.inputs() or not step.there()

    def run(self, steps: Sequence[Step]) -> None:
        """Do what is due and say so; what is up to date is one short line."""
        self._drop_half_made()
        for number, step in enumerate(steps, start=1):
            label = f"[{number}/{len(steps)}]"
            if not self.due(step):
                say(f"{label} {step.what}: up to date")
                continue
            say(f"{label} {step.what} …")
            started = time.monotonic()
            self._do(step)
            say(f"{label} {step.what}: done in {duration(time.monotonic() - started)}")

    def _do(self, step: Step) -> None:
        state = self._tree.state
        stamp, busy = state / f"{step.name}.stamp", state / "installing"
        stamp.unlink(missing_ok=True)
        if step.installs:
            state.mkdir(parents=True, exist_ok=True)
            busy.write_text(step.name, encoding="utf-8")
        try:
            step.do()
        except CommandFailed as failure:
            # A pip that ends by itself leaves a sound tree; one that was killed may not.
            if failure.status > 0:
                busy.unlink(missing_ok=True)
            raise
        busy.unlink(missing_ok=True)
        state.mkdir(parents=True, exist_ok=True)
        stamp.write_text(step.inputs(), encoding="utf-8")

    def _drop_half_made(self) -> None:
        busy = self._tree.state / "installing"
        if busy.exists():
            say(f"the last run was cut off during '{busy.read_text()}': making .venv anew")
            shutil.rmtree(self._tree.venv)
