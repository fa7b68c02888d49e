"""How the cost of a token depends on how many were said before it: it must not.

The same 512 tokens are said over and over, so that what is compared is the same text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.host import WARM, Host
from bench.inputs import blocks, policy_with, recorded, vocabulary
from bench.rows import Row
from bench.settings import Case, Settings
from prism.assure.costs import timed, without_models
from prism.classify.cascade import SKETCH
from prism.moderator import Moderator
from prism.policy import load_policy

TITLE = "Growth with the length of an output"
ENGINE = False
_WINDOW = 512
_BLOCK = 32


def cases(settings: Settings) -> list[Case]:
    """Return the two layers."""
    return [{"layer": "token"}, {"layer": "text"}]


def measure(settings: Settings, case: Case) -> Iterator[Row]:
    """Yield µs per token among the last 512 of an output of each length."""
    lengths = settings.counts((1_024, 8_192, 32_768), (128, 256))
    window = settings.pick(_WINDOW, 64)
    run = _token_layer if case["layer"] == "token" else _text_layer
    yield from run(settings, lengths, window)


def _token_layer(settings: Settings, lengths: tuple[int, ...], window: int) -> Iterator[Row]:
    rows = settings.pick(16, 4)
    host = Host(settings.model, policy_with(settings.policy, 0), rows)
    times = -(-(lengths[-1] + WARM) // window)
    texts = [text * times for text in recorded(settings.model, rows, window)]
    _, cpu = host.drive(texts)
    for length in lengths:
        values = [value / rows for value in cpu[length - window : length]]
        yield Row.of(
            "token layer",
            "µs per token and row",
            blocks(values, _BLOCK),
            at={"tokens": length, "batch": rows},
        )


def _text_layer(settings: Settings, lengths: tuple[int, ...], window: int) -> Iterator[Row]:
    policy = load_policy(settings.policy)
    words = vocabulary(settings.model)
    (ids,) = recorded(settings.model, 1, window)
    said = [words.bytes_of([token]).decode("utf-8", "replace") for token in ids]
    pieces = said * (lengths[-1] // window)
    ways = {"session, patterns only": Moderator(without_models(policy))}
    if policy.tiers.get(SKETCH) == "on":
        # The encoder's calls, milliseconds each, depend on the text and not on its length.
        ways["session, patterns and sketch"] = Moderator(replace(policy, tiers={SKETCH: "on"}))
    for name, moderator in ways.items():
        _say(moderator, pieces[:64], 8)
        values = _say(moderator, pieces, _BLOCK)
        for length in lengths:
            last = values[(length - window) // _BLOCK : length // _BLOCK]
            yield Row.of(name, "µs per token", last, at={"tokens": length})


def _say(moderator: Moderator, pieces: list[str], block: int) -> list[float]:
    """Stream ``pieces``; return microseconds per piece, block by block."""
    session = moderator.session()
    values = []
    for start in range(0, len(pieces), block):
        some = pieces[start : start + block]
        taken = timed(lambda some=some: [session.feed(piece) for piece in some])  # type: ignore[misc]
        values.append(taken.cpu * 1e6 / len(some))
    if session.blocked():
        raise SystemExit("the text was blocked: what followed cost nothing")
    return values
