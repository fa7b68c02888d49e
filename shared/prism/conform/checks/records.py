"""What the server says and keeps about its answers (complaints 3 and 11)."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

from prism.conform.apis import CHAT
from prism.conform.check import Checks, Failed, NotApplicable
from prism.conform.checks.common import BLOCKED_PROMPT
from prism.conform.target import Target
from prism.conform.texts import ASKED, SAID

CHECKS = Checks()
_FLUSHED = 2.0


@CHECKS.add("records.claims", 3, "no answer that leaked claims to have been moderated")
async def claims(target: Target) -> str:
    if target.claims:
        raise Failed(f"{target.leaks} answers leaked, with {', '.join(sorted(target.claims))}")
    if target.leaks:
        raise NotApplicable(f"{target.leaks} answers leaked, but none of them claims anything")
    return "nothing leaked"


@CHECKS.add("records.names", 11, "a block doesn't tell its client the phrase that was found")
async def names(target: Target) -> str:
    found = []
    for stream in (False, True):
        for phrase, card, before in ((ASKED, "hello", BLOCKED_PROMPT), (SAID, "split", "")):
            answer = await target.ask(CHAT, card, stream=stream, before=before)
            place = answer.named(phrase)
            if place is not None:
                found.append(place)
    if found:
        raise Failed(f"the phrase is named in {', '.join(sorted(set(found)))}")
    return "no error names it"


@CHECKS.add("records.log", 11, "no prompt and no answer is in the server's log")
async def log(target: Target) -> str:
    path = target.options.log
    if path is None:
        raise NotApplicable("needs --log, the server's log file")
    said = secrets.token_hex(8)
    await target.ask(CHAT, "hello", before=f"{BLOCKED_PROMPT}My name is {said}. ")
    await target.ask(CHAT, "hello", before=f"My name is {said}. ")
    cut = await target.ask(CHAT, "split")
    whole = await target.ask(CHAT, "harmless")
    await asyncio.sleep(_FLUSHED)
    text = await asyncio.to_thread(Path(path).read_text, "utf-8", "replace")
    # Put together again if the log breaks its lines, or writes JSON within JSON.
    text = " ".join(text.replace("\\n", " ").split())
    marks = {
        "prompts": said,
        "harmless answers": whole.expected,
        "withheld answers": cut.expected,
    }
    found = [what for what, mark in marks.items() if mark in text]
    if found:
        raise Failed(f"the log has {', '.join(found)}")
    return f"{len(text)} characters of log, none of ours"
