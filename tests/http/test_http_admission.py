"""The prompt is judged while the engine is at work; nothing of its answer goes out before that.

The prompts here are long enough to be judged beside the engine, unless a test says otherwise.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import httpx
import pytest
from asgi_client import Fixed, events, said, until_live
from house import FAST, MESSAGE
from raw import Connection, Raw
from serving import serving
from upstream import chat_body, chat_stream, encode, text_body

from prism.config import Limits, Settings
from prism.http import PrismMiddleware
from prism.http.asgi import Message, Receive, Scope, Send
from prism.http.errors import Unavailable
from prism.http.inprocess import Reply, call
from prism.http.pool import INLINE, Pool
from prism.http.proxy import Proxy
from prism.http.upstream import Timeouts, Upstream
from prism.session import Session
from prism.types import Decision

LONG = "lorem ipsum " * (INLINE // 6)
BAD = f"{LONG} zephyr lantern"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
STREAM = b"".join(encode(event) for event in chat_stream(["one ", "two ", "three"]))


class Engine(Fixed):
    """Says ``pieces``, or does what ``act`` does, and notes what became of the call."""

    def __init__(
        self,
        pieces: Any = (STREAM,),
        kind: str = "text/event-stream",
        status: int = 200,
        act: Callable[[Send], Any] | None = None,
        pause: float = 0.0,
    ) -> None:
        super().__init__(pieces, kind, status)
        self.act = act
        self.pause = pause
        self.asked = 0
        self.began: list[float] = []
        self.sent: list[float] = []
        self.told = anyio.Event()  # of a client that has gone
        self.ended: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in (CHAT, TEXT) or await _probed(scope):
            await super().__call__(scope, receive, send)
            return
        message = await receive()
        if b"vorquelle" in message["body"]:
            await super().__call__(scope, _again(message), send)
            return
        self.asked += 1
        self.began.append(time.perf_counter())

        async def listen() -> None:
            await receive()
            self.told.set()

        async def watched(message: Message) -> None:
            await send(message)
            self.sent.append(time.perf_counter())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            try:
                await anyio.sleep(self.pause)
                if self.act is not None:
                    await self.act(watched)
                else:
                    await super().__call__(scope, _again(message), watched)
                self.ended.append("whole")
            except asyncio.CancelledError:
                self.ended.append("cancelled")
                raise
            finally:
                tasks.cancel_scope.cancel()


async def _probed(scope: Scope) -> bool:
    return scope["method"] != "POST"


def _again(message: Message) -> Receive:
    async def receive() -> Message:
        return message

    return receive


class Gate:
    """Holds p(x) until it is opened; then it judges, or does what ``instead`` does."""

    def __init__(self, instead: Callable[[], Decision] | None = None) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()
        self.instead = instead
        self.threads: set[str] = set()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        inner = Session.check_prompt

        def held(session: Session, prompt: Any) -> Decision:
            if sum(len(message["content"]) for message in prompt) <= INLINE:
                return inner(session, prompt)
            self.threads.add(threading.current_thread().name)
            self.reached.set()
            assert self.open.wait(60)
            return inner(session, prompt) if self.instead is None else self.instead()

        monkeypatch.setattr(Session, "check_prompt", held)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate()
    made.install(monkeypatch)
    yield made
    made.open.set()


@pytest.fixture(scope="module")
def roomy(settings: Settings) -> Settings:
    limits = Limits(max_body_bytes=4_000_000, max_prompt_chars=3_000_000)
    return Settings(settings.policy, limits)


@pytest.fixture
async def made(roomy: Settings) -> AsyncIterator[Callable[..., Any]]:
    """Makes a healthy moderated engine."""
    apps: list[PrismMiddleware] = []

    async def make(app: Any, **options: Any) -> PrismMiddleware:
        app = PrismMiddleware(app, settings=roomy, timing=FAST, **options)
        apps.append(app)
        await until_live(app)
        return app

    yield make
    for app in apps:
        await app.selftest.stop()


def ask(app: Any, text: str, path: str = CHAT, **more: Any) -> asyncio.Task[Reply]:
    body = {"stream": True, **more}
    body |= {"messages": [{"role": "user", "content": text}]} if path == CHAT else {"prompt": text}
    return asyncio.create_task(call(app, "POST", path, body, patience=60))


async def until(happened: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        await anyio.sleep(0.005)


def counted(app: PrismMiddleware, line: str) -> float:
    rows = app.metrics.render().decode().splitlines()
    return sum(float(row.rpartition(" ")[2]) for row in rows if row.startswith(line))


async def test_the_engine_works_while_the_prompt_is_judged(made: Any, gate: Gate) -> None:
    engine = Engine()
    app = await made(engine)
    asked = ask(app, LONG)
    await until(lambda: engine.asked)  # … although p(x) has not come to anything
    await anyio.sleep(0.1)
    assert not asked.done()
    assert not engine.sent
    gate.open.set()
    reply = await asked
    assert said(reply) == ("one two three", "stop")
    assert b"prism-receipt" in reply.body
    receipt = json.loads(reply.body.split(b": prism-receipt ")[1].split(b"\n")[0])
    assert receipt["channels"]["prompt"] == len(LONG)
    assert receipt["tiers"]["prompt.patterns"] == "ran"
    assert all("AnyIO" in name for name in gate.threads)
    assert counted(app, 'prism_prompt_check_seconds_count{how="beside"}') == 1
    assert counted(app, "prism_prompt_check_saved_seconds_total") > 0
    assert counted(app, "prism_active_requests ") == 0


async def test_nothing_of_the_answer_is_sent_before_the_verdict(made: Any, gate: Gate) -> None:
    app = await made(Engine())
    out: list[Message] = []
    body = json.dumps({"messages": [{"role": "user", "content": LONG}], "stream": True}).encode()

    async def receive() -> Message:
        if not out and body:
            return {"type": "http.request", "body": body, "more_body": False}
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: Message) -> None:
        out.append(message)

    scope = {"type": "http", "method": "POST", "path": CHAT,
             "headers": [(b"content-type", b"application/json")]}  # fmt: skip
    read = False

    async def once() -> Message:
        nonlocal read
        if read:
            await anyio.sleep_forever()
        read = True
        return await receive()

    task = asyncio.create_task(app(scope, once, send))
    await anyio.to_thread.run_sync(gate.reached.wait)
    await anyio.sleep(0.1)
    assert out == []
    gate.open.set()
    await asyncio.wait_for(task, 60)
    assert out[0]["status"] == 200


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_a_block_takes_the_answers_place(
    made: Any, gate: Gate, stream: bool, path: str
) -> None:
    body = chat_body("secret words") if path == CHAT else text_body("secret words")
    pieces, kind = ([STREAM], "text/event-stream") if stream else (
        [json.dumps(body).encode()], "application/json"
    )  # fmt: skip
    engine = Engine(pieces, kind)
    engine.headers = [(b"x-engine", b"secret")]
    app = await made(engine)
    asked = ask(app, BAD, path, stream=stream, n=3)
    await until(lambda: engine.asked)
    await anyio.sleep(0.05)  # the engine has said what it had to say, all of it
    gate.open.set()
    reply = await asked
    assert reply.status == 200
    assert b"secret" not in reply.body
    assert b"one" not in reply.body.replace(b"None", b"")
    assert "x-engine" not in reply.headers
    if stream:
        assert all(said(reply, index) == (MESSAGE, "content_filter") for index in range(3))
        assert all(not event.get("usage") for event in events(reply))
    else:
        rows = reply.json()["choices"]
        assert [row["finish_reason"] for row in rows] == ["content_filter"] * 3
        assert json.loads(reply.headers["x-prism-receipt"])["stage"] == "prompt"
        assert reply.json()["usage"]["completion_tokens"] == 0
    assert engine.told.is_set() or engine.ended
    assert counted(app, 'prism_requests_total{family="c') == 1
    assert counted(app, 'prism_requests_total{family="chat",outcome="blocked_prompt"}') == (
        path == CHAT
    )
    assert counted(app, "prism_prompt_check_saved_seconds_total") == 0
    assert counted(app, "prism_active_requests ") == 0


async def test_a_list_of_prompts_with_one_that_is_blocked(made: Any, gate: Gate) -> None:
    engine = Engine([json.dumps(text_body("a", "b")).encode()], "application/json")
    app = await made(engine)
    gate.open.set()
    body = {"prompt": [LONG, BAD]}
    reply = await call(app, "POST", TEXT, body, patience=60)
    assert [row["text"] for row in reply.json()["choices"]] == [MESSAGE] * 2


async def test_a_fast_verdict_and_a_slow_engine(made: Any) -> None:
    engine = Engine(pause=0.3)
    app = await made(engine)
    assert said(await ask(app, LONG)) == ("one two three", "stop")
    engine.pause = 600  # longer than anybody waits
    reply = await ask(app, BAD)
    assert said(reply) == (MESSAGE, "content_filter")
    assert engine.told.is_set()


async def test_a_blocked_request_is_told_of_a_hang_up_and_then_cancelled(made: Any) -> None:
    async def deaf(send: Send) -> None:
        await anyio.sleep(60)

    engine = Engine(act=deaf)
    app = await made(engine)
    reply = await ask(app, BAD)
    assert said(reply) == (MESSAGE, "content_filter")
    await until(lambda: engine.ended)
    assert engine.ended == ["cancelled"]
    assert engine.told.is_set()


async def test_whoever_has_the_answer_finds_it_in_the_figures(made: Any) -> None:
    """The engine may take a while to stop, and the request lasts until it has."""

    async def deaf(send: Send) -> None:
        await anyio.sleep(60)

    engine = Engine(act=deaf)
    app = await made(engine)
    line = 'prism_requests_total{family="chat",outcome="blocked_prompt"}'
    seen: list[tuple[float, bool]] = []

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        async def told(message: Message) -> None:
            seen.append((counted(app, line), bool(engine.ended)))
            await send(message)

        await app(scope, receive, told)

    assert said(await ask(watched, BAD)) == (MESSAGE, "content_filter")
    assert seen
    assert set(seen) == {(1, False)}
    assert counted(app, 'prism_requests_total{family="chat"') == 1


async def test_an_error_of_the_engine_waits_for_the_verdict(made: Any, gate: Gate) -> None:
    error = {"error": {"message": "too many tokens", "type": "x", "param": None, "code": None}}
    engine = Engine([json.dumps(error).encode()], "application/json", 400)
    app = await made(engine)
    asked = [ask(app, LONG), ask(app, BAD)]
    await until(lambda: engine.asked == 2)
    await anyio.sleep(0.05)
    assert not any(task.done() for task in asked)
    gate.open.set()
    good, bad = [await task for task in asked]
    assert (good.status, good.json()["error"]["message"]) == (400, "too many tokens")
    assert said(bad) == (MESSAGE, "content_filter")
    assert bad.status == 200


@pytest.mark.parametrize("fault", ["raises", "ends"])
async def test_an_engine_that_breaks_before_the_verdict(
    made: Any, gate: Gate, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(send: Send) -> None:
        if fault == "raises":
            raise RuntimeError("secret")

    engine = Engine(act=act)
    app = await made(engine)
    asked = [ask(app, LONG), ask(app, BAD)]
    await until(lambda: engine.asked == 2)
    await anyio.sleep(0.05)
    assert not any(task.done() for task in asked)
    gate.open.set()
    good, bad = [await task for task in asked]
    assert good.status == 502
    assert b"secret" not in good.body
    assert said(bad) == (MESSAGE, "content_filter")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_verdict_that_fails_closes(
    made: Any, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    def broken() -> Decision:
        raise RuntimeError("secret")

    gate = Gate(broken)
    gate.install(monkeypatch)
    gate.open.set()
    engine = Engine()
    app = await made(engine)
    reply = await ask(app, LONG, stream=stream)
    assert (reply.status, reply.json()["error"]["code"]) == (503, "judge_failed")
    assert b"secret" not in reply.body
    assert reply.headers["retry-after"]
    await until(lambda: engine.told.is_set() or engine.ended)
    assert counted(app, 'prism_failures_total{kind="judge"}') == 1


async def test_no_judge_to_be_had(made: Any, gate: Gate) -> None:
    engine = Engine(pause=600)
    app = await made(engine)
    app._server.pool = Pool(workers=1, waiting=0)
    # Read at once, as its bytes are few; judged beside, as arguments are judged decoded, too.
    arguments = json.dumps({"text": LONG[: INLINE * 2 // 3]})
    called = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "tool_calls": [called]}]
    body = {"messages": messages, "stream": True}
    first = asyncio.create_task(call(app, "POST", CHAT, body, patience=60))
    await anyio.to_thread.run_sync(gate.reached.wait)
    second = await call(app, "POST", CHAT, body, patience=60)
    assert (second.status, second.json()["error"]["code"]) == (503, "judges_busy")
    assert second.headers["retry-after"] == "1"
    assert engine.asked == 2
    gate.open.set()
    first.cancel()
    await until(lambda: len(engine.ended) == 2)
    assert engine.told.is_set()


async def test_what_is_judged_in_no_time_is_judged_first(made: Any) -> None:
    engine = Engine()
    app = await made(engine)
    reply = await ask(app, "a zephyr lantern")
    assert said(reply) == (MESSAGE, "content_filter")
    assert engine.asked == 0
    assert counted(app, 'prism_prompt_check_seconds_count{how="before"}') >= 1


@pytest.mark.parametrize(("stream", "asked"), [(False, 0), (True, 1)])
async def test_an_engine_that_cannot_be_stopped_is_not_begun(
    made: Any, stream: bool, asked: int
) -> None:
    """llama.cpp works an answer in one piece off to its end, with everybody else waiting."""
    engine = Engine()
    app = await made(engine, engine="llamacpp")
    reply = await ask(app, BAD, stream=stream)
    assert MESSAGE.encode() in reply.body
    assert engine.asked == asked


async def test_a_client_that_leaves_before_the_verdict(made: Any, gate: Gate) -> None:
    async def deaf(send: Send) -> None:
        await anyio.sleep(60)

    engine = Engine(act=deaf)
    app = await made(engine)
    leave = anyio.Event()
    body = json.dumps({"messages": [{"role": "user", "content": LONG}]}).encode()
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    out: list[Message] = []

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        out.append(message)

    scope = {"type": "http", "method": "POST", "path": CHAT,
             "headers": [(b"content-type", b"application/json")]}  # fmt: skip
    task = asyncio.create_task(app(scope, receive, send))
    await until(lambda: engine.asked)
    leave.set()
    await until(lambda: engine.ended)
    assert engine.ended == ["cancelled"]
    gate.open.set()
    await asyncio.wait_for(task, 60)
    assert out == []
    assert counted(app, 'prism_requests_total{family="chat",outcome="client_gone"}') == 1
    assert counted(app, "prism_active_requests ") == 0


async def test_the_proxys_upstream_is_hung_up_on(raw: Raw, roomy: Settings, gate: Gate) -> None:
    gone: list[str] = []
    arrived = asyncio.Event()

    @raw.script
    async def busy(connection: Connection) -> None:
        arrived.set()
        await connection.stream("one two three. ", end=False)
        await connection.gone()
        gone.append("hung up")
        connection.open = False

    app = PrismMiddleware(Proxy(Upstream(raw.url)), settings=roomy, timing=FAST)
    async with serving(app) as url, httpx.AsyncClient(timeout=60) as client:
        body = {"model": "busy", "messages": [{"role": "user", "content": BAD}], "stream": True}
        asked = asyncio.create_task(client.post(f"{url}{CHAT}", json=body))
        await asyncio.wait_for(arrived.wait(), 60)
        assert not gone
        gate.open.set()
        reply = await asked
        assert MESSAGE in reply.text
        assert "one two" not in reply.text
        await until(lambda: gone)


async def test_an_upstream_that_outwaits_the_judge(raw: Raw, roomy: Settings, gate: Gate) -> None:
    """A proxy gives up clients that take nothing; here it is the judge who lets nothing pass."""
    upstream = Upstream(raw.url, timeouts=Timeouts(connect=5, idle=0.3))
    app = PrismMiddleware(Proxy(upstream), settings=roomy, timing=FAST)
    await until_live(app)
    asked = ask(app, LONG, stream=False)
    await anyio.to_thread.run_sync(gate.reached.wait)
    await anyio.sleep(0.8)
    gate.open.set()
    reply = await asked
    assert (reply.status, reply.json()["error"]["code"]) == (503, "judge_slow")
    await app.selftest.stop()
    await upstream.aclose()


async def test_the_answer_held_is_bounded_by_back_pressure(made: Any, gate: Gate) -> None:
    """An engine that goes on and on is made to wait, not collected."""
    sent = 0

    async def torrent(send: Send) -> None:
        nonlocal sent
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
            sent += 1

    app = await made(Engine(act=torrent))
    asked = ask(app, BAD)
    await anyio.to_thread.run_sync(gate.reached.wait)
    await anyio.sleep(0.1)
    assert sent == 0
    gate.open.set()
    assert said(await asked) == (MESSAGE, "content_filter")


async def test_a_pool_without_room_is_an_answer_of_its_own() -> None:
    with pytest.raises(Unavailable):
        await Pool(workers=0, waiting=0).run(INLINE + 1, lambda: None)
