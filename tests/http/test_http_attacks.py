"""What clients do with HTTP itself: none of it leads round the judge, and nobody else is hurt."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from house import FAST, MESSAGE
from serving import healthy, served
from test_http_tenants import House, ask, bearer, refused
from test_http_tenants import house as house
from upstream import Upstream, chat_body, chat_stream

from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.inprocess import call

CHAT = "/v1/chat/completions"
CHUNKED = "Transfer-Encoding: chunked"
RED = "zephyr lantern"


def body(text: str) -> bytes:
    return json.dumps({"model": "small", "messages": [{"role": "user", "content": text}]}).encode()


BAD, FINE = body("the zephyr lantern"), body("hello")


@dataclass(frozen=True)
class Engine:
    port: int
    upstream: Upstream


@pytest.fixture(scope="module", params=["h11", "httptools"])
def engine(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Engine]:
    """A moderated server on each of uvicorn's two readers of HTTP."""
    upstream = Upstream()
    app = PrismMiddleware(upstream.app, settings=settings, timing=FAST)
    with served(app, http=request.param) as base:
        healthy(base)
        upstream.seen.clear()
        yield Engine(int(base.rpartition(":")[2]), upstream)


def message(
    *more: str,
    path: str = CHAT,
    payload: bytes = BAD,
    method: str = "POST",
    length: bool = True,
    keep: bool = False,
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *more]
    if length:
        lines.append(f"Content-Length: {len(payload)}")
    if not keep:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + payload


def pieces(payload: bytes, size: int = 7) -> bytes:
    cut = [payload[at : at + size] for at in range(0, len(payload), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in cut) + b"0\r\n\r\n"


def talk(engine: Engine, sent: bytes) -> tuple[list[int], str]:
    """Send bytes as they are; return the statuses and all text that came back."""
    out = b""
    with socket.create_connection(("127.0.0.1", engine.port), timeout=60) as connection:
        connection.sendall(sent)
        while got := connection.recv(65_536):
            out += got
    text = out.decode("utf-8", "replace")
    return [int(status) for status in re.findall(r"HTTP/1\.1 (\d{3})", text)], text


SHAPES = {
    "chunked": message(CHUNKED, payload=pieces(BAD), length=False),
    "byte by byte": message(CHUNKED, payload=pieces(BAD, 1), length=False),
    "chunk extensions": message(
        CHUNKED, payload=b"%x;a=b\r\n%s\r\n0\r\n\r\n" % (len(BAD), BAD), length=False
    ),
    "a trailer": message(
        CHUNKED, payload=pieces(BAD)[:-2] + b"X-Prism-Policy: permissive\r\n\r\n", length=False
    ),
    "a query": message(path=f"{CHAT}?prism=off&policy=permissive"),
    "an escaped path": message(path="/v1%2fch%61t/completions"),
    "an offer of HTTP/2": message("Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
    "a question first": message("Expect: 100-continue"),
    "many headers": message(*(f"X-{n}: a" for n in range(300))),
    "two, the bad one last": message(payload=FINE, keep=True) + message(),
    "two, the bad one first": message(keep=True) + message(payload=FINE),
    "one behind another's end": message(payload=b"", keep=True) + message(),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_however_a_request_is_framed_it_is_judged(engine: Engine, shape: str) -> None:
    engine.upstream.seen.clear()
    statuses, text = talk(engine, SHAPES[shape])
    assert MESSAGE in text
    assert statuses[-1] == 200
    assert not any(RED in str(seen) for seen in engine.upstream.seen)


REFUSED = {
    "two lengths": message("Content-Length: 5"),
    "a length and chunks": message(CHUNKED, payload=pieces(BAD)),
    "another coding": message("Transfer-Encoding: xchunked", payload=pieces(BAD), length=False),
    "a coding named twice over": message("Content-Encoding: identity", "Content-Encoding: gzip"),
    "two types": message("Content-Type: text/plain"),
    "the type twice": message("Content-Type: application/json"),
    "a space before the colon": message("Content-Type : text/plain"),
    "a path's parameters": message(path=f"{CHAT};v=1"),
    "a path twice escaped": message(path="/v1/ch%2561t/completions"),
    "dots": message(path="/v1/models/../chat/completions"),
    "escaped dots": message(path="/v1/models/%2e%2e/chat/completions"),
    "a path with an end": message(path=f"{CHAT}%00"),
    "a path with a line break": message(path=f"{CHAT}%0a"),
    "overlong UTF-8": message(path="/v1/chat%c0%afcompletions"),
    "backslashes": message(path="\\v1\\chat\\completions"),
    "PUT": message(method="PUT"),
    "PATCH": message(method="PATCH"),
    "TRACE": message(method="TRACE"),
    "small letters": message(method="post"),
    "a method of no standard": message(method="BREW"),
    "UTF-16": message(payload=BAD.decode().encode("utf-16")),
    "UTF-16 without a mark": message(payload=BAD.decode().encode("utf-16-le")),
    "UTF-32": message(payload=BAD.decode().encode("utf-32")),
    "UTF-7": message(
        "Content-Type: application/json; charset=utf-7", payload=BAD.decode().encode("utf-7")
    ),
    "a byte order mark": message(payload=b"\xef\xbb\xbf" + BAD),
    "not a number": message(payload=BAD[:-1] + b',"top_p":NaN}'),
    "a number without end": message(payload=BAD[:-1] + b',"top_p":1e999}'),
    "a number of many digits": message(payload=BAD[:-1] + b',"seed":' + b"9" * 5_000 + b"}"),
    "half a surrogate pair": message(payload=BAD[:-1] + b',"x":"\\ud800"}'),
    "half of one in a key": message(payload=BAD[:-1] + b',"\\ud800":1}'),
    "a key twice": message(payload=BAD[:-1] + b',"messages":[]}'),
    "a key twice, once in escapes": message(payload=BAD[:-1] + b',"m\\u0065ssages":[]}'),
    "a deep key twice": message(payload=FINE[:-1] + b',"vllm_xargs":{"a":1,"\\u0061":2}}'),
    "deep nesting": message(payload=BAD[:-1] + b',"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}"),
    "a comment": message(payload=BAD[:-1] + b"/* */}"),
    "two objects": message(payload=FINE + b"\n" + BAD),
    "a null inside": message(payload=BAD.replace(b"zephyr", b"zep\x00hyr")),
    "a key in capitals": message(payload=BAD.replace(b'"messages"', b'"Messages"')),
}


@pytest.mark.parametrize("shape", REFUSED)
def test_what_two_readers_could_take_for_two_things_reaches_no_engine(
    engine: Engine, shape: str
) -> None:
    """Refused, by this server or its reader of HTTP, or judged: never passed on unread."""
    engine.upstream.seen.clear()
    statuses, text = talk(engine, REFUSED[shape])
    assert len(statuses) == 1
    assert 400 <= statuses[0] < 500 or MESSAGE in text
    assert engine.upstream.seen == []
    assert talk(engine, message(payload=FINE))[0] == [200]  # nobody else is hurt


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"authorization": "Bearer {red}", "x-api-key": "{blue}"}, "several_api_keys"),
        ({"authorization": "Bearer {red}", "api-key": "{blue}"}, "several_api_keys"),
        ({"authorization": "Bearer {red} {blue}"}, "invalid_api_key"),
        ({"authorization": "Bearer {red}, Bearer {blue}"}, "invalid_api_key"),
        ({"authorization": "Bearer\t{red}"}, "invalid_api_key"),
        ({"authorization": "Bearer\u00a0{red}"}, "invalid_api_key"),
        ({"authorization": "Bearer pr\u00efsm_\u00ff"}, "invalid_api_key"),
        ({"authorization": "Basic {red}", "x-api-key": "{red}"}, "invalid_api_key"),
        ({"x-api-key": "\u00e9" * 50}, "invalid_api_key"),
        ({"x-api-key": "prism_" + "a" * 60_000}, "invalid_api_key"),
        ({"authorization": "Bearer"}, "missing_api_key"),
        ({"authorization": "", "x-api-key": " "}, "invalid_api_key"),
        ({"cookie": "api_key={red}"}, "missing_api_key"),
        ({"proxy-authorization": "Bearer {red}"}, "missing_api_key"),
        ({"x_api_key": "{red}"}, "missing_api_key"),
    ],
)
async def test_a_key_that_could_be_two_tenants_is_nobodys(
    house: House, headers: dict[str, str], code: str
) -> None:
    sent = {name: value.format(**house.keys) for name, value in headers.items()}
    async with house.open() as app:
        refused(await ask(app, None, headers=sent), 401, code)
        assert house.upstream.seen == []


async def test_a_key_in_the_query_is_none(house: House) -> None:
    query = {"query_string": f"api_key={house.keys['red']}".encode()}
    async with house.open() as app:
        reply = await call(app, "POST", CHAT, {"model": "small"}, extra=query, patience=60)
        refused(reply, 401, "missing_api_key")


@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_monitored_tenants_rules_would_do_is_in_its_receipt(
    house: House, stream: bool
) -> None:
    path = house.folder / "tenants" / "red.yaml"
    path.write_text(path.read_text() + "mode: monitor\n")
    house.upstream.say("says", body=chat_body(RED), stream=chat_stream(["zeph", "yr lantern"]))
    async with house.open() as app:
        for text, model in (("hello", "says"), (f"the {RED}", "small"), ("hello", "small")):
            reply = await ask(app, house.keys["red"], text, stream=stream, model=model)
            told = reply.headers.get("x-prism-receipt")
            if stream:
                told = re.findall(rb": prism-receipt (.*)\n", reply.body)[0]
            assert told is not None
            receipt = json.loads(told)
            assert (receipt["action"], receipt["tenant"]) == ("allow", "red")
            seen = (text, model) != ("hello", "small")
            assert receipt.get("would") == ("block" if seen else None)
            assert receipt.get("categories", []) == (["prv"] if seen else [])
            assert "stage" not in receipt


@pytest.mark.parametrize(
    "more",
    [
        {"mode": "monitor"},
        {"monitor": True},
        {"vllm_xargs": {"mode": "monitor"}},
        {"metadata": {"tenant": "blue", "mode": "monitor", "policy": "permissive"}},
        {"user": "blue"},
    ],
)
async def test_no_client_turns_enforcement_off(house: House, more: dict[str, Any]) -> None:
    asked = {"x-prism-mode": "monitor", "x-prism-tenant": "blue", "x-prism-policy": "permissive"}
    async with house.open() as app:
        reply = await ask(app, house.keys["red"], f"the {RED}", asked, **more)
        receipt = json.loads(reply.headers["x-prism-receipt"])
        assert (receipt["action"], receipt["tenant"]) == ("block", "red")
        assert "would" not in receipt
        assert house.upstream.seen == []


M: Any = [{"role": "user", "content": "x"}]
MANY = {
    "a batch": ("/v1/chat/completions/batch", {"messages": [M] * 4}),
    "choices": (CHAT, {"messages": M, "n": 4}),
    "prompts": ("/v1/completions", {"prompt": ["a"] * 4}),
    "prompts times choices": ("/v1/completions", {"prompt": ["a"] * 2, "n": 2}),
    "choices to choose from": ("/v1/completions", {"prompt": "a", "best_of": 4}),
    "llama.cpp's": ("/completion", {"prompt": ["a"] * 4}),
    "llama.cpp's choices": ("/completion", {"prompt": "a", "n_cmpl": 4}),
    "by another route": ("/invocations", {"messages": M, "n": 4}),
}


@pytest.mark.parametrize("many", MANY)
async def test_many_answers_in_one_request_are_many(house: House, many: str) -> None:
    house.limit("red", concurrent_streams=3)
    path, asked = MANY[many]
    async with house.open() as app:
        sent = {"model": "small", **asked}
        reply = await call(app, "POST", path, sent, headers=bearer(house.keys["red"]), patience=60)
        refused(reply, 400, "out_of_range")
        assert house.upstream.seen == []
        assert app._server.tenancy._meters["red"].streams == 0


async def test_many_inputs_in_one_request_are_counted_by_their_characters(house: House) -> None:
    house.limit("red", chars_per_minute=1_000)
    asked: list[tuple[str, Any]] = [
        ("/v1/moderations", {"input": ["a" * 100] * 10}),
        ("/v1/rerank", {"model": "small", "query": "q", "documents": ["a" * 100] * 10}),
        ("/v1/embeddings", {"model": "small", "input": ["a" * 100] * 10}),
    ]
    async with house.open() as app:
        for path, sent in asked:
            house.clock.now += 120
            headers = bearer(house.keys["red"])
            await call(app, "POST", path, sent, headers=headers, patience=60)
            reply = await ask(app, house.keys["red"], "a" * 500)
            assert reply.status == 429, path


@pytest.mark.parametrize("priority", [-5, 5, "first", [0]])
async def test_no_tenant_goes_before_another(house: House, priority: Any) -> None:
    async with house.open() as app:
        reply = await ask(app, house.keys["red"], priority=priority)
        assert refused(reply, 400, "not_moderated")["param"] == "priority"
        assert (await ask(app, house.keys["red"], priority=0)).status == 200
        assert house.upstream.seen[-1]["priority"] == 0


def test_a_server_without_tenants_leaves_priorities_alone(engine: Engine) -> None:
    engine.upstream.seen.clear()
    assert talk(engine, message(payload=FINE[:-1] + b',"priority":-5}'))[0] == [200]
    assert engine.upstream.seen[-1]["priority"] == -5


@pytest.mark.parametrize("key", ["uuid", "prompt_embeds", "image_url", "image_embeds", "image_pil"])
@pytest.mark.parametrize("kind", ["text", "image_url"])
def test_a_part_is_what_its_type_says(engine: Engine, kind: str, key: str) -> None:
    """vLLM takes a part with a ``uuid`` for what its other fields say: embeddings, for one."""
    picture = {"url": "https://x.test/a.png"}
    part = {"type": kind, kind: "hi" if kind == "text" else picture}
    value = {"uuid": "logo", "image_url": picture}.get(key, "AAAA")
    parts = [{**part, key: value, "data": "AAAA"}]
    sent = json.dumps({"model": "small", "messages": [{"role": "user", "content": parts}]})
    engine.upstream.seen.clear()
    statuses, text = talk(engine, message(payload=sent.encode()))
    if key == kind:
        assert statuses == [200]
        return
    assert statuses == [400]
    assert '"not_moderated"' in text
    assert f"messages[0].content[0].{key}" in text
    assert engine.upstream.seen == []
