"""Every API, streamed and not: prompts, outputs, and harmless texts (complaints 3 and 4)."""

from __future__ import annotations

from prism.conform.apis import APIS, Api
from prism.conform.check import Checks
from prism.conform.checks.common import BLOCKED_PROMPT, marked, refused, untouched, withheld
from prism.conform.target import Target

CHECKS = Checks()


def _of(api: Api, stream: bool) -> None:
    place = f"{api.name}.{'stream' if stream else 'whole'}"
    how = f"{api.path}{', streamed' if stream else ''}"
    about = (4,) if api.name in ("responses", "messages") else (1, 3) if stream else (3,)

    @CHECKS.add(f"{place}.prompt", about, f"{how}: a blocked prompt is not answered")
    async def prompt(target: Target) -> str:
        answer = await target.ask(api, "hello", stream=stream, before=BLOCKED_PROMPT)
        return refused(target, answer)

    @CHECKS.add(f"{place}.output", about, f"{how}: a blocked phrase is not said")
    async def output(target: Target) -> str:
        return withheld(target, await target.ask(api, "split", stream=stream))

    @CHECKS.add(f"{place}.marked", (3,), f"{how}: a block tells the client's program so")
    async def mark(target: Target) -> str:
        return marked(await target.ask(api, "split", stream=stream))

    @CHECKS.add(f"{place}.harmless", (10,), f"{how}: a harmless answer comes out as it is")
    async def harmless(target: Target) -> str:
        return untouched(await target.ask(api, "harmless", stream=stream))


for _api in APIS:
    for _stream in (False, True):
        _of(_api, _stream)
