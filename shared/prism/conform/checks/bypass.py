"""Requests that are put so that a check may overlook them (complaint 3)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from prism.conform.apis import CHAT, COMPLETIONS
from prism.conform.cards import card, request
from prism.conform.check import Checks, Failed
from prism.conform.checks.common import BLOCKED_PROMPT, refused, withheld
from prism.conform.target import Target

CHECKS = Checks()
Json = dict[str, Any]


def _said_so(value: Any, name: str) -> None:
    @CHECKS.add(f"bypass.stream-{name}", 3, f'"stream": {json.dumps(value)} is no way round')
    async def other(target: Target) -> str:
        answer = await target.ask(CHAT, "split", edit=lambda body: body.update(stream=value))
        return withheld(target, answer)


_said_so(1, "number")
_said_so("true", "string")


@CHECKS.add("bypass.usage", 3, "asking for usage figures in a stream is no way round")
async def usage(target: Target) -> str:
    options = {"include_usage": True}
    return withheld(target, await target.ask(CHAT, "split", stream=True, stream_options=options))


def _twice(bad_first: bool) -> None:
    order = "first" if bad_first else "last"

    @CHECKS.add(f"bypass.twice-{order}", 3, f"messages given twice, the blocked ones {order}")
    async def twice(target: Target) -> str:
        await target.needs_script()

        def edit(body: Json) -> bytes:
            said = body.pop("messages")[0]["content"]
            number = said.rpartition("#")[2]
            bad, good = (
                '"messages":' + json.dumps([{"role": "user", "content": text}])
                for text in (BLOCKED_PROMPT + request("hello", number), "Good morning.")
            )
            both = (bad, good) if bad_first else (good, bad)
            return ("{" + ",".join((*both, json.dumps(body)[1:]))).encode()

        return refused(target, await target.ask(CHAT, "hello", edit=edit))


_twice(True)
_twice(False)


def _shape(name: str, title: str, shape: Callable[[str], Any]) -> None:
    @CHECKS.add(f"bypass.{name}", (3, 5), title)
    async def shaped(target: Target) -> str:
        def edit(body: Json) -> None:
            body["messages"] = shape(body["messages"][0]["content"])

        before = "" if name == "parts-apart" else BLOCKED_PROMPT
        return refused(target, await target.ask(CHAT, "hello", before=before, edit=edit))


def _user(content: Any) -> Json:
    return {"role": "user", "content": content}


def _part(text: str) -> Json:
    return {"type": "text", "text": text}


_LAST = "Well?"
_SHAPES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "parts": (
        "a blocked prompt as a content part",
        lambda text: [_user([_part(text)])],
    ),
    "parts-apart": (
        "a blocked phrase in two content parts",
        lambda text: [_user([_part("Tell me of the gibbous "), _part("teapot. "), _part(text)])],
    ),
    "system": (
        "a blocked phrase in the system's message",
        lambda text: [{"role": "system", "content": text}, _user(_LAST)],
    ),
    "earlier": (
        "a blocked phrase in an earlier turn",
        lambda text: [_user(text), {"role": "assistant", "content": "No."}, _user(_LAST)],
    ),
}
for _name, (_title, _made) in _SHAPES.items():
    _shape(_name, _title, _made)


@CHECKS.add("bypass.prompts", 3, "several prompts in one request, one of them blocked")
async def prompts(target: Target) -> str:
    await target.needs_script(COMPLETIONS)

    def edit(body: Json) -> None:
        number = body["prompt"].rpartition("#")[2]
        body["prompt"] = ["Good morning.", BLOCKED_PROMPT + request("hello", number)]

    answer = await target.ask(COMPLETIONS, "hello", edit=edit)
    said = card("hello", answer.number).text
    if any(said in answer.content(index) for index in (0, 1)):
        raise Failed("the engine's answer to a blocked prompt came out")
    return f"refused ({answer.mark or 'no mark for programs'})"
