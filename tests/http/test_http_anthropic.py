"""Anthropic's messages, asked through its official client and byte by byte."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest
from anthropic_script import SIGNATURE, Block, llama, named, vllm, whole
from asgi_client import Fixed, until_live
from chunking import FEW, PLACES, TEXTS, scripts_in_any_chunks
from house import FAST, MESSAGE
from hypothesis import given
from hypothesis import strategies as st
from serving import http
from upstream import Upstream

from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.inprocess import Reply, call

ASK: Any = [{"role": "user", "content": "hello"}]
ENGINES = pytest.mark.parametrize("engine", [vllm, llama])
Engine = Callable[..., list[bytes]]


@pytest.fixture
def claude(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="unused", max_retries=0) as made:
        yield made


def ask(claude: anthropic.Anthropic, name: str, **more: Any) -> Any:
    return claude.messages.create(**{"model": name, "max_tokens": 64, "messages": ASK, **more})


def streamed(claude: anthropic.Anthropic, name: str) -> Any:
    """Return the message that the client puts together from a stream."""
    with claude.messages.stream(model=name, max_tokens=64, messages=ASK) as stream:
        return stream.get_final_message()


@ENGINES
def test_what_is_allowed_comes_through(
    claude: anthropic.Anthropic, upstream: Upstream, engine: Engine
) -> None:
    blocks: list[Block] = [
        ("thinking", ["let me", " see"]),
        ("text", ["a ", "zephyr", " is a wind"]),
        ("tool_use", ["call_1", "look", '{"a"', ': "b"}']),
    ]
    name = upstream.say(f"fine-{engine.__name__}", stream=engine(blocks, "tool_use"))
    got = streamed(claude, name)
    thought, text, tool = got.content
    assert thought.thinking == "let me see"
    assert thought.signature == (SIGNATURE if engine is vllm else "")
    assert text.text == "a zephyr is a wind"
    assert (tool.id, tool.name, tool.input) == ("call_1", "look", {"a": "b"})
    assert got.stop_reason == "tool_use"
    assert got.usage.output_tokens == 5


def test_the_json_of_a_tool_comes_through_as_it_was_written(
    claude: anthropic.Anthropic, upstream: Upstream
) -> None:
    value = {"code": 'a\n\tb = "c\\\\n"\\', "é": "\u2028\x07", "n": [1, 2.5, None]}
    written = json.dumps(value)
    for size in (1, 3, 100):
        pieces = [written[at : at + size] for at in range(0, len(written), size)]
        name = upstream.say("json", stream=vllm([("tool_use", ["c", "look", *pieces])]))
        assert streamed(claude, name).content[0].input == value
    written = json.dumps({"a": "one\nwalnut ferry\nthree\n"})
    name = upstream.say("json", stream=vllm([("tool_use", ["c", "look", *written])]))
    softened = streamed(claude, name).content[0].input["a"]
    assert softened.split() == ["one", "[redacted]", "three"]


@ENGINES
def test_a_block_is_closed_only_once_its_text_is_out(
    claude: anthropic.Anthropic, upstream: Upstream, engine: Engine
) -> None:
    name = upstream.say(
        f"order-{engine.__name__}",
        stream=engine([("text", ["a zephyr"]), ("tool_use", ["c", "look", "{}"])]),
    )
    kinds: list[tuple[str, int | None]] = []
    text = ""
    for event in ask(claude, name, stream=True):
        kinds.append((event.type, getattr(event, "index", None)))
        if event.type == "content_block_delta" and event.index == 0:
            assert ("content_block_start", 0) in kinds
            assert ("content_block_stop", 0) not in kinds
            text += event.delta.text
    assert text == "a zephyr"
    assert kinds[0] == ("message_start", None)
    assert [kind for kind, _ in kinds][-2:] == ["message_delta", "message_stop"]
    for index in (0, 1):
        assert kinds.count(("content_block_start", index)) == 1
        assert kinds.count(("content_block_stop", index)) == 1


def test_a_whole_answer_comes_through(claude: anthropic.Anthropic, upstream: Upstream) -> None:
    blocks = [
        {"type": "thinking", "thinking": "hm", "signature": SIGNATURE},
        {"type": "text", "text": "the walnut ferry sails"},
        {"type": "tool_use", "id": "c", "name": "look", "input": {"a": [1, "b"]}},
        {"type": "oddity", "text": "zephyr lantern"},
    ]
    body = whole(blocks, "stop_sequence", stop_sequence="END", kv_transfer_params={"a": "b"})
    name = upstream.say("whole", body=body)
    got = ask(claude, name, stop_sequences=["END"])
    assert [block.type for block in got.content] == ["thinking", "text", "tool_use"]
    assert got.content[0].signature == SIGNATURE
    assert got.content[1].text == "the [redacted] sails"
    assert got.content[2].input == {"a": [1, "b"]}
    assert (got.stop_reason, got.stop_sequence) == ("stop_sequence", "END")
    assert (got.usage.input_tokens, got.usage.output_tokens) == (7, 5)
    assert "kv_transfer_params" not in got.to_dict()
    raw = http.post(
        f"{claude.base_url}/v1/messages",
        json={"model": name, "messages": ASK, "max_tokens": 5},
    )
    assert json.loads(raw.headers["x-prism-receipt"])["channels"]["text"] > 0


@pytest.mark.parametrize(
    "asked",
    [
        {"messages": [{"role": "user", "content": "a zephyr lantern"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "zephyr lantern"}]}]},
        {"messages": [{"role": "user", "content": [
            {"type": "text", "text": "zephyr lan"}, {"type": "text", "text": "tern"}]}]},
        {"system": "zephyr lantern"},
        {"system": [{"type": "text", "text": "zephyr "}, {"type": "text", "text": "lantern"}]},
        {"system": "zephyr lan", "messages": [{"role": "system", "content": "tern"}, *ASK]},
        {"system": [{"type": "text", "text": "zephyr lan"},
                    {"type": "text", "text": "x-anthropic-billing-header: 1"},
                    {"type": "text", "text": "tern"}]},
        {"messages": [{"role": "assistant", "content": [
            {"type": "thinking", "thinking": "zephyr lan", "signature": ""},
            {"type": "text", "text": "or"},
            {"type": "thinking", "thinking": "tern", "signature": ""}]}]},
        {"messages": [{"role": "assistant", "content": [
            {"type": "tool_use", "id": "a", "name": "look",
             "input": {"deep": ["zephyr lantern"]}}]}]},
        {"messages": [{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "a", "content": "zephyr lantern"}]}]},
        {"messages": [{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "a", "content": [
                {"type": "text", "text": "zephyr lan"},
                {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}},
                {"type": "text", "text": "tern"}]}]}]},
        {"messages": [{"role": "user", "content": [
            {"type": "document", "title": "zephyr lantern",
             "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}}]}]},
        {"messages": [{"role": "user", "content": [
            {"type": "document", "source": {"type": "text", "media_type": "text/plain",
                                            "data": "zephyr lantern"}}]}]},
        {"messages": [{"role": "user", "content": [
            {"type": "document", "source": {"type": "content", "content": [
                {"type": "text", "text": "zephyr lantern"}]}}]}]},
        {"messages": [{"role": "user", "content": [
            {"type": "search_result", "source": "s", "title": "t", "content": [
                {"type": "text", "text": "zephyr lantern"}]}]}]},
        {"tools": [{"name": "look", "description": "zephyr lantern", "input_schema": {}}]},
        {"tools": [{"name": "look", "input_schema": {"properties": {"zephyr lantern": {}}}}]},
        {"output_config": {"format": {"schema": {"const": "zephyr lantern"}}}},
        {"a_field_of_tomorrow": {"x": ["zephyr lantern"]}},
    ],
)  # fmt: skip
def test_a_prompt_is_judged_in_every_shape(
    claude: anthropic.Anthropic, upstream: Upstream, asked: dict[str, Any]
) -> None:
    upstream.seen.clear()
    got = ask(claude, "small", **{"messages": ASK, "extra_body": asked})
    assert (got.stop_reason, got.content[0].text) == ("refusal", MESSAGE)
    assert (got.usage.input_tokens, got.usage.output_tokens) == (0, 0)
    with claude.messages.stream(
        model="small", max_tokens=64, messages=ASK, extra_body=asked
    ) as stream:
        final = stream.get_final_message()
    assert (final.stop_reason, final.content[0].text) == ("refusal", MESSAGE)
    body = {"model": "small", "messages": ASK, **asked}
    counted = http.post(f"{claude.base_url}/v1/messages/count_tokens", json=body)
    assert counted.json() == {"input_tokens": 0}
    assert upstream.seen == []


def test_tokens_are_counted(claude: anthropic.Anthropic, upstream: Upstream) -> None:
    counts = {"original_input_tokens": 3, "note": "zephyr lantern"}
    name = upstream.say("count", body={"input_tokens": 3, "context_management": counts, "x": "y"})
    got = claude.messages.count_tokens(model=name, messages=ASK)
    assert got.input_tokens == 3
    assert "zephyr" not in got.to_json()
    assert "y" not in got.to_dict()


@ENGINES
def test_an_output_block_ends_the_message_as_a_refusal(
    claude: anthropic.Anthropic, upstream: Upstream, engine: Engine
) -> None:
    name = upstream.say(
        f"cut-{engine.__name__}",
        stream=engine([("text", ["well, a marzi", "pan gas", "ket is", " fine"])]),
        body=whole([{"type": "text", "text": "well, a marzipan gasket is fine"}]),
    )
    got = streamed(claude, name)
    assert [block.text for block in got.content] == ["well, a "]
    assert got.stop_reason == "refusal"
    assert got.usage.output_tokens == 3
    got = ask(claude, name)
    assert [block.text for block in got.content] == [MESSAGE]
    assert (got.stop_reason, got.usage.output_tokens) == ("refusal", 5)


BAD = ["mar", "zipan ga", "sket"]


@ENGINES
@pytest.mark.parametrize(
    ("blocks", "shown"),
    [
        ([("text", BAD)], [MESSAGE]),
        ([("thinking", ["hm, ", *BAD]), ("text", ["yes"])], ["hm, ", MESSAGE]),
        ([("tool_use", ["marzipan gasket", "look", "{}"])], [MESSAGE]),
        ([("tool_use", ["c", "marzipan gasket", "{}"])], [MESSAGE]),
        ([("tool_use", ["c", "look", '{"a": "', *BAD, '"}'])], [{}]),
        ([("tool_use", ["c", "look", '{"a": "', "\\u006darzipan", " gasket", '"}'])], [{}]),
        ([("tool_use", ["c", "look", '{"a": "x\\', 'nmarzipan', '\\n', 'gasket', '"}'])], [{}]),
        ([("text", ["so"]), ("tool_use", ["c", "look", '{"', *BAD, '": 1}'])], ["so", {}]),
        ([("text", ["a marzipan"]), ("tool_use", ["c", "look", "{}"]), ("text", [" gasket"])],
         ["a marzipan", {}]),
    ],
)  # fmt: skip
def test_no_channel_leaks(
    claude: anthropic.Anthropic,
    upstream: Upstream,
    engine: Engine,
    blocks: list[Block],
    shown: list[Any],
) -> None:
    events = engine(blocks)
    rows = []
    for kind, pieces in blocks:
        row: dict[str, Any] = {"type": kind, kind: "".join(pieces)}
        if kind == "tool_use":
            given = json.loads("".join(pieces[2:]))
            row = {"type": kind, "id": pieces[0], "name": pieces[1], "input": given}
        rows.append(row)
    name = upstream.say("leak", stream=events, body=whole(rows))
    got = streamed(claude, name)
    assert got.stop_reason == "refusal"
    found = [
        getattr(block, "text", None) or getattr(block, "thinking", None)
        or getattr(block, "input", None) or {}
        for block in got.content
    ]  # fmt: skip
    if engine is vllm or len(blocks) == 1:
        assert found == shown
    assert "gasket" not in got.to_json()
    final = ask(claude, name)
    assert (final.stop_reason, final.content[0].text) == ("refusal", MESSAGE)
    assert len(final.content) == 1


async def test_a_refusal_of_the_token_layer_is_named(settings: Settings) -> None:
    engine = Upstream()
    engine.token_layer = MESSAGE
    engine.say("t", stream=vllm([("text", ["I see. ", MESSAGE])]),
               body=whole([{"type": "text", "text": MESSAGE}]))  # fmt: skip
    app = PrismMiddleware(engine.app, settings=settings, timing=FAST, layers=("text", "token"))
    await until_live(app)
    replies = [await messages(app, model="t", stream=stream) for stream in (True, False)]
    await app.selftest.stop()
    for reply in replies:
        assert b'"stop_reason":"refusal"' in reply.body
        assert MESSAGE.encode() in reply.body
    assert said(replies[0]) == (f"I see. {MESSAGE}", "refusal")


def test_errors_have_anthropics_shape(
    claude: anthropic.Anthropic, url: str, upstream: Upstream
) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        ask(claude, "small", messages=[{"role": "user", "content": [{"type": "mystery"}]}])
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert set(body["error"]) == {"type", "message"}
    for script, kind in (
        ({"error": {"code": 400, "message": "too long", "type": "invalid_request_error"}},
         "invalid_request_error"),
        ({"type": "error", "error": {"type": "BadRequestError", "message": "too long"}},
         "invalid_request_error"),
        ({"error": {"message": "say marzipan gasket", "type": "x"}}, "api_error"),
        ({"detail": "zephyr"}, "api_error"),
    ):  # fmt: skip
        name = upstream.say("error", status=400, body=script)
        with pytest.raises(anthropic.BadRequestError) as caught:
            ask(claude, name)
        body = caught.value.body
        assert body["type"] == "error"
        assert body["error"]["type"] == kind
        assert "gasket" not in str(body)
    wrong = http.get(f"{url}/v1/messages")
    assert wrong.status_code == 405
    assert wrong.json()["type"] == "error"


@pytest.mark.parametrize(
    "error",
    [
        {"type": "error", "error": {"type": "internal_error", "message": "oh, marzipan gasket"}},
        {"error": {"code": 500, "message": "oh, marzipan gasket", "type": "server_error"}},
    ],
)
def test_an_error_inside_a_stream(
    claude: anthropic.Anthropic, upstream: Upstream, error: dict[str, Any]
) -> None:
    event = b"event: error\ndata: " + json.dumps(error).encode() + b"\n\n"
    name = upstream.say("late", stream=[*vllm([("text", ["hi"])])[:2], event])
    with pytest.raises(anthropic.APIStatusError) as caught:
        list(ask(claude, name, stream=True))
    assert "gasket" not in str(caught.value.body)
    assert "withheld" in str(caught.value.body)


@pytest.mark.parametrize(
    "asked",
    [
        {"messages": "hello"},
        {"messages": [5]},
        {"messages": [{"role": 5, "content": "x"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": "user", "content": [5]}]},
        {"messages": [{"role": "user", "content": [{"type": 5}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": {}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "document", "source": 5}]}]},
        {"stop_sequences": "END"},
        {"stop_sequences": [5]},
        {"stream": "true"},
        {"thinking": "yes"},
        {"n": 2},
        {"kv_transfer_params": {"a": 1}},
        {"prism_policy": "none"},
    ],
)
def test_what_cannot_be_judged_is_refused(
    claude: anthropic.Anthropic, upstream: Upstream, asked: dict[str, Any]
) -> None:
    upstream.seen.clear()
    with pytest.raises(anthropic.BadRequestError):
        ask(claude, "small", extra_body=asked)
    assert upstream.seen == []


async def test_a_thinking_budget_is_refused_in_front_of_vllm(settings: Settings) -> None:
    app = PrismMiddleware(Fixed([]), settings=settings, timing=FAST, engine="vllm")
    await until_live(app)
    reply = await messages(app, thinking={"type": "enabled", "budget_tokens": 2000})
    await app.selftest.stop()
    assert reply.status == 400
    assert "adaptive" in reply.json()["error"]["message"]


async def test_the_asynchronous_client_sees_the_same(url: str, upstream: Upstream) -> None:
    name = upstream.say("async", stream=llama([("text", ["x marzipan", " gasket"])]))
    async with (
        anthropic.AsyncAnthropic(base_url=url, api_key="unused", max_retries=0) as claude,
        claude.messages.stream(model=name, max_tokens=9, messages=ASK) as stream,
    ):
        texts = [text async for text in stream.text_stream]
        final = await stream.get_final_message()
    assert ("".join(texts), final.stop_reason) == ("x ", "refusal")


# Byte by byte


async def messages(app: Any, **more: Any) -> Reply:
    body = {"model": "m", "max_tokens": 9, "messages": ASK, "stream": True, **more}
    return await call(app, "POST", "/v1/messages", body, patience=60)


def said(reply: Reply) -> tuple[str, str | None]:
    text, reason = "", None
    for block in reply.body.decode().split("\n\n"):
        head, _, data = block.partition("\ndata: ")
        if not head.startswith("event: "):
            continue
        body = json.loads(data)
        assert head == f"event: {body['type']}"
        text += body.get("delta", {}).get("text", "")
        reason = body.get("delta", {}).get("stop_reason") or reason
    return text, reason


@FEW
@given(pieces=TEXTS, places=PLACES, which=st.booleans())
async def test_any_chunking_gives_the_same_text_and_no_leak(
    settings: Settings, pieces: list[str], places: list[int], which: bool
) -> None:
    async def ask(app: Any) -> tuple[str, str | None]:
        return said(await messages(app))

    script = vllm if which else llama
    await scripts_in_any_chunks(settings, script, "text", pieces, places, ask, blocked="refusal")


@pytest.mark.parametrize(
    "broken",
    [
        b"data: {\n\n",
        b'data: "zephyr"\n\n',
        named({"type": "content_block_delta", "index": 9, "delta": {"type": "text_delta"}}),
        named({"type": "content_block_delta", "index": 0, "delta": 5}),
        named({"type": "content_block_delta", "index": 0,
               "delta": {"type": "text_delta", "text": 5}}),
        named({"type": "content_block_delta", "index": 0,
               "delta": {"type": "thinking_delta", "thinking": "zephyr"}}),
        named({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "zephyr"}}),
        named({"type": "content_block_start", "index": 0,
               "content_block": {"type": "thinking", "thinking": "zephyr"}}),
        named({"type": "content_block_start", "index": 1, "content_block": "zephyr"}),
        named({"type": "message_start", "message": {"id": "zephyr"}}),
        named({"type": "message_delta", "delta": {"stop_reason": "the zephyr"}}),
    ],
)  # fmt: skip
async def test_a_stream_that_cannot_be_read_is_closed(settings: Settings, broken: bytes) -> None:
    start = vllm([("text", ["Fine. "])])[:3]
    engine = Fixed([*start, broken, *vllm([("text", ["zephyr"])])[2:]])
    app = PrismMiddleware(engine, settings=settings, timing=FAST)
    await until_live(app)
    reply = await messages(app)
    await app.selftest.stop()
    assert b"zephyr" not in reply.body
    last = reply.body.decode().strip().split("\n\n")[-1]
    assert last.startswith("event: error\ndata: ")
    assert json.loads(last.partition("data: ")[2])["error"]["type"] == "api_error"
    assert b"[DONE]" not in reply.body
    assert b": prism-receipt" in reply.body


async def test_unknown_blocks_and_events_do_not_go_out(settings: Settings) -> None:
    odd = [
        named({"type": "content_block_start", "index": 1,
               "content_block": {"type": "oddity", "text": "zephyr"}}),
        named({"type": "content_block_delta", "index": 1,
               "delta": {"type": "text_delta", "text": "zephyr"}}),
        named({"type": "content_block_stop", "index": 1}),
        named({"type": "oddity", "text": "zephyr"}),
        named({"type": "ping", "text": "zephyr"}),
        named({"type": "content_block_delta", "index": 0,
               "delta": {"type": "citations_delta", "citation": {"cited_text": "zephyr"}}}),
        b"data: [DONE]\n\n",
    ]  # fmt: skip
    whole_stream = vllm([("text", ["Fine."])])
    engine = Fixed([*whole_stream[:3], *odd, *whole_stream[3:]])
    app = PrismMiddleware(engine, settings=settings, timing=FAST)
    await until_live(app)
    reply = await messages(app)
    await app.selftest.stop()
    assert b"zephyr" not in reply.body
    assert b'event: ping\ndata: {"type":"ping"}' in reply.body
    assert said(reply) == ("Fine.", "end_turn")


async def test_a_message_that_breaks_off_has_no_end(settings: Settings) -> None:
    app = PrismMiddleware(Fixed(vllm([("text", ["a zephyr"])])[:3]), settings=settings, timing=FAST)
    await until_live(app)
    reply = await messages(app)
    await app.selftest.stop()
    assert said(reply) == ("a zephyr", None)
    assert b"message_stop" not in reply.body
