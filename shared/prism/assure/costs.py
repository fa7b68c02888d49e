"""What moderation costs on this machine: the text layer per piece, the token layer per token.

Times are CPU time of this process unless a name says otherwise: on a busy machine they stay what
they are. Each round is one pass over the text; of all rounds the median counts, with a bootstrap
interval.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prism.classify.cascade import ENCODER, SKETCH
from prism.moderator import Moderator
from prism.types import Stage

if TYPE_CHECKING:
    from prism.policy.compiled import CompiledPolicy
    from prism.steer.vocabulary import Vocabulary

TEXT = (
    "The market opened early and people walked along the river, some with bread under their arms. "
    "In 1972 the bridge was closed for repairs (see the records of the town); it cost $45,000 and "
    "took a year. Nobody minded: the ferry ran every 20 minutes & was cheap. "
)
_RESAMPLES = 2_000
_SURE = (2.5, 97.5)
_LEAST = 200
"""Pieces or tokens that one round takes at least: a shorter text is read again and again."""


class BlockedTextError(ValueError):
    """The policy blocks the text that was to be measured with: the rest of it costs nothing."""

    def __init__(self) -> None:
        super().__init__(
            "the policy blocks this text, so there is nothing to measure: give one that passes"
        )


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with its 95 % bootstrap interval over ``n`` rounds."""

    median: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What one part costs, in ``unit``."""

    name: str
    unit: str
    spread: Spread


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds that some work took."""

    wall: float
    cpu: float


def spread(values: Sequence[float]) -> Spread:
    """Return the median of ``values`` and how sure it is. The same values give the same interval.

    Raises ``ValueError`` where there are none.
    """
    if not values:
        raise ValueError("nothing was measured")
    found = np.asarray(values, np.float64)
    rng = np.random.default_rng(len(found))
    medians = np.median(rng.choice(found, (_RESAMPLES, len(found))), axis=1)
    low, high = np.percentile(medians, _SURE)
    return Spread(float(np.median(found)), float(low), float(high), len(found))


def timed(work: Callable[[], Any]) -> Taken:
    """Return what one call takes; the CPU time is that of all of this process's threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Taken(time.perf_counter() - wall, time.process_time() - cpu)


def pieces(text: str) -> list[str]:
    """Return ``text`` cut as a model might stream it: words, each with the space before it."""
    return re.findall(r"\s*\S+|\s+$", text)


def without_models(policy: CompiledPolicy) -> CompiledPolicy:
    """Return ``policy`` with its score tiers off: what phrases and patterns alone cost."""
    return replace(policy, tiers={})


def text_costs(moderator: Moderator, text: str, rounds: int) -> Iterator[Cost]:
    """Yield what each part of the text layer costs for a piece of ``text``, which is an output.

    Parts that the policy has off are left out. ``text`` must hold a word. Raises
    ``BlockedTextError``.
    """
    once = pieces(text)
    streamed = once * max(1, -(-_LEAST // len(once)))
    plain = Moderator(without_models(moderator.policy), moderator.models)
    tiers = moderator.policy.tiers

    def per_piece(name: str, read: Callable[[], None]) -> Cost:
        read()
        values = [timed(read).cpu / len(streamed) * 1e6 for _ in range(rounds)]
        return Cost(name, "µs per piece", spread(values))

    yield per_piece("patterns", lambda: _scanned(plain, streamed))
    if tiers.get(SKETCH) == "on":
        yield per_piece("sketch", lambda: _sketched(moderator, streamed))
    yield per_piece("session, patterns only", lambda: _streamed(plain, streamed))
    if moderator.cascades[Stage.OUTPUT].active:
        yield per_piece("session, every tier", lambda: _streamed(moderator, streamed))


def check_costs(moderator: Moderator, text: str, rounds: int) -> Iterator[Cost]:
    """Yield what it costs to judge ``text`` as a prompt, with and without the models."""
    plain = Moderator(without_models(moderator.policy), moderator.models)
    ways = {"prompt check, patterns only": plain}
    if moderator.cascades[Stage.PROMPT].active:
        ways["prompt check, every tier"] = moderator
    for name, judge in ways.items():
        judge.check_prompt(text)
        values = [timed(lambda judge=judge: judge.check_prompt(text)).cpu for _ in range(rounds)]  # type: ignore[misc]
        yield Cost(name, "ms", spread([value * 1e3 for value in values]))
    if moderator.policy.tiers.get(ENCODER) == "on":
        encoder = moderator.models.encoder
        encoder.prompts([text])
        values = [timed(lambda: encoder.prompts([text])).cpu * 1e3 for _ in range(rounds)]
        yield Cost("encoder", "ms per call", spread(values))


def token_costs(
    policy: CompiledPolicy, vocabulary: Vocabulary, ids: Sequence[int], rows: int, rounds: int
) -> Iterator[Cost]:
    """Yield what the token layer costs: to be built, and per token with ``rows`` side by side.

    ``ids`` is a text in the vocabulary's tokens; row ``i`` says it from its ``i``-th token on. A
    step reads a token into each row and finds what the next one may not be.
    """
    from prism.steer.batch import Batch
    from prism.steer.guard import TokenGuard

    begun = time.process_time()
    guard = TokenGuard(policy, vocabulary)
    yield Cost("token layer, build", "s", spread([time.process_time() - begun]))
    said = list(ids) * max(1, -(-_LEAST // len(ids)))
    for count in sorted({1, rows}):
        drive(Batch(guard), said[:4], count)
        values = [drive(Batch(guard), said, count) * 1e6 for _ in range(rounds)]
        name = f"token layer, {count} row{'s' if count > 1 else ''}"
        yield Cost(name, "µs per token and row", spread(values))


def drive(batch: Any, ids: Sequence[int], rows: int) -> float:
    """Have ``rows`` rows say ``ids``; return seconds of CPU per token and row.

    ``batch`` is a ``prism.steer.batch.Batch``. A row that refuses is left to.
    """
    taken = 0.0
    each = [batch.row([]) for _ in range(rows)]
    outputs: list[list[int]] = [[] for _ in each]
    for step in range(len(ids)):
        begun = time.process_time()
        batch.step(each, outputs)
        taken += time.process_time() - begun
        for number, output in enumerate(outputs):
            output.append(ids[(step + number) % len(ids)])
    return taken / len(ids) / rows


def _scanned(moderator: Moderator, streamed: Sequence[str]) -> None:
    scanner = moderator.scanner(Stage.OUTPUT)
    for piece in streamed:
        scanner.feed(piece)
    scanner.finish()


def _sketched(moderator: Moderator, streamed: Sequence[str]) -> None:
    stream = moderator.models.sketch.start(Stage.OUTPUT)
    for piece in streamed:
        stream.feed(piece)
    stream.scores()


def _streamed(moderator: Moderator, streamed: Sequence[str]) -> None:
    session = moderator.session()
    for piece in streamed:
        session.feed(piece)
    session.finish()
    if session.blocked():
        raise BlockedTextError
