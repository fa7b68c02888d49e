"""Decisions on record: what a line says, what it never says, and when it can't be written."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from asgi_client import Fixed, chat, completion, said, until_live
from house import FAST, MESSAGE
from upstream import chat_body, chat_stream, encode

from disk import Disk, small_disk
from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.asgi import Message
from prism.http.inprocess import call
from prism.record import audit
from prism.record.audit import AuditSettings
from prism.record.chain import Keys
from prism.record.verify import verify

KEY = b"k" * 64
KEYS = Keys(KEY)
STREAM = [encode(event) for event in chat_stream(["one ", "two ", "three"])]
WHOLE = [json.dumps(chat_body("one two three")).encode()]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path) as made:
        yield made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "RETRY", 0.05)


@pytest.fixture
async def made(settings: Settings) -> AsyncIterator[Callable[..., Any]]:
    apps: list[PrismMiddleware] = []

    async def make(path: Path, pieces: list[bytes], kind: str, **options: Any) -> PrismMiddleware:
        audited = replace(settings, audit=AuditSettings(path, KEY, **options))
        app = PrismMiddleware(Fixed(pieces, kind), settings=audited, timing=FAST)
        apps.append(app)
        await until_live(app)
        return app

    yield make
    for app in apps:
        await app.selftest.stop()
        await app._server.books.close()


def lines(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(row) for row in path.read_text().splitlines()]
    return [row for row in rows if row["event"] not in ("opened", "closed", "resumed")]


async def test_an_answer_in_one_piece_is_one_line(made: Any, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    app = await made(path, WHOLE, "application/json")
    reply = await chat(app, stream=False, messages=[{"role": "user", "content": "plaid thunder"}])
    assert reply.status == 200
    receipt = json.loads(reply.headers["x-prism-receipt"])
    (line,) = lines(path)
    assert {key: line[key] for key in receipt} == receipt
    assert line["event"] == "answered"
    assert (line["family"], line["outcome"], line["action"]) == ("chat", "passed", "flag")
    (rule,) = line["rules"]
    assert (rule["rule"], rule["category"], rule["span"]) == ("noted", "tox", [0, 13])
    assert line["texts"] == {
        "prompt": KEYS.fingerprint_of("plaid thunder"),
        "last_user": KEYS.fingerprint_of("plaid thunder"),
        "0.content": KEYS.fingerprint_of("one two three"),
    }
    assert "plaid" not in path.read_text()
    assert "three" not in path.read_text()
    assert verify(path, KEYS).ok


async def test_a_stream_is_on_record_when_it_begins_and_before_it_ends(
    made: Any, tmp_path: Path
) -> None:
    path = tmp_path / "audit.jsonl"
    app = await made(path, STREAM, "text/event-stream")
    seen: list[list[str]] = []
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: Message) -> None:
        last = message["type"] == "http.response.body" and not message["more_body"]
        seen.append([message["type"], *(row["event"] for row in lines(path)), str(last)])

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions",
             "headers": [(b"content-type", b"application/json")]}  # fmt: skip
    await app(scope, receive, send)
    assert seen[0] == ["http.response.start", "admitted", "False"]
    assert seen[-1] == ["http.response.body", "admitted", "answered", "True"]
    begun, ended = lines(path)
    assert begun["id"] == ended["id"]
    assert ended["texts"]["0.content"] == KEYS.fingerprint_of("one two three")
    assert "0.content" not in begun["texts"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_refusal_is_on_record(made: Any, tmp_path: Path, stream: bool) -> None:
    path = tmp_path / "audit.jsonl"
    app = await made(path, WHOLE, "application/json")
    messages = [{"role": "user", "content": "a zephyr lantern"}]
    reply = await chat(app, stream=stream, messages=messages)
    assert MESSAGE.encode() in reply.body
    (line,) = lines(path)
    assert (line["event"], line["outcome"], line["stage"]) == (
        "refused", "blocked_prompt", "prompt",
    )  # fmt: skip
    assert line["rules"][0]["span"] == [2, 16]
    assert b"zephyr" not in path.read_bytes()


async def test_a_blocked_output_is_on_record_without_its_text(made: Any, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    pieces = [encode(event) for event in chat_stream(["so ", "marzipan ", "gasket ", "on"])]
    app = await made(path, pieces, "text/event-stream")
    assert said(await chat(app))[1] == "content_filter"
    line = lines(path)[-1]
    assert (line["outcome"], line["stage"], line["categories"]) == (
        "blocked_output", "output", ["cyb"],
    )  # fmt: skip
    assert line["texts"]["0.content"] == KEYS.fingerprint_of("so ")
    assert b"marzipan" not in path.read_bytes()


async def test_a_client_that_leaves_is_on_record(made: Any, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    app = await made(path, STREAM, "text/event-stream")
    gone = anyio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b"".join(STREAM[:3]), "more_body": True})
        gone.set()
        await anyio.sleep_forever()

    app._server.app = endless
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions",
             "headers": [(b"content-type", b"application/json")]}  # fmt: skip
    await app(scope, receive, send)
    assert [(row["event"], row["outcome"]) for row in lines(path)] == [
        ("admitted", "passed"), ("broken_off", "client_gone"),
    ]  # fmt: skip


async def test_inputs_to_be_judged_are_a_line_each(made: Any, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    app = await made(path, WHOLE, "application/json")
    body = {"input": ["a zephyr lantern", "hello"]}
    reply = await call(app, "POST", "/v1/moderations", body, patience=60)
    assert reply.status == 200
    rows = lines(path)
    assert [row["action"] for row in rows] == ["block", "allow"]
    assert {row["event"] for row in rows} == {"judged"}


async def test_a_full_disk_closes_the_server_until_there_is_room(
    made: Any, disk: Disk, quick: None
) -> None:
    app = await made(disk.log, WHOLE, "application/json")
    disk.fill()
    replies = [await chat(app, stream=False) for _ in range(40)]
    statuses = [reply.status for reply in replies]
    assert set(statuses) == {200, 503}
    assert statuses == sorted(statuses)  # closed for good, once it is full
    error = replies[-1].json()["error"]
    assert error["code"] == "audit_failed"
    assert "can't be put on record" in error["message"]
    assert replies[-1].headers["retry-after"] == "5"
    assert b"three" not in replies[-1].body
    assert len(lines(disk.log)) == statuses.count(200)  # what was answered, and no more
    assert verify(disk.log, KEYS).ok
    health = await call(app, "GET", "/prism/health", patience=60)
    assert health.status == 503
    assert health.json()["status"] == "failed"
    assert health.json()["audit"]["live"] is False
    assert "audit.jsonl" in health.json()["audit"]["detail"]
    assert str(disk.folder) not in health.body.decode()
    disk.free()
    deadline = time.monotonic() + 60
    while (await call(app, "GET", "/prism/health", patience=60)).status != 200:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert (await chat(app, stream=False)).status == 200
    assert verify(disk.log, KEYS).ok


async def test_a_refusal_that_cannot_be_recorded_is_an_error(
    made: Any, disk: Disk, quick: None
) -> None:
    app = await made(disk.log, WHOLE, "application/json")
    disk.fill()
    messages = [{"role": "user", "content": "a zephyr lantern"}]
    replies = [await chat(app, messages=messages) for _ in range(40)]
    assert replies[-1].status == 503
    assert MESSAGE.encode() not in replies[-1].body


async def test_a_disk_that_fills_up_in_mid_stream_breaks_the_stream_off(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    app = await made(path, STREAM, "text/event-stream")
    log = app._server.books.log
    assert log is not None
    inner, left = log._file.append, 1

    def fills_up(data: bytes, head: Any) -> None:
        nonlocal left
        if not left:
            raise OSError(28, "No space left on device")
        left -= 1
        inner(data, head)

    monkeypatch.setattr(log._file, "append", fills_up)
    reply = await chat(app)
    assert reply.status == 200  # the head was out
    assert b'"code":"audit_failed"' in reply.body
    assert [row["event"] for row in lines(path)] == ["admitted"]


async def test_an_operator_may_choose_to_go_on(made: Any, disk: Disk, quick: None) -> None:
    app = await made(disk.log, WHOLE, "application/json", closes=False)
    disk.fill()
    replies = [await chat(app, stream=False) for _ in range(40)]
    assert {reply.status for reply in replies} == {200}
    recorded = len(lines(disk.log))
    assert recorded < 40
    health = await call(app, "GET", "/prism/health", patience=60)
    assert health.status == 200
    assert health.json()["audit"]["live"] is False
    assert f'prism_failures_total{{kind="audit"}} {40 - recorded}.0' in (
        app.metrics.render().decode()
    )
    disk.free()
    deadline = time.monotonic() + 60
    while app._server.books.log.failure is not None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    rows = [json.loads(row) for row in disk.log.read_text().splitlines()]
    assert [row["lost"] for row in rows if row["event"] == "resumed"] == [40 - recorded]


async def test_a_full_queue_turns_requests_away(made: Any, tmp_path: Path) -> None:
    app = await made(tmp_path / "audit.jsonl", WHOLE, "application/json", queue=1)
    log = app._server.books.log
    with log._wake:  # the writer can't take anything
        log._queue.append(audit._Entry((), lambda error: None))
        reply = await chat(app, stream=False)
    assert (reply.status, reply.json()["error"]["code"]) == (503, "audit_busy")
    deadline = time.monotonic() + 60
    with log._wake:
        log._wake.notify()
    while log.full:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert (await chat(app, stream=False)).status == 200


async def test_the_self_test_leaves_no_lines(made: Any, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    app = await made(path, WHOLE, "application/json")
    assert lines(path) == []
    assert (await completion(app, prompt="a gibbous teapot")).status == 200
    assert len(lines(path)) == 1


def test_without_a_log_nothing_is_said_of_one(middleware: PrismMiddleware) -> None:
    assert middleware._server.books.report() == {}
    assert middleware._server.books.ok
