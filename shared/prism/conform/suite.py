"""Run the checks, one after the other, and say what came of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from prism.conform.check import Check, Failed, NotApplicable, Outcome, Result
from prism.conform.checks import CHECKS
from prism.conform.target import Options, Target, Voice, client, prepare


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a run. ``voices``: how each API was made to speak, or why it wasn't."""

    url: str
    voices: dict[str, str]
    results: tuple[Result, ...]

    @property
    def counts(self) -> dict[Outcome, int]:
        found = Counter(result.outcome for result in self.results)
        return {outcome: found[outcome] for outcome in Outcome}

    @property
    def exit_code(self) -> int:
        """0: all that could be asked passed. 3: something failed. 2: something went wrong."""
        counts = self.counts
        if counts[Outcome.FAILED]:
            return 3
        return 2 if counts[Outcome.ERROR] or not counts[Outcome.PASSED] else 0

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "url": self.url,
            "voices": self.voices,
            "counts": {outcome.value: number for outcome, number in self.counts.items()},
            "checks": [
                {
                    "name": result.check.name,
                    "complaints": list(result.check.complaints),
                    "title": result.check.title,
                    "outcome": result.outcome.value,
                    "evidence": result.evidence,
                    "seconds": round(result.seconds, 3),
                }
                for result in self.results
            ],
        }


async def run(
    options: Options,
    *,
    only: Sequence[str] = (),
    tell: Callable[[Result], None] | None = None,
) -> Report:
    """Run every check whose name begins with one of ``only`` (all, if empty).

    ``tell`` is called with each result as it comes. Raises
    :class:`~prism.conform.target.NoTarget` if the server can't be tested at all.
    """
    results = []
    async with client(options) as connections:
        target = Target(options, connections)
        await prepare(target)
        for check in CHECKS:
            if only and not check.name.startswith(tuple(only)):
                continue
            results.append(await _one(check, target))
            if tell is not None:
                tell(results[-1])
    voices = {
        f"{name}{', streamed' if stream else ''}": f"{voice}"
        for (name, stream), voice in target.voices.items()
    }
    return Report(options.url, voices, tuple(results))


async def _one(check: Check, target: Target) -> Result:
    begun = time.monotonic()
    try:
        outcome, evidence = Outcome.PASSED, await check.run(target)
    except Failed as failed:
        outcome, evidence = Outcome.FAILED, str(failed)
    except NotApplicable as why:
        outcome, evidence = Outcome.NOT_APPLICABLE, str(why)
    except (httpx.HTTPError, OSError) as error:
        outcome, evidence = Outcome.ERROR, f"no answer: {type(error).__name__}"
    except Exception as error:  # whatever a strange server provokes is one check's end, not all's
        outcome, evidence = Outcome.ERROR, f"the check itself failed: {type(error).__name__}"
    return Result(check, outcome, evidence, time.monotonic() - begun)


__all__ = ["Report", "Voice", "run"]
