"""What moderation costs: time, calls of the model, time per token (complaints 6 and 12)."""

from __future__ import annotations

import json
import statistics
import time

from prism.conform.apis import CHAT
from prism.conform.cards import CARDS, request
from prism.conform.check import Checks, Failed, NotApplicable
from prism.conform.checks.common import BLOCKED_PROMPT, refused, untouched
from prism.conform.target import Target

CHECKS = Checks()
_ROUNDS = 15
_GROWTH = 4.0
_REPEATS = 2
_ATTEMPTS = 4


@CHECKS.add("cost.calls", 6, "a harmless request costs one call of the model")
async def calls(target: Target) -> str:
    answer = await target.ask(CHAT, "harmless")
    untouched(answer)
    before = (await target.reached(answer.number))["all_requests"]
    again = await target.ask(CHAT, "harmless")
    used = (await target.reached(again.number))["all_requests"] - before
    if used != 1:
        raise Failed(f"{used} calls of the model")
    return "one call"


@CHECKS.add("cost.prompt", 6, "a blocked prompt costs no answer of the model")
async def prompt(target: Target) -> str:
    answer = await target.ask(CHAT, "hello", before=BLOCKED_PROMPT)
    refused(target, answer)
    known = await target.reached(answer.number)
    if known["ended"]:
        raise Failed("the model answered it to the end")
    return f"{known['requests']} calls of the model"


@CHECKS.add("cost.latency", 6, "a harmless request isn't held up for long")
async def latency(target: Target) -> str:
    upstream = target.options.upstream
    if upstream is None or not target.scripted:
        raise NotApplicable("needs --upstream, the scripted engine's own address")
    through, direct = [], []
    for _ in range(_ROUNDS):
        answer = await target.ask(CHAT, "hello")
        untouched(answer)
        through.append(answer.seconds)
        body = CHAT.body(request("hello", answer.number), target.model, False)
        begun = time.monotonic()
        reply = await target.client.post(upstream + CHAT.path, content=json.dumps(body))
        direct.append(time.monotonic() - begun)
        reply.raise_for_status()
    added = statistics.median(through) - statistics.median(direct)
    told = f"{added * 1000:.1f} ms added (median of {_ROUNDS})"
    if added > target.options.latency_budget:
        raise Failed(told)
    return told


@CHECKS.add("cost.growth", 12, "a token late in a stream costs no more than an early one")
async def growth(target: Target) -> str:
    """Compare streams of n and 8n pieces: constant work per piece gives 1, O(n) gives 8."""
    await target.needs_script(CHAT, True)
    ratio = each = 0.0
    for _ in range(_ATTEMPTS):
        # A busy machine can make a ratio large once; work that grows does so every time.
        each, ratio = await _growth(target)
        if 0 < ratio <= _GROWTH:
            break
    if ratio <= 0:
        raise NotApplicable("the machine is too busy to tell a short stream from none")
    told = f"{each * 1e6:.0f} µs a piece, {ratio:.1f} times that of a stream an eighth as long"
    if ratio > _GROWTH:
        raise Failed(told)
    return told


async def _growth(target: Target) -> tuple[float, float]:
    """Return seconds a piece in a long stream, and how many times a short stream's that is."""
    seconds: dict[str, float] = {}
    for _ in range(_REPEATS):
        for name in ("hello", "tiny", "long"):
            answer = await target.ask(CHAT, name, stream=True)
            untouched(answer)
            seconds[name] = min(answer.seconds, seconds.get(name, answer.seconds))
    short, long = (
        (seconds[name] - seconds["hello"]) / len(CARDS[name].choices[0].content)
        for name in ("tiny", "long")
    )
    return long, long / short if short > 0 else 0.0
