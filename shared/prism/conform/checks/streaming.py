"""Streams: held back as far as needed, no further, and stopped (complaints 1 and 2)."""

from __future__ import annotations

import asyncio

from prism.conform.apis import APIS, CHAT, Api
from prism.conform.check import Checks, Failed, NotApplicable
from prism.conform.checks.common import untouched, withheld
from prism.conform.target import Target

CHECKS = Checks()
_CUTS = {
    "letters": "one character an event",
    "whole": "all of it in one event",
    "end": "at the very end, in the event that ends the answer",
    "late": "after sixty harmless pieces",
    "capitals": "in capitals",
}
_SHARE = 0.7
_SETTLE = 1.0


def _cut(name: str, how: str) -> None:
    @CHECKS.add(f"stream.{name}", (1, 2), f"a blocked phrase is not streamed: {how}")
    async def cut(target: Target) -> str:
        return withheld(target, await target.ask(CHAT, name, stream=True))


for _name, _how in _CUTS.items():
    _cut(_name, _how)


def _held(api: Api) -> None:
    @CHECKS.add(
        f"stream.held.{api.name}", (1, 2), f"{api.path}: no part of a blocked phrase goes out first"
    )
    async def held(target: Target) -> str:
        for name in ("split", "letters"):
            answer = await target.ask(api, name, stream=True)
            withheld(target, answer)
            place = answer.hint()
            if place is not None:
                raise Failed(f"a part of the phrase went out before the block, in {place}")
        return "held back from its first character on"


for _api in APIS:
    _held(_api)


@CHECKS.add("stream.flows", (1,), "a harmless stream flows, and is not kept until its end")
async def flows(target: Target) -> str:
    await target.needs_script(CHAT, True)
    answer = await target.ask(CHAT, "slow", stream=True)
    untouched(answer)
    first = answer.first_text()
    if first is None or first > answer.seconds * _SHARE:
        raise Failed("the first text came when the answer was nearly over")
    return f"first text after {first / answer.seconds:.0%} of the answer's time"


@CHECKS.add("stream.stops", (2, 6), "a blocked stream stops the engine's work")
async def stops(target: Target) -> str:
    await target.needs_script(CHAT, True)
    answer = await target.ask(CHAT, "dawdle", stream=True)
    if answer.leak() is not None:
        raise NotApplicable("the stream is not blocked")
    await asyncio.sleep(_SETTLE)
    known = await target.reached(answer.number)
    if known["ended"]:
        raise Failed("the engine wrote the answer to its end")
    await asyncio.sleep(_SETTLE)
    if (await target.reached(answer.number))["pieces"] > known["pieces"]:
        raise Failed("the engine goes on writing")
    return f"stopped after {known['pieces']} of {known['total']} events"
