"""The token layer in the same process is told which language a request is refused in."""

from __future__ import annotations

import pytest
from asgi_client import until_live
from house import FAST
from upstream import Upstream

from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.asgi import Receive, Scope, Send
from prism.http.inprocess import call
from prism.steer import stamp

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("header", "expected"), [("de-AT, en;q=0.5", "de"), ("xx", None), (None, None)]
)
async def test_the_language_of_the_refusal(
    settings: Settings, header: str | None, expected: str | None
) -> None:
    engine, heard = Upstream(), []

    async def listening(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == CHAT:
            heard.append(stamp.language.get())
        await engine.app(scope, receive, send)

    app = PrismMiddleware(listening, settings=settings, timing=FAST)

    await until_live(app)
    await app.selftest.stop()
    heard.clear()
    body = {"model": "small", "messages": [{"role": "user", "content": "hello"}]}
    headers = {} if header is None else {"accept-language": header}
    reply = await call(app, "POST", CHAT, body, headers=headers, patience=60)
    assert reply.status == 200
    assert heard == [expected]
    assert stamp.language.get() is None
