"""Many at once: no stream may be mixed with another, or lose its moderation (complaint 7)."""

from __future__ import annotations

import asyncio

from prism.conform.answer import Answer
from prism.conform.apis import CHAT
from prism.conform.check import Checks, Failed, NotApplicable
from prism.conform.checks.common import BLOCKED_PROMPT, refused, untouched
from prism.conform.target import Target, Voice

CHECKS = Checks()
_MANY, _FEW = 48, 4


@CHECKS.add("concurrent.streams", 7, "streams at the same time keep to themselves")
async def streams(target: Target) -> str:
    scripted = await target.voice(CHAT, True) is Voice.SCRIPT
    wanted = _MANY if scripted else _FEW
    names = ["slow" if scripted else "harmless", "split", "letters", "harmless"]
    alone = {name: await target.ask(CHAT, name, stream=True) for name in set(names)}
    right = {name for name, answer in alone.items() if _right(answer, name)}
    if not right:
        raise NotApplicable("no stream is right by itself")
    asked = [names[number % len(names)] for number in range(wanted)]
    answers = await asyncio.gather(*(target.ask(CHAT, name, stream=True) for name in asked))
    numbers = {answer.number for answer in answers}
    for name, answer in zip(asked, answers, strict=True):
        if any(number in answer.content() for number in numbers - {answer.number}):
            raise Failed("a stream has text of another's")
        if name in right and not _right(answer, name):
            raise Failed("a stream that is right by itself is wrong beside others")
    return f"{wanted} streams, each its own"


def _right(answer: Answer, name: str) -> bool:
    if name in ("split", "letters"):
        return answer.leak() is None
    return answer.ok and answer.content() == answer.expected


@CHECKS.add("concurrent.prompts", 7, "blocked and harmless prompts at the same time")
async def prompts(target: Target) -> str:
    wanted = _MANY if target.scripted else _FEW
    answers = await asyncio.gather(
        *(
            target.ask(CHAT, "hello", before=BLOCKED_PROMPT if number % 2 else "")
            for number in range(wanted)
        )
    )
    for number, answer in enumerate(answers):
        if number % 2:
            refused(target, answer)
        else:
            untouched(answer)
    return f"{wanted} requests, each judged by itself"
