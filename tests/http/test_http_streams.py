"""Streams as bytes: any chunking, any framing, any breakage; the same text, and never a leak."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from asgi_client import Fixed, chat, completion, events, said, until_live
from house import FAST, MESSAGE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from upstream import DONE, chat_body, chat_chunk, chat_stream, encode, text_body, text_stream

from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.errors import UpstreamShape
from prism.http.sse import MAX_EVENT_BYTES, Event, Reader
from prism.moderator import Moderator

WORDS = ["zephyr", " lantern", "zeph", "yr lan", "tern", " walnut", " ferry", " a", "é", "🜂", "\n",
         "plaid", " ", "marzipan", " gasket", "漢字", "."]  # fmt: skip
TEXTS = st.lists(st.sampled_from(WORDS), max_size=12)
RELAXED = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut bytes at any places, in the middle of characters too."""
    marks = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(marks)]


def moderated(settings: Settings, engine: Any, **options: Any) -> PrismMiddleware:
    return PrismMiddleware(engine, settings=settings, timing=FAST, **options)


@RELAXED
@given(pieces=TEXTS, places=st.lists(st.integers(0, 10_000), max_size=30), crlf=st.booleans())
async def test_any_chunking_of_the_bytes_gives_the_same_text_and_no_leak(
    settings: Settings, pieces: list[str], places: list[int], crlf: bool
) -> None:
    raw = b"".join(encode(event) for event in text_stream(pieces))
    raw = b": ping\n\n" + raw
    if crlf:
        raw = raw.replace(b"\n", b"\r\n")
    engine = Fixed([])
    app = moderated(settings, engine)
    await until_live(app)
    replies = []
    for chunks in ([raw], cut(raw, places), [raw[n : n + 1] for n in range(len(raw))]):
        engine.pieces = chunks
        replies.append(said(await completion(app)))
    await app.selftest.stop()
    assert replies[0] == replies[1] == replies[2]
    text, reason = replies[0]
    whole = "".join(pieces)
    decision = Moderator(settings.policy).check_output(whole)
    stopped = [f for f in decision.findings if str(f.action) == "block"]
    if stopped:
        first = min(f.start or 0 for f in stopped)
        assert reason == "content_filter"
        before = Moderator(settings.policy).session()
        expected = before.feed(whole[:first]).text + before.finish().text
        assert expected.startswith(text.removesuffix(MESSAGE))
    else:
        session = Moderator(settings.policy).session()
        assert text == session.feed(whole).text + session.finish().text
        assert reason == "stop"


@RELAXED
@given(pieces=TEXTS, again=TEXTS)
async def test_how_the_engine_splits_its_text_changes_nothing(
    settings: Settings, pieces: list[str], again: list[str]
) -> None:
    whole = "".join(pieces)
    engine = Fixed([])
    app = moderated(settings, engine)
    await until_live(app)
    seen = set()
    for split in (pieces, list(whole), [whole]):
        engine.pieces = [encode(event) for event in chat_stream(split)]
        seen.add(said(await chat(app)))
    engine.pieces = [json.dumps(chat_body(whole)).encode()]
    engine.kind = "application/json"
    got = (await chat(app, stream=False)).json()["choices"][0]
    await app.selftest.stop()
    assert len(seen) == 1
    text, reason = seen.pop()
    if reason == "content_filter":
        assert got["message"]["content"] == MESSAGE
        assert got["finish_reason"] == "content_filter"
    else:
        assert got["message"]["content"] == text


@RELAXED
@given(
    data=st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))),
    places=st.lists(st.integers(0, 10_000), max_size=20),
    end=st.sampled_from([b"\n", b"\r", b"\r\n"]),
)
def test_events_are_read_alike_from_any_chunking(
    data: list[str], places: list[int], end: bytes
) -> None:
    raw = b"".join(b"data: " + line.encode() + end + end for line in data)
    reader = Reader()
    found = [event for chunk in cut(raw, places) for event in reader.feed(chunk)]
    assert [event.data for event in found] == data


def test_framing_that_engines_may_use() -> None:
    reader = Reader()
    raw = b"\xef\xbb\xbfid: 7\nretry: 5\nevent: x\ndata: a\ndata:b\nother: z\n\n: note\ndata\n\n\n"
    assert reader.feed(raw) == [Event("a\nb", "x"), Event(None), Event("")]
    assert Event("a\nb", "x").encode() == b"event: x\ndata: a\ndata: b\n\n"


@pytest.mark.parametrize(
    "broken",
    [
        b"data: {\n\n",
        b"data: nonsense\n\n",
        b"data: []\n\n",
        b"data: 5\n\n",
        b'data: "zephyr"\n\n',
        b"data: {}\n\n",
        b'data: {"choices": {}}\n\n',
        b'data: {"choices": [5]}\n\n',
        b'data: {"choices": [{"index": "0"}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": 5}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"content": 5}}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"content": [{"text": "zephyr"}]}}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"tool_calls": {}}}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"tool_calls": [{"function": 5}]}}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"role": "the zephyr"}}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "the zephyr"}]}\n\n',
        b'data: {"content": "zephyr", "tokens": [1], "stop": false}\n\n',
        b'data: {"a": "\xff"}\n\n',
        b"data: " + b"[" * 100_000 + b"\n\n",
    ],
)
async def test_a_stream_that_cannot_be_read_is_closed(settings: Settings, broken: bytes) -> None:
    start = b"".join(encode(event) for event in chat_stream(["Fine. "])[:2])
    app = moderated(settings, Fixed([start, broken, encode(chat_chunk({"content": "zephyr"}))]))
    await until_live(app)
    reply = await chat(app)
    await app.selftest.stop()
    assert b"zephyr" not in reply.body
    error = events(reply)[-1]["error"]
    assert error["type"] == "upstream_error"
    assert reply.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{", 200),
        ("application/json", b"[]", 200),
        ("application/json", b"{}", 200),
        ("application/json", b'{"choices": 5}', 200),
        ("application/json", b'{"choices": [5]}', 200),
        ("application/json", b'{"choices": [{"index": 0}]}', 200),
        ("application/json", b'{"choices": [{"message": {"content": 5}}]}', 200),
        ("application/json", b'{"choices": [{"message": {"tool_calls": [5]}}]}', 200),
        ("application/json", b"\xff\xfe", 200),
        ("text/plain", b"zephyr lantern", 200),
        ("text/html", b"<p>zephyr lantern", 200),
        ("application/octet-stream", b"zephyr lantern", 200),
        ("application/x-ndjson", b'{"zephyr": 1}', 200),
        ("", b"zephyr lantern", 200),
        ("application/json", b"{}", 302),
        ("application/json", b'{"choices": []}', 101),
    ],
)
async def test_an_answer_that_cannot_be_judged_is_a_502(
    settings: Settings, kind: str, body: bytes, status: int
) -> None:
    app = moderated(settings, Fixed([body], kind, status))
    await until_live(app)
    reply = await chat(app, stream=False)
    await app.selftest.stop()
    assert reply.status == 502
    assert reply.json()["error"]["type"] == "upstream_error"
    assert b"zephyr" not in reply.body


async def test_a_compressed_answer_is_not_taken_for_text(settings: Settings) -> None:
    engine = Fixed([json.dumps(chat_body("hi")).encode()], "application/json")
    engine.headers = [(b"Content-Encoding", b"gzip")]
    app = moderated(settings, engine)
    await until_live(app)
    reply = await chat(app, stream=False)
    await app.selftest.stop()
    assert reply.status == 502


@pytest.mark.parametrize(
    ("kind", "body", "shown"),
    [
        ("text/plain", b"Internal Server Error", b"Internal Server Error"),
        ("text/plain", b"the marzipan gasket", b"withheld"),
        ("text/html", b"<p>marzipan", b"withheld"),
        ("application/json", b'{"detail": [{"input": "marzipan gasket"}]}', b"withheld"),
        ("application/json", b'{"detail": "no such model"}', b"no such model"),
        ("application/json", b'"marzipan gasket"', b"withheld"),
    ],
)
async def test_errors_keep_their_status_and_are_judged(
    settings: Settings, kind: str, body: bytes, shown: bytes
) -> None:
    app = moderated(settings, Fixed([body], kind, 422))
    await until_live(app)
    reply = await chat(app)
    await app.selftest.stop()
    assert reply.status == 422
    assert reply.headers["content-type"] == "application/json"
    assert shown in reply.body
    assert b"marzipan" not in reply.body


async def test_fields_nobody_judges_do_not_go_out(settings: Settings) -> None:
    body = chat_body("hi", audio={"transcript": "zephyr"}, annotations=["zephyr"], novel="zephyr")
    body |= {
        "prompt_text": "zephyr",
        "kv_transfer_params": {"a": "zephyr"},
        "prompt_token_ids": [1],
    }
    body["choices"][0] |= {"token_ids": [5], "routed_experts": "zephyr", "stop_reason": "zephyr"}
    body["usage"]["note"] = "zephyr"
    engine = Fixed([json.dumps(body).encode()], "application/json")
    app = moderated(settings, engine)
    await until_live(app)
    reply = await chat(app, stream=False)
    assert b"zephyr" not in reply.body
    assert b"ids" not in reply.body
    assert reply.json()["choices"][0]["message"] == {"role": "assistant", "content": "hi"}
    stream = [chat_chunk({"role": "assistant", "content": "hi", "audio": {"data": "zephyr"}})]
    stream[0] |= {"prompt_text": "zephyr", "timings": {"n": 1, "x": "zephyr"}}
    stream.append(chat_chunk({}, "stop", token_ids=[7], stop_reason=13))
    engine.pieces = [b"id: zephyr\n", b": zephyr\n\n", *map(encode, stream), encode(DONE)]
    engine.kind = "text/event-stream"
    reply = await chat(app)
    await app.selftest.stop()
    assert b"zephyr" not in reply.body
    assert b"ids" not in reply.body
    assert said(reply) == ("hi", "stop")
    assert events(reply)[-1]["choices"][0]["stop_reason"] == 13


async def test_a_stream_without_an_end_gives_out_what_was_cleared(settings: Settings) -> None:
    parts = [encode(event) for event in text_stream(["one zephyr"])[:-2]]
    app = moderated(settings, Fixed(parts))
    await until_live(app)
    reply = await completion(app)
    assert said(reply) == ("one zephyr", None)
    assert b"[DONE]" not in reply.body
    app._app.pieces = [encode(event) for event in text_stream(["zephyr lantern"])[:-2]]  # type: ignore[attr-defined]
    reply = await completion(app)
    await app.selftest.stop()
    assert said(reply) == (MESSAGE, "content_filter")


async def test_done_without_a_finish_reason_ends_the_channels(settings: Settings) -> None:
    parts = [encode(event) for event in [*text_stream(["one zephyr"])[:-2], DONE]]
    app = moderated(settings, Fixed(parts))
    await until_live(app)
    reply = await completion(app)
    await app.selftest.stop()
    assert said(reply) == ("one zephyr", None)
    assert reply.body.endswith(b"data: [DONE]\n\n")


async def test_what_follows_the_end_is_dropped(settings: Settings) -> None:
    late = [encode(chat_chunk({"content": "zephyr"})), b"data: zephyr\n\n"]
    app = moderated(settings, Fixed([*map(encode, chat_stream(["ok"])), *late]))
    await until_live(app)
    reply = await chat(app)
    await app.selftest.stop()
    assert said(reply) == ("ok", "stop")
    assert b"zephyr" not in reply.body


async def test_an_answer_of_the_other_kind_is_judged_all_the_same(settings: Settings) -> None:
    """A client asks for a stream and the engine answers in one piece, and the other way round."""
    body = json.dumps(text_body("marzipan gasket")).encode()
    app = moderated(settings, Fixed([body], "application/json"))
    await until_live(app)
    assert (await completion(app)).json()["choices"][0]["text"] == MESSAGE
    await app.selftest.stop()
    parts = [encode(event) for event in text_stream(["marzipan gasket"])]
    app = moderated(settings, Fixed(parts))
    await until_live(app)
    assert said(await completion(app, stream=False)) == (MESSAGE, "content_filter")
    await app.selftest.stop()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_of_the_token_layer_is_named(settings: Settings, stream: bool) -> None:
    message = settings.policy.message()
    text = f"I would rather not. {message}"
    app_of = {
        False: ([json.dumps(text_body(text)).encode()], "application/json"),
        True: ([encode(e) for e in text_stream(list(text))], "text/event-stream"),
    }
    engine = Fixed(*app_of[stream])
    app = moderated(settings, engine, layers=("text",))
    await until_live(app)
    plain = await completion(app, stream=stream)
    await app.selftest.stop()
    assert b"content_filter" not in plain.body
    app = moderated(settings, engine, layers=("text", "token"))
    app.selftest.layers.pop("token")  # this engine has none; only the recognition is tested
    await until_live(app)
    reply = await completion(app, stream=stream)
    await app.selftest.stop()
    if stream:
        assert said(reply) == (text, "content_filter")
        assert b'"stage":"token"' in reply.body
    else:
        choice = reply.json()["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == (text, "content_filter")
        assert '"stage":"token"' in reply.headers["x-prism-receipt"]


async def test_an_error_in_the_judge_lets_nothing_out(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Fixed([encode(event) for event in chat_stream(["some text", " more text"])])
    app = moderated(settings, engine)
    await until_live(app)
    from prism.session import Session

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(Session, "flow", broken)
    reply = await chat(app)
    assert said(reply) == (MESSAGE, "content_filter")
    engine.pieces, engine.kind = [json.dumps(chat_body("some text")).encode()], "application/json"
    whole = (await chat(app, stream=False)).json()["choices"][0]
    assert whole["message"]["content"] == MESSAGE
    assert b'prism_failures_total{kind="judge"} 2.0' in app.metrics.render()
    await app.selftest.stop()


def test_an_endless_event_is_not_collected_for_ever() -> None:
    reader = Reader()
    for _ in range(MAX_EVENT_BYTES // 1_000_000):
        reader.feed(b"x" * 1_000_000)
    with pytest.raises(UpstreamShape, match="too long"):
        reader.feed(b"x" * 1_000_000)
