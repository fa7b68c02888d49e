"""The token layer's kernels, each by itself: what a step is made of."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.host import WARM
from bench.inputs import recorded, vocabulary
from prism.policy.compiled import CompiledPolicy
from prism.steer.guard import TokenGuard
from prism.steer.scores import ScoreStates
from prism.steer.state import States


def drive(model: str, policy: CompiledPolicy, rows: int, length: int) -> dict[str, list[float]]:
    """Have ``rows`` rows say recorded texts; return CPU µs per token and row, step by step.

    ``feed`` reads a token for the phrases, ``mask`` finds what the next may not be, ``scores``
    reads it for the sketch, where the policy watches scores.
    """
    texts = np.array(recorded(model, rows, length + WARM), np.int64).T
    words = vocabulary(model)
    guard = TokenGuard.compile(policy, words)
    states, slots = States(guard.output, rows), np.arange(rows, dtype=np.int64)
    for slot in range(rows):
        states.begin(slot)
    work: dict[str, Callable[[NDArray[np.int64]], Any]] = {
        "feed": lambda tokens: states.feed(words, slots, tokens),
        "mask": lambda tokens: guard.banned(states, slots),
    }
    if guard.scores is not None:
        scores = ScoreStates(guard.scores, rows)
        work["scores"] = lambda tokens: scores.feed(slots, tokens)
    taken: dict[str, list[float]] = {name: [] for name in work}
    for tokens in texts:
        for name, done in work.items():
            used = time.process_time()
            done(tokens)
            taken[name].append((time.process_time() - used) * 1e6 / rows)
    return {name: values[WARM:] for name, values in taken.items()}
