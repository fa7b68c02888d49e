"""However a stream is cut up, it ends, and all of it comes out (complaint 10)."""

from __future__ import annotations

from prism.conform.apis import CHAT
from prism.conform.check import Checks, Failed
from prism.conform.checks.common import untouched
from prism.conform.target import Target

CHECKS = Checks()
_STREAMS = {
    "half": "a stream that ends in half a blocked phrase",
    "unicode": "characters of several code points, cut up",
    "gaps": "events without text among others",
    "long": "two thousand four hundred pieces",
}


def _whole(name: str, how: str) -> None:
    @CHECKS.add(f"chunks.{name}", 10, f"all of it comes out: {how}")
    async def whole(target: Target) -> str:
        if name == "long":
            await target.needs_script(CHAT, True)
        return untouched(await target.ask(CHAT, name, stream=True))


for _name, _how in _STREAMS.items():
    _whole(_name, _how)


@CHECKS.add("chunks.empty", 10, "a stream without any text ends")
async def empty(target: Target) -> str:
    await target.needs_script(CHAT, True)
    answer = await target.ask(CHAT, "empty", stream=True)
    if not answer.ok or answer.broken:
        raise Failed(f"answered {answer.status}{', broken off' * answer.broken}")
    if answer.content():
        raise Failed("text came out of nowhere")
    return "ended, without text"
