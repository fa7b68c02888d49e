"""Models that judge prompts and answers: beside the engine, off the loop, closed when they fail."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from asgi_client import Fixed, chat, said, until_live
from house import FAST
from tests.policies import policy, rule
from tests.scores import FakeEncoder, models
from upstream import chat_stream, encode

from prism.classify.models import ModelLimits
from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.asgi import Receive, Scope, Send
from prism.http.inprocess import Reply
from prism.policy.compiled import SELFTEST_PHRASE
from prism.types import Stage

HARM = rule("harm", category="harm", thresholds={Stage.PROMPT: 0.8, Stage.OUTPUT: 0.8})
CANARY = rule("canary", [SELFTEST_PHRASE])
DOUBT, HARMFUL, FINE = "[s2] [e1] hello", "[s2] [e9] hello", "hello"
STREAM = [encode(event) for event in chat_stream(["one ", "two ", "three"])]


class Engine(Fixed):
    """Says what a test gives it to say; ``asked`` counts."""

    asked = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += scope["path"] == "/v1/chat/completions"
        await super().__call__(scope, receive, send)


class Pace:
    """What an encoder does before it answers."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.reached = threading.Event()
        self.fault: Exception | None = None
        self.on = False

    def __call__(self) -> None:
        if self.on:
            self.reached.set()
            assert self.go.wait(300)  # longer than anybody waits for an answer
        if self.fault is not None:
            raise self.fault


@pytest.fixture
def pace() -> Any:
    made = Pace()
    yield made
    made.go.set()


@pytest.fixture
async def made(pace: Pace) -> AsyncIterator[Callable[..., Any]]:
    apps: list[PrismMiddleware] = []

    async def make(
        pieces: list[bytes] = STREAM, failure: str = "close", **limits: int
    ) -> tuple[PrismMiddleware, Engine]:
        compiled = policy(HARM, CANARY, tiers=("sketch", "encoder"), on_tier_failure=failure)
        settings = Settings(compiled)
        settings.__dict__["models"] = models(
            encoder=FakeEncoder(during=pace), limits=ModelLimits(**limits)
        )
        engine = Engine(pieces)
        app = PrismMiddleware(engine, settings=settings, timing=FAST)
        apps.append(app)
        await until_live(app)
        return app, engine

    yield make
    for app in apps:
        await app.selftest.stop()


def ask(app: Any, text: str, **more: Any) -> asyncio.Task[Reply]:
    return asyncio.create_task(chat(app, messages=[{"role": "user", "content": text}], **more))


async def until(happened: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_a_short_prompt_in_doubt_is_judged_beside_the_engine(made: Any, pace: Pace) -> None:
    app, engine = await made()
    pace.on = True
    asked = ask(app, DOUBT)
    await until(lambda: pace.reached.is_set() and engine.asked)
    assert said(await ask(app, FINE))[0] == "one two three"  # nobody else has to wait
    assert not asked.done()
    pace.go.set()
    reply = await asked
    assert said(reply) == ("one two three", "stop")
    receipt = json.loads(reply.body.split(b": prism-receipt ")[1].split(b"\n")[0])
    assert receipt["tiers"]["prompt.encoder"] == "ran"


@pytest.mark.parametrize("stream", [True, False])
async def test_its_verdict_takes_the_answers_place(made: Any, stream: bool) -> None:
    app, engine = await made()
    reply = await ask(app, HARMFUL, stream=stream)
    assert b"content_filter" in reply.body
    assert b"three" not in reply.body
    assert engine.asked == 1


@pytest.mark.parametrize("fault", ["raises", "hangs"])
@pytest.mark.parametrize("failure", ["close", "open"])
async def test_a_tier_that_fails_on_a_prompt(
    made: Any, pace: Pace, fault: str, failure: str
) -> None:
    app, _ = await made(failure=failure, deadline_ms=200)
    if fault == "raises":
        pace.fault = RuntimeError("torn")
    else:
        pace.on = True
    reply = await ask(app, DOUBT)
    text, reason = said(reply)
    if failure == "open":
        assert (text, reason) == ("one two three", "stop")
    else:
        assert reason == "content_filter"
        assert "three" not in text
    receipt = json.loads(reply.body.split(b": prism-receipt ")[1].split(b"\n")[0])
    assert receipt["tiers"]["prompt.encoder"] == "failed"


@pytest.mark.parametrize("fault", ["raises", "hangs"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_tier_that_fails_on_an_answer(
    made: Any, pace: Pace, fault: str, stream: bool
) -> None:
    words = ["[s2] [e1] ", *(["so it goes on "] * 200)]
    pieces = [encode(event) for event in chat_stream(words)]
    app, engine = await made(pieces, deadline_ms=200)
    if not stream:
        engine.kind = "application/json"
        row = {"index": 0, "message": {"role": "assistant", "content": "".join(words)}}
        engine.pieces = [json.dumps({"choices": [{**row, "finish_reason": "stop"}]}).encode()]
    if fault == "raises":
        pace.fault = RuntimeError("torn")
    else:
        pace.on = True
    reply = await ask(app, FINE, stream=stream)
    assert b"content_filter" in reply.body
    assert b"[s2]" not in reply.body


async def test_the_loop_goes_on_while_an_answer_waits_for_a_model(made: Any, pace: Pace) -> None:
    words = ["[s2] [e1] ", *(["so it goes on "] * 200)]
    app, engine = await made([encode(event) for event in chat_stream(words)])
    pace.on = True
    asked = ask(app, FINE)
    await until(pace.reached.is_set)
    engine.pieces = STREAM
    assert said(await ask(app, FINE))[0] == "one two three"
    assert not asked.done()
    pace.go.set()
    assert said(await asked) == ("".join(words), "stop")


async def test_models_without_room_turn_prompts_away(made: Any, pace: Pace) -> None:
    app, engine = await made(workers=1, waiting=0)
    pace.on = True
    first = ask(app, DOUBT)
    await until(pace.reached.is_set)
    second = await ask(app, DOUBT)
    assert (second.status, second.json()["error"]["code"]) == (503, "judges_busy")
    assert second.headers["retry-after"] == "1"
    assert b"three" not in second.body
    body = await chat(app, messages=[{"role": "user", "content": FINE}])
    assert said(body)[0] == "one two three"
    pace.go.set()
    assert said(await first)[1] == "stop"
    assert engine.asked == 3
