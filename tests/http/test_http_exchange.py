"""The engine's application runs in a task of its own, and is as good as the request's."""

from __future__ import annotations

import asyncio
import json
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from asgi_client import Fixed, until_live
from house import FAST

from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.asgi import Message, Receive, Scope, Send

WHO: ContextVar[str] = ContextVar("WHO")
SCOPE: Scope = {
    "type": "http", "method": "POST", "path": "/v1/chat/completions",
    "headers": [(b"content-type", b"application/json")],
}  # fmt: skip
BODY = json.dumps({"model": "small", "messages": [{"role": "user", "content": "hello"}]}).encode()


class Waiting(Fixed):
    """An engine that tells who asks, and answers never; it takes a while to put its things away."""

    def __init__(self) -> None:
        super().__init__([])
        self.begun = asyncio.Event()
        self.told: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != SCOPE["path"]:
            await super().__call__(scope, receive, send)
            return
        self.told.append(WHO.get("nobody"))
        self.begun.set()
        try:
            await anyio.sleep(3600)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
            self.told.append("gone")


async def _asked(app: Any) -> list[Message]:
    messages: list[Message] = [{"type": "http.request", "body": BODY, "more_body": False}]
    sent: list[Message] = []

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await anyio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    WHO.set("the server's own")
    await app(dict(SCOPE), receive, send)
    return sent


@pytest.mark.parametrize("by", ["task", "scope"])
async def test_a_request_that_its_server_cancels_takes_the_engine_with_it(
    settings: Settings, by: str
) -> None:
    engine = Waiting()
    app = PrismMiddleware(engine, settings=settings, timing=FAST)
    await until_live(app)
    with anyio.fail_after(60):
        if by == "task":
            request = asyncio.create_task(_asked(app))
            await engine.begun.wait()
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
        else:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_asked, app)
                await engine.begun.wait()
                tasks.cancel_scope.cancel()
    # It has ended before the request has: nothing of it is left running.
    assert engine.told == ["the server's own", "gone"]
    await app.selftest.stop()


async def test_what_an_engine_raises_reaches_nobody_and_nothing_else(settings: Settings) -> None:
    class Failing(Fixed):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == SCOPE["path"]:
                raise RuntimeError("zephyr lantern")
            await super().__call__(scope, receive, send)

    app = PrismMiddleware(Failing([]), settings=settings, timing=FAST)
    await until_live(app)
    with anyio.fail_after(60):
        head, body = await _asked(app)
    assert head["status"] == 502
    assert b"zephyr" not in body["body"]
    await app.selftest.stop()
