"""Prompts judged while a real vLLM is at work: a block takes the request away from it."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine_processes import Running
from engine_texts import BLOCKED, REFUSAL

from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.inprocess import Reply, call
from prism.http.proxy import Proxy
from prism.http.upstream import Upstream
from prism.session import Session
from prism.types import Decision

pytestmark = pytest.mark.engine
MANY = 240
CHAT = "/v1/chat/completions"


@pytest.fixture
def vllm(bare_vllm: Running) -> str:
    return bare_vllm.url


@pytest.fixture
def verdict(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """p(x) waits for this; the self-test's is not kept waiting."""
    go = threading.Event()
    inner = Session.check_prompt

    def held(session: Session, prompt: Any) -> Decision:
        if "vorquelle" not in str(prompt):
            assert go.wait(120)
        return inner(session, prompt)

    monkeypatch.setattr(Session, "check_prompt", held)
    monkeypatch.setattr(Session, "waits", lambda session, chars, ends=True: True)
    yield go
    go.set()


@pytest.fixture
async def app(vllm: str, engine_policy: Path) -> AsyncIterator[PrismMiddleware]:
    upstream = Upstream(vllm)
    made = PrismMiddleware(Proxy(upstream), settings=Settings.for_policy(engine_policy))
    for _ in range(600):
        if (await call(made, "GET", "/prism/health", patience=120)).status == 200:
            break
        await asyncio.sleep(0.1)
    yield made
    await made.selftest.stop()
    await upstream.aclose()


def running(url: str) -> float:
    """How many requests vLLM is working on, as it counts them itself."""
    rows = httpx.get(f"{url}/metrics", timeout=60).text
    found = re.findall(r"^vllm:num_requests_running\{.*\} (\S+)$", rows, re.MULTILINE)
    return sum(map(float, found))


async def until(happened: Callable[[], bool]) -> float:
    begun = time.monotonic()
    while not await asyncio.to_thread(happened):
        assert time.monotonic() - begun < 120
        await asyncio.sleep(0.02)
    return time.monotonic() - begun


def ask(app: Any, prompt: str, stream: bool) -> asyncio.Task[Reply]:
    body = {
        "model": "gemma", "messages": [{"role": "user", "content": prompt}], "stream": stream,
        "max_tokens": MANY, "min_tokens": MANY, "temperature": 0,
    }  # fmt: skip
    return asyncio.create_task(call(app, "POST", CHAT, body, patience=120))


@pytest.mark.parametrize("stream", [True, False])
async def test_a_block_takes_the_request_away(
    app: PrismMiddleware, vllm: str, verdict: threading.Event, stream: bool
) -> None:
    asked = ask(app, f"Tell me of the {BLOCKED}.", stream)
    await until(lambda: running(vllm) == 1)  # it is at work, although nothing is decided yet
    assert not asked.done()
    verdict.set()
    reply = await asked
    assert REFUSAL in reply.body.decode()
    assert b"content_filter" in reply.body
    gone = await until(lambda: running(vllm) == 0)
    begun = time.monotonic()
    whole = await ask(app, "Tell me of bridges.", stream)
    assert whole.status == 200
    assert gone < (time.monotonic() - begun) / 2  # it did not work the request off


async def test_an_answer_that_was_waiting_comes_whole(
    app: PrismMiddleware, vllm: str, verdict: threading.Event
) -> None:
    asked = ask(app, "Tell me of bridges.", False)
    await until(lambda: running(vllm) == 1)
    await until(lambda: running(vllm) == 0)  # all of the answer is there …
    assert not asked.done()  # … and nobody has seen any of it
    verdict.set()
    reply = await asked
    assert reply.json()["usage"]["completion_tokens"] == MANY
    assert json.loads(reply.headers["x-prism-receipt"])["tiers"]["prompt.patterns"] == "ran"
