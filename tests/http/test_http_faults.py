"""Clients and engines that break off, pile up or hang: the others never notice."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import anyio
import openai
import pytest
from house import FAST, MESSAGE
from serving import healthy, http, served
from upstream import Upstream, chat_body, chat_stream, text_stream

from prism.config import Limits, Settings
from prism.http import PrismMiddleware
from prism.http.errors import Unavailable
from prism.http.pool import INLINE, Pool
from prism.session import Session

CHAT: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "hello"}]}


def until(happened: Any, wait: float = 60) -> None:
    deadline = time.monotonic() + wait
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def send_and_leave(url: str, body: dict[str, Any], *, read: int) -> bytes:
    host, _, port = url.removeprefix("http://").partition(":")
    content = json.dumps(body).encode()
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(content) + content
        )
        got = b""
        while len(got) < read:
            got += connection.recv(4096)
        return got


def test_a_client_that_leaves_a_stream_stops_the_engine(url: str, upstream: Upstream) -> None:
    name = upstream.say("left", stream=chat_stream(["word "] * 500), pause=0.02)
    send_and_leave(url, {**CHAT, "model": name, "stream": True}, read=600)
    until(lambda: name in upstream.cancelled)
    assert upstream.sent[name] < 250
    assert http.post(f"{url}/v1/chat/completions", json=CHAT).status_code == 200


def test_a_client_that_leaves_before_the_answer_stops_the_engine(
    url: str, upstream: Upstream
) -> None:
    name = upstream.say("hang", body=chat_body("never"), hang=True)
    send_and_leave(url, {**CHAT, "model": name}, read=0)
    until(lambda: name in upstream.cancelled)


def test_a_block_stops_the_engine(client: openai.OpenAI, upstream: Upstream) -> None:
    pieces = ["so ", "marzipan ", "gasket ", *["and on "] * 500]
    name = upstream.say("long", stream=chat_stream(pieces), pause=0.02)
    chunks = list(
        client.chat.completions.create(model=name, messages=CHAT["messages"], stream=True)
    )
    assert chunks[-1].choices[0].finish_reason == "content_filter"
    until(lambda: name in upstream.cancelled)
    assert upstream.sent[name] < 100


def test_an_engine_that_breaks_in_mid_stream_is_an_error_to_its_client_alone(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    name = upstream.say("broken", stream=chat_stream(["some ", "text"]), fail_after=2)
    with pytest.raises(openai.APIError, match="engine failed"):
        list(client.chat.completions.create(model=name, messages=CHAT["messages"], stream=True))
    assert client.chat.completions.create(**CHAT).choices[0].message.content == "fine"


def test_fifty_streams_at_once_are_never_mixed(url: str, upstream: Upstream) -> None:
    count = 50
    for number in range(count):
        words = [f"w{number}-{place} " for place in range(20)]
        if number % 5 == 0:
            words[10:10] = ["zeph", "yr lant", "ern "]
        upstream.say(f"c{number}", stream=chat_stream(words), pause=0.002)

    async def one(client: openai.AsyncOpenAI, number: int) -> tuple[str, str | None]:
        stream = await client.chat.completions.create(
            model=f"c{number}", messages=CHAT["messages"], stream=True
        )
        text, reason = "", None
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            reason = chunk.choices[0].finish_reason or reason
        return text, reason

    async def every() -> list[tuple[str, str | None]]:
        async with openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="unused", max_retries=0
        ) as client:
            return list(await asyncio.gather(*(one(client, n) for n in range(count))))

    for number, (text, reason) in enumerate(asyncio.run(every())):
        whole = "".join(f"w{number}-{place} " for place in range(20))
        cut = "".join(f"w{number}-{place} " for place in range(10))
        expected = (cut, "content_filter") if number % 5 == 0 else (whole, "stop")
        assert (text, reason) == expected


def test_broken_and_whole_requests_side_by_side(url: str) -> None:
    results: list[int] = []

    def good() -> None:
        for _ in range(10):
            results.append(http.post(f"{url}/v1/chat/completions", json=CHAT).status_code)

    def bad() -> None:
        headers = {"content-type": "application/json"}
        for content in (b"{", b"\xff", b"x" * 150_000, b"[" * 9000, b""):
            reply = http.post(f"{url}/v1/chat/completions", content=content, headers=headers)
            assert reply.status_code in (400, 413)
            send_and_leave(url, {**CHAT, "stream": True}, read=0)

    threads = [threading.Thread(target=work) for work in (good, bad, good, bad)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [200] * 20


@pytest.fixture(scope="module")
def roomy(upstream: Upstream, settings: Settings) -> Iterator[tuple[str, PrismMiddleware]]:
    limits = Limits(max_body_bytes=4_000_000, max_prompt_chars=3_000_000)
    app = PrismMiddleware(upstream.app, settings=Settings(settings.policy, limits), timing=FAST)
    with served(app) as base:
        healthy(base)
        yield base, app


def test_a_megabyte_is_judged_while_others_are_served(
    roomy: tuple[str, PrismMiddleware], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = roomy
    here, go = threading.Event(), threading.Event()
    inner = Session.check_prompt
    threads: set[str] = set()

    def slow(self: Session, prompt: Any) -> Any:
        if sum(len(m["content"]) for m in prompt) > INLINE:
            threads.add(threading.current_thread().name)
            here.set()
            go.wait(60)
        return inner(self, prompt)

    monkeypatch.setattr(Session, "check_prompt", slow)
    big = {"model": "small", "prompt": "lorem ipsum " * 100_000 + "zephyr lantern"}
    replies: list[Any] = []
    worker = threading.Thread(
        target=lambda: replies.append(http.post(f"{url}/v1/completions", json=big, timeout=60))
    )
    worker.start()
    assert here.wait(60)
    assert http.post(f"{url}/v1/chat/completions", json=CHAT).status_code == 200
    assert not replies
    go.set()
    worker.join()
    assert replies[0].json()["choices"][0]["text"] == MESSAGE
    assert all("AnyIO" in name for name in threads)


def test_full_judges_turn_requests_away(
    roomy: tuple[str, PrismMiddleware], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, app = roomy
    monkeypatch.setattr(app._server, "pool", Pool(workers=1, waiting=0))
    begun, go = threading.Event(), threading.Event()
    inner = Session.check_prompt

    def stuck(self: Session, prompt: Any) -> Any:
        if sum(len(m["content"]) for m in prompt) > INLINE:
            begun.set()
            go.wait(60)
        return inner(self, prompt)

    monkeypatch.setattr(Session, "check_prompt", stuck)
    big = {"model": "small", "prompt": "lorem ipsum " * 1000}
    replies: list[Any] = []
    worker = threading.Thread(
        target=lambda: replies.append(http.post(f"{url}/v1/completions", json=big, timeout=60))
    )
    worker.start()
    assert begun.wait(60)
    turned_away = http.post(f"{url}/v1/completions", json=big)
    small = http.post(f"{url}/v1/chat/completions", json=CHAT)
    go.set()
    worker.join()
    assert turned_away.status_code == 503
    assert turned_away.json()["error"]["code"] == "judges_busy"
    assert turned_away.headers["retry-after"] == "1"
    assert small.status_code == 200
    assert replies[0].status_code == 200


async def test_an_answer_that_has_begun_waits_for_a_judge() -> None:
    pool = Pool(workers=1, waiting=0)
    order: list[str] = []

    async def one(name: str) -> None:
        await pool.run(INLINE + 1, lambda: (time.sleep(0.05), order.append(name)), patient=True)

    async with anyio.create_task_group() as tasks:
        for name in "abc":
            tasks.start_soon(one, name)
        await anyio.sleep(0.01)
        with pytest.raises(Unavailable):
            await pool.run(INLINE + 1, lambda: None)
        assert await pool.run(INLINE, lambda: "at once") == "at once"
    assert sorted(order) == ["a", "b", "c"]


@pytest.mark.parametrize("word", [True, False], ids=["it says so", "it fails"])
async def test_the_engine_sees_the_client_go_and_is_then_cancelled(
    settings: Settings, word: bool
) -> None:
    """An engine that never looks whether its client is there is cancelled after a while."""
    from asgi_client import Fixed, until_live

    from prism.http.asgi import Message, Receive, Scope, Send

    ended: list[str] = []

    class Deaf(Fixed):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] != "/v1/chat/completions":
                await super().__call__(scope, receive, send)
                return
            try:
                await anyio.sleep(60)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

    app = PrismMiddleware(Deaf([]), settings=settings, timing=FAST)
    await until_live(app)
    body = json.dumps(CHAT).encode()
    messages: list[Message] = [
        {"type": "http.request", "body": body[:10], "more_body": True},
        {"type": "http.request", "body": body[10:], "more_body": False},
        *([{"type": "http.disconnect"}] if word else ()),
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions",
        "headers": [(b"content-type", b"application/json")],
    }  # fmt: skip
    with anyio.fail_after(60):
        await app(scope, receive, send)
    await app.selftest.stop()
    assert ended == ["cancelled"]
    assert sent == []
    assert b'outcome="client_gone"' in app.metrics.render()


def test_background_tasks_of_the_engine_outlive_its_answer(settings: Settings) -> None:
    from starlette.background import BackgroundTask
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    done: list[str] = []

    async def later() -> None:
        await asyncio.sleep(1.5)
        done.append("later")

    async def answer(request: Any) -> Any:
        return JSONResponse(chat_body("hi"), background=BackgroundTask(later))

    engine = Upstream()
    engine.app.router.routes.insert(0, Route("/v1/chat/completions", answer, methods=["POST"]))
    with served(PrismMiddleware(engine.app, settings=settings, timing=FAST)) as url:
        healthy(url)
        assert http.post(f"{url}/v1/chat/completions", json=CHAT).status_code == 200
        until(lambda: done == ["later"])


def test_a_slow_reader_slows_the_engine_and_not_the_others(url: str, upstream: Upstream) -> None:
    # 40 MB: several times what the sockets on the way take up before anybody reads.
    name = upstream.say("flood", stream=text_stream(["word " * 2000] * 4000))
    host, _, port = url.removeprefix("http://").partition(":")
    content = json.dumps({"model": name, "prompt": "hi", "stream": True}).encode()
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(content) + content
        )
        connection.recv(1000)
        assert http.post(f"{url}/v1/chat/completions", json=CHAT).status_code == 200
        sent = -1
        while upstream.sent[name] != sent:
            sent = upstream.sent[name]
            time.sleep(1)
        assert sent < 4000
