"""Guardrails that do what was complained of, around the scripted engine: one fault each.

They judge well apart from their fault, so that a test can say which checks must find it.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Any

from prism.conform.texts import ASKED, SAID

BLOCKED = json.dumps({"error": {"message": "blocked", "type": "policy", "code": None}}).encode()
JSON_HEAD = [(b"content-type", b"application/json")]


class Guardrail:
    """Judges whole answers, prompts and streams; subclasses leave something out.

    A stream is kept until its end, which is a fault of its own: ``stream.flows`` finds it.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    def asked(self, text: str) -> bool:
        """Whether a request is blocked."""
        return re.search(rf"\b{ASKED}\b", text, re.IGNORECASE) is not None

    def said(self, text: str) -> bool:
        """Whether an answer is blocked."""
        return re.search(rf"\b{SAID}\b", joined(text), re.IGNORECASE) is not None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        # Apart from the fault of a test, what is looked at is looked at closely.
        if self.asked(body.decode()) or b'"messages":' in body.partition(b'"messages":')[2]:
            await respond(send, 400, BLOCKED)
            return
        sent = False

        async def again() -> Any:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.answer(scope, again, send, json.loads(body))

    async def answer(self, scope: Any, receive: Any, send: Any, body: Any) -> None:
        """Let the engine answer, and judge what it says."""
        head, pieces = await collect(self.app, scope, receive)
        if self.said(b"".join(pieces).decode()):
            await respond(send, 400, BLOCKED)
            return
        await send(head)
        for piece in self.out(pieces):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def out(self, pieces: list[bytes]) -> list[bytes]:
        """Return what goes out of an answer that is not blocked."""
        return pieces


class ChecksAfterSending(Guardrail):
    """Sends each piece and looks at all of them when they are gone."""

    async def answer(self, scope: Any, receive: Any, send: Any, body: Any) -> None:
        if not body.get("stream"):
            await super().answer(scope, receive, send, body)
            return
        seen = b""

        async def passed(message: Any) -> None:
            nonlocal seen
            seen += message.get("body", b"")
            if message["type"] == "http.response.body" and not message.get("more_body"):
                if self.said(seen.decode()):
                    data = b"data: " + BLOCKED + b"\n\n"
                    await send({**message, "body": data, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
                return
            await send(message)

        await self.app(scope, receive, passed)


class StreamsPass(Guardrail):
    """Moderates nothing that is streamed, and says that it did."""

    async def answer(self, scope: Any, receive: Any, send: Any, body: Any) -> None:
        if not body.get("stream"):
            await super().answer(scope, receive, send, body)
            return

        async def passed(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-applied-guardrails", b"house")]
            await send(message)

        await self.app(scope, receive, passed)


class ContentOnly(Guardrail):
    """Looks at what is called content or text and at nothing else."""

    def said(self, text: str) -> bool:
        found = re.findall(r'"(?:content|text)": ?"((?:[^"\\]|\\.)*)"', text)
        return re.search(SAID, "".join(found), re.IGNORECASE) is not None


class Substrings(Guardrail):
    """Knows no words."""

    def asked(self, text: str) -> bool:
        return ASKED in text

    def said(self, text: str) -> bool:
        return SAID in joined(text).casefold()


class LosesTheLast(Guardrail):
    """Never lets go of a piece of text that it holds when the stream ends."""

    def out(self, pieces: list[bytes]) -> list[bytes]:
        with_text = [n for n, piece in enumerate(pieces) if b'{"content": "' in piece]
        return pieces if len(with_text) < 2 else [
            piece for n, piece in enumerate(pieces) if n != with_text[-1]
        ]  # fmt: skip


class Hangs(Guardrail):
    """Waits for more when a stream has no text."""

    async def answer(self, scope: Any, receive: Any, send: Any, body: Any) -> None:
        if "card gaps" in json.dumps(body):  # a stream with pieces that are empty
            await asyncio.Event().wait()
        await super().answer(scope, receive, send, body)


class MixesStreams(Guardrail):
    """Keeps one buffer for all of its requests."""

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        self.last: list[bytes] = []

    async def answer(self, scope: Any, receive: Any, send: Any, body: Any) -> None:
        head, pieces = await collect(self.app, scope, receive)
        self.last = pieces
        await asyncio.sleep(0.01)
        if self.said(b"".join(self.last).decode()):
            await respond(send, 400, BLOCKED)
            return
        await send(head)
        await send({"type": "http.response.body", "body": b"".join(self.last)})


class ReadsAllAgain(Guardrail):
    """Judges the whole text so far for every piece, as slowly as a model does."""

    async def answer(self, scope: Any, receive: Any, send: Any, body: Any) -> None:
        seen, owed = 0, 0.0

        async def slowly(message: Any) -> None:
            nonlocal seen, owed
            seen += len(message.get("body", b""))
            owed += seen * 2e-8
            if owed > 0.01:  # waits, so that a busy machine doesn't hide the difference
                await asyncio.sleep(owed)
                owed = 0.0
            await send(message)

        await self.app(scope, receive, slowly)


class AsksTwice(Guardrail):
    """Asks the model what it thinks of the answer."""

    async def answer(self, scope: Any, receive: Any, send: Any, body: Any) -> None:
        raw = json.dumps({**body, "stream": False}).encode()

        async def again() -> Any:
            return {"type": "http.request", "body": raw, "more_body": False}

        await collect(self.app, scope, again)
        await super().answer(scope, receive, send, body)


class Obedient(Guardrail):
    """Does what the client says of guardrails."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        raw = message.get("body", b"")
        waiting = [message]

        async def first() -> Any:
            return waiting.pop() if waiting else await receive()

        if scope["method"] != "POST" or b'"guardrails": []' in raw:
            await self.app(scope, first, send)
        else:
            await super().__call__(scope, first, send)


class Logs(Guardrail):
    """Writes what it reads into its log."""

    def asked(self, text: str) -> bool:
        print(text, file=sys.stderr)
        return super().asked(text)


class Names(Guardrail):
    """Tells the client what it found."""

    async def answer(self, scope: Any, receive: Any, send: Any, body: Any) -> None:
        head, pieces = await collect(self.app, scope, receive)
        if self.said(b"".join(pieces).decode()):
            told = {"error": {"message": f"blocked: keyword '{SAID}'"}}
            await respond(send, 400, json.dumps(told).encode())
            return
        await send(head)
        await send({"type": "http.response.body", "body": b"".join(pieces)})


async def collect(app: Any, scope: Any, receive: Any) -> tuple[Any, list[bytes]]:
    """Return an answer's head and the pieces of its body."""
    messages: list[Any] = []

    async def kept(message: Any) -> None:
        messages.append(message)

    await app(scope, receive, kept)
    head = messages[0]
    head["headers"] = [pair for pair in head["headers"] if pair[0] != b"content-length"]
    return head, [message.get("body", b"") for message in messages[1:]]


async def respond(send: Any, status: int, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": JSON_HEAD})
    await send({"type": "http.response.body", "body": body})


def joined(text: str) -> str:
    """Return the strings of an answer by their keys, put together, escapes undone."""
    parts: dict[str, str] = {}
    for key, value in re.findall(r'"(\w+)": ?"((?:[^"\\]|\\.)*)"', text):
        if key not in ("type", "id", "object", "model", "item_id"):
            parts[key] = parts.get(key, "") + value
    both = "\n".join(parts.values())
    for _ in range(3):
        both = re.sub(r"\\+u([0-9a-f]{4})", lambda hit: chr(int(hit[1], 16)), both)
    return both
