"""What is kept in memory: by the engine of policies, its models, each open stream and row."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from bench.inputs import memory, policy_with, vocabulary
from bench.rows import NONE, Row
from bench.settings import Case, Settings

TITLE = "Memory"
ENGINE = False


def cases(settings: Settings) -> list[Case]:
    """Return a rehearsal, which has the kernels compiled and kept on disk, and the measurement.

    The compiler's own memory would else be counted with what it compiles.
    """
    return [{"of": "rehearsal"}, {"of": "memory"}]


def measure(settings: Settings, case: Case) -> Iterator[Row]:
    """Yield MiB that each thing adds, loaded one after the other in one process."""
    rows = _measured(settings)
    if case["of"] == "memory":
        yield from rows
    else:
        deque(rows, maxlen=0)


def _measured(settings: Settings) -> Iterator[Row]:
    held: list[Any] = []
    last = _settled()

    def added(name: str, load: Callable[[], Any]) -> Row:
        nonlocal last
        held.append(load())
        now = _settled()
        row = Row.of(name, "MiB", [max(now - last, 0.0)], clock=NONE)
        last = now
        return row

    yield Row.of("Python, NumPy and what is measured with", "MiB", [last], clock=NONE)
    yield added("the policy engine's code", _import)
    from prism.assure.costs import without_models
    from prism.classify.models import Models
    from prism.moderator import Moderator
    from prism.policy import load_policy
    from prism.steer.batch import Batch
    from prism.steer.guard import TokenGuard

    policy = load_policy(settings.policy)
    models = Models.shared()
    yield added("a policy's patterns", lambda: _used(Moderator(without_models(policy), models)))
    yield added("the sketch", lambda: models.sketch)
    yield added("the encoder", lambda: models.encoder.prompts(["a first text"]) is not None)
    moderator = Moderator(policy, models)
    count = settings.pick(1_000, 50)

    def opened() -> list[Any]:
        sessions = [moderator.session() for _ in range(count)]
        for session in sessions:
            session.feed("The market opened early ")
        return sessions

    row = added("streams", opened)
    yield Row.of("an open stream", "KiB", [row.median * 1024 / count], clock=NONE)
    yield added("a vocabulary and its keys", lambda: vocabulary(settings.model).lookups)
    guard: list[TokenGuard] = []
    words = vocabulary(settings.model)
    plain = policy_with(settings.policy, 0)
    yield added("a token guard", lambda: guard.append(TokenGuard(plain, words)))
    rows = settings.pick(256, 16)

    def decoding() -> Batch:
        batch = Batch(guard[0])
        for _ in range(rows):
            batch.row([])
        return batch

    row = added("rows", decoding)
    yield Row.of("a row that decodes", "KiB", [row.median * 1024 / rows], clock=NONE)


def _settled() -> float:
    gc.collect()
    return memory()


def _import() -> Any:
    import prism.moderator

    return prism.moderator


def _used(moderator: Any) -> Any:
    moderator.check_prompt("a first text")
    moderator.check_output("a first text")
    return moderator
