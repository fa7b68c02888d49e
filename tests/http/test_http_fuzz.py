"""Whatever bytes come, from either side: no crash, always an answer, nothing unmoderated in it."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from asgi_client import until_live
from house import FAST
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from raw import Connection, Raw
from upstream import chat_chunk, chat_stream, encode

from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.asgi import Message, Receive, Scope, Send
from prism.http.inprocess import Reply
from prism.http.prompts import CONTROLS, strings
from prism.http.proxy import Proxy
from prism.http.upstream import Timeouts, Upstream
from prism.moderator import Moderator

PHRASE = "zephyr lantern"
HIDDEN = b"marzipan gasket"
"""Blocked in outputs; in places where no text of a model's belongs."""
ANSWERS = {200, 400, 403, 413, 415, 502, 503}
JSON = [(b"content-type", b"application/json")]
few = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
many = settings(parent=few, max_examples=80)


class Engine:
    """Answers with the pieces that a test put here, and keeps what it was asked."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.headers: list[tuple[bytes, bytes]] = []
        self.asked: list[Any] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pieces, headers = self.pieces, self.headers
        if scope["method"] == "GET":
            pieces, headers = [b'{"data": [{"id": "m"}]}'], JSON
        else:
            body = json.loads((await receive())["body"])
            if "vorquelle" in str(body.get("prompt")):  # the self-test; nothing is echoed
                pieces, headers = [b'{"choices": [{"index": 0, "text": "fine"}]}'], JSON
            else:
                self.asked.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class House:
    """A moderated engine, and a loop for it to live in."""

    def __init__(self, made: Settings) -> None:
        self.engine = Engine()
        self.runner = asyncio.Runner()
        self.moderator = Moderator(made.policy)
        self.app = PrismMiddleware(self.engine, settings=made, timing=FAST)
        self.runner.run(until_live(self.app))

    def close(self) -> None:
        self.runner.run(self.app.selftest.stop())
        self.runner.close()

    def ask(
        self,
        path: str,
        pieces: list[bytes],
        headers: list[tuple[bytes, bytes]] | None = None,
    ) -> Reply:
        return self.runner.run(_ask(self.app, path, pieces, headers or JSON))

    def answered(self, path: str, kind: bytes, pieces: list[bytes], **body: Any) -> Reply:
        self.engine.pieces, self.engine.headers = pieces, [(b"content-type", kind)]
        asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **body}
        return self.ask(path, [json.dumps(asked).encode()])


async def _ask(
    app: Any, path: str, pieces: list[bytes], headers: list[tuple[bytes, bytes]]
) -> Reply:
    waiting: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": True} for piece in pieces
    ]
    waiting.append({"type": "http.request", "body": b"", "more_body": False})
    reply, whole = Reply(), asyncio.Event()

    async def receive() -> Message:
        if waiting:
            return waiting.pop(0)
        await whole.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        assert not whole.is_set()
        if message["type"] == "http.response.start":
            assert not reply.status
            reply.status = message["status"]
            reply.headers = {k.decode(): v.decode("latin-1") for k, v in message["headers"]}
        else:
            reply.body += message.get("body", b"")
            if not message.get("more_body", False):
                whole.set()

    scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    async with asyncio.timeout(60):
        await app(scope, receive, send)
    assert whole.is_set(), "the answer has no end"
    assert reply.status in ANSWERS, reply
    return reply


@pytest.fixture(scope="module")
def house(settings: Settings) -> Iterator[House]:
    made = House(settings)
    yield made
    made.close()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut at any bytes, in the middle of a character, too."""
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(ends)] or [data]


cuts = st.lists(st.integers(0, 1_000_000), max_size=30)

# What a client sends

words = st.sampled_from(["", "hello", "é", "\U0001f3ee", "\x00", "zephyr", "lantern", PHRASE])
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | words
    | st.just(10**400)
    | st.just("\ud800")
)
keys = st.sampled_from(
    ["messages", "prompt", "role", "content", "text", "type", "input", "tools", "system", "name",
     "stream", "n", "stop", "logprobs", "model", "suffix", "documents", "x"]
)  # fmt: skip
values: SearchStrategy[Any] = st.recursive(
    leaves, lambda below: st.lists(below, max_size=3) | st.dictionaries(keys, below, max_size=3)
)
roles = st.sampled_from(["user", "assistant", "system", "tool", ""])
message = st.fixed_dictionaries({"role": roles, "content": words | values})
bodies = st.fixed_dictionaries(
    {},
    optional={
        "messages": st.lists(message | values, max_size=3),
        "prompt": words | values,
        "input": words | values,
        "max_tokens": st.just(5) | values,
        "stream": st.booleans() | values,
        "tools": values,
        "stop": values,
        "x": values,
    },
)
routes = st.sampled_from(
    ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v2/chat",
     "/api/chat", "/api/generate", "/completion", "/infill", "/v1/moderations"]
)  # fmt: skip


def spoken(body: Any) -> str:
    """What of a body can reach a model."""
    return "\n".join(
        text for key, value in body.items() if key not in CONTROLS for text in strings(value)
    )


@many
@given(route=routes, body=bodies, places=cuts)
@example(route="/v1/chat/completions", body={"messages": [], "x": {"x": PHRASE}}, places=[])
def test_any_json(house: House, route: str, body: Any, places: list[int]) -> None:
    """What the policy blocks reaches no engine, wherever in the body it stands."""
    house.engine.asked.clear()
    house.engine.pieces = [b'{"choices": []}']
    house.engine.headers = JSON
    reply = house.ask(route, cut(json.dumps(body).encode(), places))
    assert reply.body
    for asked in house.engine.asked:
        assert PHRASE not in spoken(asked)


@many
@given(body=st.binary(max_size=300), route=routes)
@example(body=b"[" * 90_000, route="/v1/completions")
@example(body=b'{"prompt":' + b"[" * 40_000 + b"]" * 40_000 + b"}", route="/v1/completions")
@example(body=b'{"prompt": "a", "n": ' + b"9" * 90_000 + b"}", route="/v1/completions")
@example(body=b'{"prompt": "a", "temperature": 1e999}', route="/v1/completions")
@example(body=b'{"prompt": "a", "temperature": NaN}', route="/v1/completions")
@example(body=b'{"prompt": "a", "prompt": "b"}', route="/v1/completions")
@example(body=b'{"prompt": "a"}{"prompt": "b"}', route="/v1/completions")
@example(body=b'\xef\xbb\xbf{"prompt": "a"}', route="/v1/completions")
@example(body='{"prompt": "a"}'.encode("utf-16"), route="/v1/completions")
@example(body=b'{"prompt": "\xff"}', route="/v1/completions")
@example(body=b'{"prompt": "\\ud800"}', route="/v1/completions")
def test_any_bytes(house: House, body: bytes, route: str) -> None:
    house.engine.asked.clear()
    reply = house.ask(route, [body])
    assert reply.status in (400, 413)
    assert json.loads(reply.body)
    assert not house.engine.asked


@few
@given(body=bodies, named=st.sampled_from([b"gzip", b"deflate", b"br", b"GZIP, identity", b"x"]))
def test_an_encoded_body(house: House, body: Any, named: bytes) -> None:
    house.engine.asked.clear()
    packed = gzip.compress(json.dumps(body).encode())
    assert house.ask("/v1/completions", [packed], [*JSON, (b"content-encoding", named)]).status == (
        415
    )
    assert house.ask("/v1/completions", [packed]).status == 400  # not said to be packed
    assert not house.engine.asked


# What an engine sends

pieces = st.lists(
    st.sampled_from(
        ["so ", "zephyr", "zeph", "yr", " ", "lantern", "lan", "tern", PHRASE, "é\U0001f3ee ", "\n"]
    ),
    max_size=12,
)
DEEP = b"[" * 2000 + b"]" * 2000
LIE = json.dumps({**chat_chunk({"content": "marzipan gasket"})}).encode()
noise = st.sampled_from(
    [
        b": ping\n\n", b"\n\n\n", b"data:\n\n", b"data: \n\n", b"event: x\n\n", b"id: 1\n",
        b"data: {\n\n", b"data: null\n\n", b"data: []\n\n", b'data: "x"\n\n', b"data: 1e999\n\n",
        b"data: " + b"9" * 5000 + b"\n\n", b"data: NaN\n\n", b"data: " + DEEP + b"\n\n",
        b"data: \xff\xfe\n\n", b"\xff\n\n", b"\xef\xbb\xbf", b"\x00", b"\r", b"\r\n\r\n",
        b'data: {"choices": 1}\n\n', b'data: {"choices": [1]}\n\n',
        b'data: {"choices": [{"index": -1, "delta": {"content": "a"}}]}\n\n',
        b'data: {"choices": [{"index": 1e9, "delta": {"content": "a"}}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"content": 5}}]}\n\n',
        b'data: {"choices": [], "choices": [' + LIE[LIE.index(b'{"index"'):-1] + b"}\n\n",
        b'data: {"choices": [{"index": 0, "delta": {"content": "\\ud83c"}}]}\n\n',
        b'data: {"marzipan gasket": "marzipan gasket"}\n\n',
        b'data: {"error": {"message": "marzipan gasket"}}\n\n',
        b"data: [DONE]\n\n", b"marzipan gasket\n\n", b"data: marzipan gasket\n\n",
    ]
)  # fmt: skip


def clean(house: House, reply: Reply) -> bool:
    """Whether the policy has nothing against what went out.

    Contents count put together: "gasketso" from two pieces is another word, and so is "gasketé".
    Whatever else is in the answer counts as it stands.
    """
    said, rest = [], []
    for line in reply.body.decode("utf-8", "replace").splitlines():
        text = line.removeprefix("data: ")
        event = json.loads(text) if text.startswith("{") else None
        for holder in holders_of(event) if event is not None else ():
            said.append(str(holder.pop("content", None) or ""))
        rest.append(line if event is None else json.dumps(event))
    hidden = re.search(rf"\b{HIDDEN.decode()}\b", "\n".join(rest))
    return hidden is None and not house.moderator.check_output("".join(said)).blocked


def seen(reply: Reply) -> str:
    """All text that a client could read out of a stream, put together as it came."""
    found = []
    for line in reply.body.decode().splitlines():
        text = line.removeprefix("data: ")
        if text.startswith("{"):
            holders = holders_of(json.loads(text))
            found += [str(holder.get("content") or "") for holder in holders]
    return "".join(found)


def holders_of(event: Any) -> list[dict[str, Any]]:
    """Return the objects in a piece of an answer that hold its text."""
    deltas = [row.get("delta") for row in event.get("choices") or []]
    return [held for held in (*deltas, event.get("message")) if isinstance(held, dict)]


@many
@given(said=pieces, places=cuts, ending=st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_any_cut_of_a_stream(
    house: House, said: list[str], places: list[int], ending: bytes
) -> None:
    """However the bytes are cut, and whichever line ends it has, a stream is the same stream."""
    data = b"".join(encode(event) for event in chat_stream(said)).replace(b"\n", ending)
    reply = house.answered("/v1/chat/completions", b"text/event-stream", cut(data, places),
                           stream=True)  # fmt: skip
    whole = "".join(said)
    assert clean(house, reply)
    assert reply.status == 200
    if "lantern" not in whole:
        assert seen(reply) == whole
    assert reply.body.endswith(b"data: [DONE]\n\n")


@many
@given(
    parts=st.lists(noise | pieces.map(lambda said: b"".join(map(encode, chat_stream(said)[:-1]))),
                   max_size=6),
    places=cuts,
)  # fmt: skip
def test_any_broken_stream(house: House, parts: list[bytes], places: list[int]) -> None:
    reply = house.answered("/v1/chat/completions", b"text/event-stream",
                           cut(b"".join(parts), places), stream=True)  # fmt: skip
    assert clean(house, reply)
    if reply.status == 200:
        assert b": prism-receipt {" in reply.body


lines = st.sampled_from(
    [b"", b"\n", b"{", b"null\n", b"[]\n", b"1e999\n", DEEP + b"\n", b"\xff\n", b"\x00\n",
     b'{"message": 5, "done": false}\n', b'{"message": {"content": 5}, "done": false}\n',
     b'{"done": true}\n', b'{"done": "yes"}\n', b'{"error": "marzipan gasket"}\n',
     b'{"message": {"content": "a"}, "message": {"content": "marzipan gasket"}, "done": false}\n',
     b"marzipan gasket\n", b'{"marzipan gasket": 1, "done": false}\n']
)  # fmt: skip


@many
@given(
    parts=st.lists(
        lines
        | pieces.map(
            lambda said: b"".join(
                json.dumps(
                    {"model": "m", "message": {"role": "assistant", "content": text}, "done": False}
                ).encode()
                + b"\n"
                for text in said
            )
        ),
        max_size=6,
    ),
    places=cuts,
)
def test_any_lines(house: House, parts: list[bytes], places: list[int]) -> None:
    reply = house.answered("/api/chat", b"application/x-ndjson", cut(b"".join(parts), places))
    assert clean(house, reply)
    for line in reply.body.splitlines():
        assert isinstance(json.loads(line), dict)


@few
@given(
    body=st.binary(max_size=60)
    | values.map(lambda value: json.dumps({"choices": value}).encode())
    | st.sampled_from([DEEP, HIDDEN, b"NaN", b"9" * 5000, b'{"choices": [{}]}']),
    kind=st.sampled_from([b"application/json", b"text/event-stream", b"text/html", b""]),
)
def test_any_answer_in_one_piece(house: House, body: bytes, kind: bytes) -> None:
    reply = house.answered("/v1/chat/completions", kind, [body])
    assert clean(house, reply)


@few
@given(said=pieces, places=cuts)
def test_an_encoded_answer(house: House, said: list[str], places: list[int]) -> None:
    """No engine is asked for one; what comes all the same can't be read, so nobody sees it."""
    data = gzip.compress(b"".join(encode(event) for event in chat_stream([*said, PHRASE])))
    house.engine.pieces = cut(data, places)
    house.engine.headers = [(b"content-type", b"text/event-stream"), (b"content-encoding", b"gzip")]
    asked = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
    reply = house.ask("/v1/chat/completions", [json.dumps(asked).encode()])
    assert (reply.status, reply.json()["error"]["code"]) == (502, "upstream_encoding")


# Over sockets: HTTP's own framing


@few
@given(
    said=pieces,
    places=cuts,
    broken=st.sampled_from(
        [
            b"",
            b"zz\r\n",
            b"-5\r\n",
            b"ffffffffffffffff\r\n",
            b"5;x=y\r\nab",
            b"\x00",
            b"0\r\nX: y\r\n",
        ]
    ),
)
def test_any_chunks(house: House, said: list[str], places: list[int], broken: bytes) -> None:
    data = b"".join(encode(event) for event in chat_stream(said))

    async def chunks(connection: Connection) -> None:
        await connection.head("content-type: text/event-stream", "transfer-encoding: chunked")
        for piece in cut(data, places):
            if piece:
                await connection.chunk(piece)
        await connection.send(broken or b"0\r\n\r\n")
        connection.open = False

    async def run() -> Reply:
        raw = Raw()
        await raw.start()
        raw.scripts["m"] = chunks
        upstream = Upstream(raw.url, timeouts=Timeouts(connect=5, idle=5))
        inner, house.app._server.app = house.app._server.app, Proxy(upstream)
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        try:
            return await _ask(house.app, "/v1/chat/completions", [json.dumps(body).encode()], JSON)
        finally:
            house.app._server.app = inner
            await upstream.aclose()
            await raw.stop()

    reply = house.runner.run(run())
    assert clean(house, reply)
    if reply.status == 200:
        assert b": prism-receipt {" in reply.body
