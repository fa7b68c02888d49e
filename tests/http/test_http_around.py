"""What is around an answer (errors, headers, figures, names) lets out nothing that it may not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from asgi_client import Fixed, chat, events, until_live
from house import FAST, MESSAGE

from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.errors import UpstreamShape
from prism.http.heads import require_utf8
from prism.http.inprocess import Reply, call

BAD = "zephyr lantern"
JSON = "application/json"


def chunk(text: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], **more}


def stream(*bodies: Any) -> list[bytes]:
    rows = [f"data: {json.dumps(body)}\n\n".encode() for body in bodies]
    return [*rows, b"data: [DONE]\n\n"]


def whole(**choice: Any) -> dict[str, Any]:
    row = {"index": 0, "message": {"content": "fine"}, "finish_reason": "stop", **choice}
    return {"id": "c", "object": "chat.completion", "choices": [row]}


async def served(settings: Settings, engine: Fixed) -> PrismMiddleware:
    app = PrismMiddleware(engine, settings=settings, timing=FAST)
    await until_live(app)
    return app


async def answered(settings: Settings, body: Any, **asked: Any) -> Any:
    engine = Fixed([json.dumps(body).encode()], JSON)
    reply = await chat(await served(settings, engine), stream=False, **asked)
    assert reply.status == 200, reply.body
    return reply.json()


@pytest.mark.parametrize(
    "pieces",
    [
        [{"error": {"message": "zephyr"}}, {"error": {"message": "lantern"}}],
        [{"error": {"message": "a", **chunk("zephyr ")}}, {"error": {"message": "lantern"}}],
        [chunk("zephyr ", error={"message": "a"}), chunk("lantern", error={"message": "b"})],
        [chunk("zephyr ", error=0), chunk("lantern", error={})],
        [{"error": {"message": "a", "tokens": list(BAD.encode())}}],
    ],
)
async def test_errors_of_a_stream_are_judged_together_and_carry_no_answer(
    settings: Settings, pieces: list[Any]
) -> None:
    reply = await chat(await served(settings, Fixed(stream(*pieces))))
    shown = events(reply)
    said = "".join(
        choice["delta"].get("content") or "" for e in shown for choice in e.get("choices", [])
    )
    assert "zephyr lantern" not in said
    told = [str(event["error"]) for event in shown if "error" in event]
    assert not ("zephyr" in "".join(told) and "lantern" in "".join(told))
    assert str(list(BAD.encode())) not in reply.body.decode()
    assert not any("choices" in event for event in shown if "error" in event)


async def test_an_error_keeps_what_errors_say(settings: Settings) -> None:
    error = {"message": "too long", "type": "x", "param": None, "code": 400}
    body = {"error": error, "spare": "hello", "detail": [{"loc": ["body", 0], "msg": "no"}]}
    engine = Fixed([json.dumps(body).encode()], JSON, status=400)
    reply = await chat(await served(settings, engine), stream=False)
    assert reply.status == 400
    del body["spare"]
    assert reply.json() == body


async def test_an_endless_row_of_errors_is_withheld(settings: Settings) -> None:
    rows = [{"error": {"message": "word " * 1000}}] * 5
    reply = await chat(await served(settings, Fixed(stream(*rows))))
    codes = [event["error"].get("code") for event in events(reply)]
    assert codes == [None, None, *["error_withheld"] * 3]


@pytest.mark.parametrize(("kind", "status"), [(JSON, 200), (JSON, 500), ("text/event-stream", 200)])
async def test_headers_of_the_engine_quote_no_answer(
    settings: Settings, kind: str, status: int
) -> None:
    body = stream(chunk("fine")) if "stream" in kind else [json.dumps(whole()).encode()]
    engine = Fixed(body, kind, status)
    engine.headers = [
        (b"x-said", BAD.encode()),
        (b"x-took", b"12"),
        (b"server", b"engine"),
        (b"etag", b'"0123"'),
        (b"Content-Digest", b"sha-256=:AAAA:"),
        (b"x-prism-receipt", b'{"action":"allow"}'),
    ]
    reply = await chat(await served(settings, engine), stream="stream" in kind)
    assert reply.status == status
    assert reply.headers["x-took"] == "12"
    assert reply.headers["server"] == "engine"
    assert not {"x-said", "etag", "content-digest"} & set(reply.headers)
    receipt = reply.headers.get("x-prism-receipt")
    assert receipt is None or json.loads(receipt)["id"].startswith("prism-")


async def test_what_passes_unmoderated_brings_no_receipt(settings: Settings) -> None:
    engine = Fixed([b"{}"], JSON)
    engine.headers = [(b"X-Prism-Receipt", b"{}"), (b"x-mine", b"1")]
    app = await served(settings, engine)
    reply = await call(app, "POST", "/tokenize", {"prompt": "hi"}, patience=60)
    assert reply.headers["x-mine"] == "1"
    assert "x-prism-receipt" not in reply.headers


async def test_a_stream_is_in_utf8_whatever_its_engine_says(settings: Settings) -> None:
    engine = Fixed(stream(chunk("+AHo-ephyr lantern")), "text/event-stream; charset=utf-7")
    reply = await chat(await served(settings, engine))
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"


@pytest.mark.parametrize("kind", ["text/plain; charset=utf-16", 'text/vtt;x=1; Charset="UTF-7"'])
def test_a_text_in_another_charset_is_refused(kind: str) -> None:
    with pytest.raises(UpstreamShape, match="not UTF-8"):
        require_utf8(kind)


@pytest.mark.parametrize("kind", ["text/plain", "text/plain; charset=UTF-8", "text/srt; a=b"])
def test_a_text_in_utf8_is_read(kind: str) -> None:
    require_utf8(kind)


async def test_a_stop_string_that_an_answer_may_not_say_is_not_named(settings: Settings) -> None:
    for stop, told in ((BAD, None), ("harmless", "harmless")):
        body = whole(stop_reason=stop)
        row = (await answered(settings, body, stop=[stop]))["choices"][0]
        assert row.get("stop_reason") == told

    native = {"index": 0, "content": "fine", "stop": True, "stop_type": "word"}
    for stop, told in ((BAD, ""), ("harmless", "harmless")):
        engine = Fixed([json.dumps({**native, "stopping_word": stop}).encode()], JSON)
        body = {"prompt": "hi", "stop": [stop]}
        reply = await call(await served(settings, engine), "POST", "/completion", body, patience=60)
        assert reply.json()["stopping_word"] == told

    for stop, told in ((BAD, None), ("harmless", "harmless")):
        said = {"id": "m", "model": "m", "content": [{"type": "text", "text": "fine"}]}
        ended = {**said, "stop_reason": "stop_sequence", "stop_sequence": stop}
        engine = Fixed([json.dumps(ended).encode()], JSON)
        body = {
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 9,
            "stop_sequences": [stop],
        }
        app = await served(settings, engine)
        reply = await call(app, "POST", "/v1/messages", body, patience=60)
        assert reply.json()["stop_sequence"] == told


@pytest.mark.parametrize("shift", [0, 256])
async def test_bytes_of_logprobs_say_what_their_tokens_say(settings: Settings, shift: int) -> None:
    other = [byte + shift for byte in BAD.encode()]
    alike = {"token": "fine", "logprob": -1.0, "bytes": other}
    entry = {"token": "fine", "logprob": -1.0, "bytes": list(b"fine"), "top_logprobs": [alike]}
    body = whole(logprobs={"content": [entry]})
    shown = (await answered(settings, body, logprobs=True))["choices"][0]["logprobs"]["content"][0]
    assert shown["bytes"] == list(b"fine")
    assert shown["top_logprobs"] == [{**alike, "bytes": list(b"fine")}]

    body = whole(logprobs={"content": [{"token": "fine", "logprob": -1.0, "bytes": other}]})
    shown = (await answered(settings, body, logprobs=True))["choices"][0]["logprobs"]
    assert shown is None or shown["content"][0]["bytes"] is None


async def test_figures_are_numbers_under_names(settings: Settings) -> None:
    body = {**whole(), "usage": {"prompt_tokens": 3, BAD: 1, "deep": {BAD: 2, "fine": 4}}}
    raw = json.dumps(body).replace('"prompt_tokens": 3', '"prompt_tokens": 3, "spent": NaN')
    reply = await chat(await served(settings, Fixed([raw.encode()], JSON)), stream=False)
    usage = json.loads(reply.body, parse_constant=pytest.fail)["usage"]
    assert usage == {"prompt_tokens": 3, "spent": None, "deep": {"fine": 4}}


async def test_marks_of_an_answer_are_words_of_the_apis_own(settings: Settings) -> None:
    body = {**whole(), "id": BAD, "system_fingerprint": BAD, "service_tier": "default"}
    body["choices"][0]["message"]["role"] = "zephyr_lantern"
    shown = await answered(settings, body)
    assert shown["service_tier"] == "default"
    assert not {"id", "system_fingerprint"} & set(shown)
    assert shown["choices"][0]["message"]["role"] == "assistant"
    engine = Fixed([json.dumps(whole(finish_reason="zephyr_lantern")).encode()], JSON)
    refused: Reply = await chat(await served(settings, engine), stream=False)
    assert refused.status == 502
    assert b"zephyr" not in refused.body


TAGS = "".join(chr(0xE0000 + ord(char)) for char in BAD)
BRACED = "".join(f"\\u{{{ord(char):x}}}" for char in BAD)
HEXED = "".join(f"&#x{ord(char):x};" for char in BAD)


@pytest.mark.parametrize("said", [TAGS, f"see {TAGS}", BRACED, HEXED])
async def test_disguises_are_seen_through_character_by_character(
    settings: Settings, said: str
) -> None:
    pieces = stream(*(chunk(char) for char in said))
    reply = await chat(await served(settings, Fixed(pieces)))
    shown = events(reply)
    assert shown[-1]["choices"][0]["finish_reason"] == "content_filter"
    text = "".join(e["choices"][0]["delta"].get("content") or "" for e in shown)
    assert text.removeprefix("see ") in ("", MESSAGE)
