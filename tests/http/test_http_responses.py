"""OpenAI's Responses, asked through the official client and byte by byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from asgi_client import Fixed, until_live
from chunking import FEW, PLACES, TEXTS, scripts_in_any_chunks
from house import FAST, MESSAGE
from hypothesis import given
from hypothesis import strategies as st
from responses_script import USAGE, Piece, event, item, llama, vllm, whole
from serving import http
from upstream import Upstream

from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.errors import NotFound, TooLarge
from prism.http.family import Call, Reading
from prism.http.inprocess import Reply, call
from prism.http.stored import Stored, withheld
from prism.http.tenancy import Guest
from prism.moderator import Moderator

ENGINES = pytest.mark.parametrize("engine", [vllm, llama])
Engine = Callable[..., list[bytes]]
BAD = ["mar", "zipan ga", "sket"]


def streamed(client: openai.OpenAI, name: str, **more: Any) -> tuple[list[Any], Any]:
    """Return a stream's events, and the response that its last one holds."""
    events = list(client.responses.create(model=name, input="hello", stream=True, **more))
    return events, events[-1].response


def everything(events: list[Any]) -> str:
    return "\n".join(each.to_json() for each in events)


@ENGINES
def test_what_is_allowed_comes_through(
    client: openai.OpenAI, upstream: Upstream, engine: Engine
) -> None:
    pieces: list[Piece] = [
        ("reasoning", ["let me", " see"]),
        ("message", ["a ", "zephyr", " is a wind"]),
        ("function_call", ["look", '{"a"', ': "b"}']),
    ]
    name = upstream.say(f"fine-{engine.__name__}", stream=engine(pieces))
    with client.responses.stream(model=name, input="hello") as stream:
        kinds = [each.type for each in stream]
        got = stream.get_final_response()
    thought, said, made = got.output
    assert thought.type == "reasoning"
    assert thought.content
    assert thought.content[0].text == "let me see"
    assert got.output_text == "a zephyr is a wind"
    assert said.type == "message"
    assert made.type == "function_call"
    assert (made.name, made.arguments) == ("look", '{"a": "b"}')
    assert made.call_id == ("call_2" if engine is vllm else "fc_call_2")
    assert got.status == "completed"
    assert got.usage is not None
    assert got.usage.total_tokens == 12
    assert kinds.count("response.output_item.done") == 3
    events, final = streamed(client, name)
    assert final.output_text == "a zephyr is a wind"
    assert [each.sequence_number for each in events] == list(range(len(events)))
    for each in events:
        if each.type == "response.output_text.done":
            assert each.text == "a zephyr is a wind"


def test_a_custom_tools_input_comes_through(client: openai.OpenAI, upstream: Upstream) -> None:
    name = upstream.say("custom", stream=vllm([("custom_tool_call", ["run", "make", " it"])]))
    events, final = streamed(client, name)
    assert final.output[0].input == "make it"
    deltas = [e.delta for e in events if e.type == "response.custom_tool_call_input.delta"]
    assert "".join(deltas) == "make it"


def test_a_whole_answer_comes_through(client: openai.OpenAI, upstream: Upstream) -> None:
    body = whole([("reasoning", ["hm"]), ("message", ["the walnut ferry sails"]),
                  ("function_call", ["look", '{"a": 1}'])])  # fmt: skip
    body["output"].append({"type": "mcp_call", "id": "mcp_1", "arguments": "zephyr", "name": "x"})
    body["output"][1]["content"][0]["annotations"] = [{"type": "file", "title": "zephyr"}]
    body["output_messages"] = [{"message": "zephyr", "tokens": [5]}]
    name = upstream.say("whole", body=body)
    got = client.responses.create(model=name, input="hello", instructions="be kind")
    assert got.output_text == "the [redacted] sails"
    assert [each.type for each in got.output] == ["reasoning", "message", "function_call"]
    assert (got.status, got.instructions, got.temperature) == ("completed", "be kind", 0.5)
    assert got.usage is not None
    assert got.usage.output_tokens == 5
    assert "zephyr" not in got.to_json()
    raw = http.post(f"{client.base_url}responses", json={"model": name, "input": "hello"})
    assert json.loads(raw.headers["x-prism-receipt"])["channels"]["text"] > 0


def test_why_an_answer_is_incomplete_is_told(client: openai.OpenAI, upstream: Upstream) -> None:
    short = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    pieces: list[Piece] = [("message", ["so far"])]
    name = upstream.say("short", stream=vllm(pieces, **short), body=whole(pieces, **short))
    for got in (client.responses.create(model=name, input="x"), streamed(client, name)[1]):
        assert got.status == "incomplete"
        assert got.incomplete_details.reason == "max_output_tokens"
        assert got.output_text == "so far"


def test_logprobs_follow_the_text(client: openai.OpenAI, upstream: Upstream) -> None:
    fine = upstream.say(
        "logs", stream=vllm([("message", ["a ", "zephyr", " blows"])], logprobs=True)
    )
    asked: Any = {"include": ["message.output_text.logprobs"]}
    events, final = streamed(client, fine, **asked)
    told = [row.token for e in events if e.type == "response.output_text.delta"
            for row in e.logprobs]  # fmt: skip
    assert told == ["a ", "zephyr", " blows"]
    assert [row.token for row in final.output[0].content[0].logprobs] == told
    events, _ = streamed(client, fine)
    assert all(not e.logprobs for e in events if e.type == "response.output_text.delta")
    bad = upstream.say("logs-bad", stream=vllm([("message", ["a ", *BAD])], logprobs=True))
    events, _ = streamed(client, bad, **asked)
    assert "zipan" not in everything(events)


@pytest.mark.parametrize(
    "asked",
    [
        {"input": "a zephyr lantern"},
        {"input": [{"role": "user", "content": "zephyr lantern"}]},
        {"input": [{"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "zephyr lan"},
            {"type": "input_text", "text": "tern"}]}]},
        {"instructions": "zephyr lantern"},
        {"input": [{"type": "function_call", "call_id": "a", "name": "x",
                    "arguments": "zephyr lantern"}]},
        {"input": [{"type": "function_call", "call_id": "a", "name": "x",
                    "arguments": '{"a": "x\\nzephyr lantern"}'}]},
        {"input": [{"type": "function_call_output", "call_id": "a", "output": "zephyr lantern"}]},
        {"input": [{"type": "function_call_output", "call_id": "a", "output": [
            {"type": "input_text", "text": "zephyr lantern"}]}]},
        {"input": [{"type": "custom_tool_call_output", "call_id": "a",
                    "output": "zephyr lantern"}]},
        {"input": [{"type": "reasoning", "summary": [], "content": [
            {"type": "reasoning_text", "text": "zephyr lan"},
            {"type": "reasoning_text", "text": "tern"}]}]},
        {"input": [{"type": "reasoning", "summary": [
            {"type": "summary_text", "text": "zephyr lantern"}]}]},
        {"tools": [{"type": "function", "name": "x", "description": "zephyr lantern",
                    "parameters": {}}]},
        {"text": {"format": {"type": "json_schema", "name": "x",
                             "schema": {"const": "zephyr lantern"}}}},
    ],
)  # fmt: skip
def test_a_prompt_is_judged_in_every_shape(
    client: openai.OpenAI, upstream: Upstream, asked: dict[str, Any]
) -> None:
    upstream.seen.clear()
    got = client.responses.create(model="small", input="hello", extra_body=asked)
    assert got.output_text == MESSAGE
    assert got.status == "incomplete"
    assert got.incomplete_details is not None
    assert got.incomplete_details.reason == "content_filter"
    assert got.usage is not None
    assert got.usage.total_tokens == 0
    events, final = streamed(client, "small", extra_body=asked)
    assert final.output_text == MESSAGE
    assert [e.type for e in events][:2] == ["response.created", "response.in_progress"]
    assert events[-1].type == "response.incomplete"
    assert upstream.seen == []


@ENGINES
def test_an_output_block_ends_the_response(
    client: openai.OpenAI, upstream: Upstream, engine: Engine
) -> None:
    texts = ["well, a marzi", "pan gas", "ket is", " fine"]
    name = upstream.say(
        f"cut-{engine.__name__}",
        stream=engine([("message", texts)]),
        body=whole([("message", texts)]),
    )
    events, final = streamed(client, name)
    assert events[-1].type == "response.incomplete"
    assert final.output_text == "well, a "
    assert (final.status, final.incomplete_details.reason) == ("incomplete", "content_filter")
    assert final.output[0].status == "incomplete"
    assert final.usage.output_tokens == 3
    assert "marzi" not in everything(events)
    got = client.responses.create(model=name, input="hello")
    assert (got.output_text, got.status, len(got.output)) == (MESSAGE, "incomplete", 1)
    assert got.usage is not None
    assert got.usage.output_tokens == 5


@ENGINES
@pytest.mark.parametrize(
    ("pieces", "spoken"),
    [
        ([("message", BAD)], MESSAGE),
        ([("reasoning", ["hm, ", *BAD]), ("message", ["yes"])], None),
        ([("function_call", ["marzipan gasket", "{}"])], MESSAGE),
        ([("function_call", ["look", '{"a": "', *BAD, '"}'])], ""),
        ([("function_call", ["look", '{"a": "x\\', "nmarzipan", "\\n", "gasket", '"}'])], ""),
        ([("message", ["so"]), ("function_call", ["look", '{"', *BAD, '": 1}'])], "so"),
        ([("message", ["a marzipan"]), ("function_call", ["look", "{}"]),
          ("message", [" gasket"])], "a marzipan"),
    ],
)  # fmt: skip
def test_no_channel_leaks(
    client: openai.OpenAI,
    upstream: Upstream,
    engine: Engine,
    pieces: list[Piece],
    spoken: str | None,
) -> None:
    name = upstream.say("leak", stream=engine(pieces), body=whole(pieces))
    events, final = streamed(client, name)
    assert final.status == "incomplete"
    assert final.incomplete_details.reason == "content_filter"
    assert "gasket" not in everything(events)
    if spoken is not None and (engine is vllm or len(pieces) < 3):
        assert final.output_text == spoken
    got = client.responses.create(model=name, input="hello")
    assert (got.output_text, len(got.output)) == (MESSAGE, 1)


def test_texts_that_only_the_repeating_events_hold_are_judged(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    start = vllm([("message", ["x"])])[:2]
    bad = item(0, "message", BAD)
    part = bad["content"][0]
    place = {"item_id": "msg_0", "output_index": 0, "content_index": 0}
    added = event("response.output_item.added", output_index=0, item={**bad, "content": []})
    for late in (
        [added, event("response.output_text.done", **place, text=part["text"])],
        [added, event("response.content_part.done", **place, part=part)],
        [added, event("response.output_item.done", output_index=0, item=bad)],
        [event("response.output_item.done", output_index=0, item=bad)],
        [event("response.completed", response=whole([("message", BAD)]))],
        [added, event("response.completed", response=whole([("message", BAD)]))],
    ):
        name = upstream.say("late", stream=[*start, *late])
        events, final = streamed(client, name)
        assert final.output_text == MESSAGE
        assert "gasket" not in everything(events)
    fine = item(0, "message", ["all well"])
    name = upstream.say("late", stream=[
        *start, added, event("response.output_item.done", output_index=0, item=fine),
        event("response.completed", response=whole([("message", BAD)])),
    ])  # fmt: skip
    events, final = streamed(client, name)
    assert (final.output_text, final.status) == ("all well", "completed")
    assert "gasket" not in everything(events)


def test_unknown_events_and_items_do_not_go_out(client: openai.OpenAI, upstream: Upstream) -> None:
    stream = vllm([("message", ["Fine."])])
    odd = [
        event("response.oddity", text="zephyr"),
        event("response.output_text.annotation.added", annotation={"title": "zephyr"}),
        event("response.output_item.added", output_index=7,
              item={"type": "mcp_call", "id": "mcp_1", "name": "zephyr"}),
        event("response.mcp_call_arguments.delta", item_id="mcp_1", output_index=7, delta="zephyr"),
        event("response.output_text.delta", item_id="msg_77", output_index=77, delta="zephyr"),
        event("response.output_item.done", output_index=7,
              item={"type": "mcp_call", "id": "mcp_1", "name": "zephyr"}),
        b"data: [DONE]\n\n",
    ]  # fmt: skip
    name = upstream.say("odd", stream=[*stream[:4], *odd, *stream[4:]])
    events, final = streamed(client, name)
    assert final.output_text == "Fine."
    assert "zephyr" not in everything(events)


@pytest.mark.parametrize(
    "error",
    [
        {"type": "error", "code": "x", "message": "oh, marzipan gasket", "param": None},
        {"error": {"code": 500, "message": "oh, marzipan gasket", "type": "server_error"}},
    ],
)
def test_an_error_inside_a_stream(
    client: openai.OpenAI, upstream: Upstream, error: dict[str, Any]
) -> None:
    data = b"event: error\ndata: " + json.dumps(error).encode() + b"\n\n"
    name = upstream.say("error", stream=[*vllm([("message", ["hi"])])[:4], data])
    *_, last = client.responses.create(model=name, input="hello", stream=True)
    assert last.type == "error"
    assert "withheld" in last.message
    failed = {"status": "failed", "error": {"code": "x", "message": "oh, marzipan gasket"}}
    name = upstream.say("failed", stream=[*vllm([])[:2], event(
        "response.failed", response=whole([], **failed))])  # fmt: skip
    _, final = streamed(client, name)
    assert final.status == "failed"
    assert "gasket" not in final.to_json()


@pytest.mark.parametrize(
    "asked",
    [
        {"input": 5},
        {"input": [5]},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        {"input": [{"type": "message", "role": "user", "content": [
            {"type": "input_file", "file_id": "x"}]}]},
        {"instructions": 5},
        {"background": True},
        {"request_id": "resp_1"},
        {"prompt": {"id": "x"}},
        {"conversation": "conv_1"},
        {"previous_input_messages": [{"role": "user", "content": "hello"}]},
        {"tools": [{"type": "web_search"}]},
        {"tools": 5},
        {"store": "yes"},
        {"previous_response_id": 5},
        {"n": 2},
        {"PRISM-policy": "none"},
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_refused(
    client: openai.OpenAI, upstream: Upstream, asked: dict[str, Any]
) -> None:
    upstream.seen.clear()
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model="small", input="hello", extra_body=asked)
    assert upstream.seen == []


# Stored responses


def test_a_conversation_is_judged_as_a_whole(client: openai.OpenAI, upstream: Upstream) -> None:
    first = upstream.say("turn-1", stream=vllm([("message", ["sure"])], "resp_turn1"))
    streamed(client, first, extra_body={"input": "Say: zephyr"})
    upstream.seen.clear()
    second = upstream.say("turn-2", body=whole([("message", ["ok"])], "resp_turn2"))
    got = client.responses.create(
        model=second, input="and again", previous_response_id="resp_turn1"
    )
    assert got.output_text == "ok"
    assert got.previous_response_id == "resp_turn1"
    assert upstream.seen[-1]["previous_response_id"] == "resp_turn1"
    upstream.say("turn-3", body=whole([("message", ["zephyr"])], "resp_turn3"))
    client.responses.create(model="turn-3", input="a word", previous_response_id="resp_turn2")
    got = client.responses.create(model=second, input="lantern", previous_response_id="resp_turn3")
    assert got.output_text == MESSAGE  # what was said before, with what is said now
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model=second, input="x", previous_response_id="resp_unknown")


def test_a_stored_response_is_what_went_out(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.say("kept", body=whole([("message", ["the walnut ferry"])], "resp_kept"))
    client.responses.create(model="kept", input="hello")
    assert client.responses.retrieve("resp_kept").output_text == "the [redacted]"
    listed = client.responses.input_items.list("resp_kept")
    assert "hello" in listed.to_json()
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel("resp_kept")
    client.responses.delete("resp_kept")
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_kept")


@pytest.mark.parametrize("more", [{"store": False}, {}])
def test_what_was_not_stored_or_was_blocked_is_not_found(
    client: openai.OpenAI, upstream: Upstream, more: dict[str, Any]
) -> None:
    texts = ["fine"] if more else BAD
    upstream.say("gone", body=whole([("message", texts)], "resp_gone"))
    client.responses.create(model="gone", input="hello", **more)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_gone")
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="gone", input="x", previous_response_id="resp_gone")


def test_an_engine_that_gives_an_id_twice_is_not_trusted(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.say("twice", body=whole([("message", ["one"])], "resp_twice"))
    client.responses.create(model="twice", input="hello")
    client.responses.create(model="twice", input="hello")
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_twice")


def test_a_stored_response_belongs_to_its_tenant(settings: Settings) -> None:
    stored = Stored(per_tenant=2, chars=3_000)
    guests = {
        name: Guest(name, Moderator(settings.policy), Reading(400, 1, "proxy"), 1_000)
        for name in ("one", "two")
    }

    def turn(tenant: str, name: str, text: str = "hello", previous: str | None = None) -> None:
        asked = [{"role": "user", "content": text}]
        call = Call({"input": text}, asked, False, 1, "m", previous=previous)
        stored.join(call, guests[tenant])
        assert call.keep is not None
        call.keep(whole([("message", [text])], name))

    def known(tenant: str, name: str) -> bool:
        try:
            stored.answer("GET", f"/v1/responses/{name}", guests[tenant])
        except NotFound:
            return False
        return True

    turn("one", "resp_a")
    assert known("one", "resp_a")
    assert not known("two", "resp_a")
    with pytest.raises(NotFound):
        turn("two", "resp_b", previous="resp_a")
    for name in ("resp_c", "resp_d"):
        turn("one", name)
    assert [known("one", f"resp_{key}") for key in "acd"] == [False, True, True]
    with pytest.raises(TooLarge):
        turn("one", "resp_e", "x" * 395, previous="resp_d")
    turn("two", "resp_f", "x" * 300)
    turn("two", "resp_g", "x" * 300)
    # Whoever holds most makes room, and nobody else.
    assert [known("one", f"resp_{key}") for key in "cd"] == [True, True]
    assert [known("two", f"resp_{key}") for key in "fg"] == [False, True]
    stricter = Guest("two", Moderator(settings.policy), Reading(400, 1, "proxy"), 1_000)
    turn("two", "resp_h", "marzipan gasket")  # as if the policy had changed since
    shown, text = stored.answer("GET", "/v1/responses/resp_h", stricter)
    assert stricter.moderator.check_output(text).blocked
    assert withheld(shown, MESSAGE)["output"][0]["content"][0]["text"] == MESSAGE


def test_a_stored_response_is_judged_again_under_todays_policy(
    client: openai.OpenAI, upstream: Upstream, middleware: PrismMiddleware
) -> None:
    upstream.say("again", body=whole([("message", ["fine"])], "resp_again"))
    client.responses.create(model="again", input="hello")
    assert client.responses.retrieve("resp_again").output_text == "fine"
    # As if the policy had changed since.
    kept = middleware._server.stored._records["resp_again"].response
    kept["output"][0]["content"][0]["text"] = "marzipan gasket"
    shown = client.responses.retrieve("resp_again")
    assert (shown.output_text, shown.status) == (MESSAGE, "incomplete")
    assert shown.incomplete_details is not None
    assert shown.incomplete_details.reason == "content_filter"


def test_other_routes_and_methods_of_stored_responses_are_denied(url: str) -> None:
    assert http.put(f"{url}/v1/responses/resp_1").status_code == 405
    assert http.get(f"{url}/v1/responses/resp_1/cancel").status_code == 405
    assert http.get(f"{url}/v1/responses/resp_1/other").status_code == 403
    assert http.get(f"{url}/v1/responses/resp_1/").status_code == 403
    assert http.get(f"{url}/v1/responses/a%2Fb").status_code == 403
    assert http.get(f"{url}/v1/responses").status_code == 405


# Byte by byte


async def respond(app: Any, **more: Any) -> Reply:
    body = {"model": "m", "input": "hello", "stream": True, **more}
    return await call(app, "POST", "/v1/responses", body, patience=60)


def bodies(reply: Reply) -> list[dict[str, Any]]:
    blocks = [block for block in reply.body.decode().split("\n\n") if block.startswith("event")]
    found = []
    for block in blocks:
        head, _, data = block.partition("\ndata: ")
        found.append(json.loads(data))
        assert head == f"event: {found[-1]['type']}"
    return found


def said(reply: Reply) -> tuple[str, str]:
    """Return the text of the deltas and the end; every repetition has to agree."""
    found = bodies(reply)
    text = "".join(b["delta"] for b in found if b["type"] == "response.output_text.delta")
    final = found[-1]["response"]
    parts = [part["text"] for one in final["output"] for part in one["content"]]
    assert "".join(parts) == text
    dones = [b["text"] for b in found if b["type"] == "response.output_text.done"]
    assert "".join(dones) == text
    items = [b["item"] for b in found if b["type"] == "response.output_item.done"]
    assert items == final["output"]
    return text, str((final["incomplete_details"] or {}).get("reason"))


@FEW
@given(pieces=TEXTS, places=PLACES, which=st.booleans())
async def test_any_chunking_gives_the_same_text_and_no_leak(
    settings: Settings, pieces: list[str], places: list[int], which: bool
) -> None:
    async def ask(app: Any) -> tuple[str, str | None]:
        return said(await respond(app))

    script: Engine = vllm if which else llama
    await scripts_in_any_chunks(settings, script, "message", pieces, places, ask)


@pytest.mark.parametrize(
    "broken",
    [
        b"data: {\n\n",
        b'data: "zephyr"\n\n',
        b'data: {"delta": "zephyr"}\n\n',
        event("response.output_text.delta", item_id="msg_0", output_index=0, delta=5),
        event("response.output_text.delta", output_index=0, content_index="x", delta="zephyr"),
        event("response.reasoning_text.delta", output_index=0, delta="zephyr"),
        event("response.output_text.done", output_index=0, content_index=0, text=["zephyr"]),
        event("response.output_item.added", output_index=0, item={"type": "message"}),
        event("response.output_item.added", output_index=1, item="zephyr"),
        event("response.output_item.added", item={"type": "message", "text": "zephyr"}),
        event("response.completed", response="zephyr"),
    ],
)
async def test_a_stream_that_cannot_be_read_is_closed(settings: Settings, broken: bytes) -> None:
    start = vllm([("message", ["Fine. "])])[:5]
    later = event("response.output_text.delta", item_id="msg_0", output_index=0, delta="zephyr")
    app = PrismMiddleware(Fixed([*start, broken, later]), settings=settings, timing=FAST)
    await until_live(app)
    reply = await respond(app)
    await app.selftest.stop()
    assert b"zephyr" not in reply.body
    assert bodies(reply)[-1]["type"] == "error"
    assert b"[DONE]" not in reply.body
    assert b": prism-receipt" in reply.body


async def test_a_response_that_breaks_off_has_no_end(settings: Settings) -> None:
    engine = Fixed(vllm([("message", ["a zephyr"])])[:5])
    app = PrismMiddleware(engine, settings=settings, timing=FAST)
    await until_live(app)
    reply = await respond(app)
    await app.selftest.stop()
    found = bodies(reply)
    assert "".join(b.get("delta", "") for b in found) == "a zephyr"
    assert found[-1]["type"] == "response.output_text.delta"


async def test_a_refusal_of_the_token_layer_is_named(settings: Settings) -> None:
    engine = Upstream()
    engine.token_layer = MESSAGE
    pieces: list[Piece] = [("message", ["I see. ", MESSAGE])]
    engine.say("t", stream=vllm(pieces), body=whole(pieces))
    app = PrismMiddleware(engine.app, settings=settings, timing=FAST, layers=("text", "token"))
    await until_live(app)
    streamed, in_one = [await respond(app, model="t", stream=each) for each in (True, False)]
    await app.selftest.stop()
    assert said(streamed) == (f"I see. {MESSAGE}", "content_filter")
    assert in_one.json()["incomplete_details"] == {"reason": "content_filter"}


def test_usage_is_the_engines(client: openai.OpenAI, upstream: Upstream) -> None:
    name = upstream.say("usage", stream=vllm([("message", ["ok"])]))
    _, final = streamed(client, name)
    assert json.loads(final.usage.to_json()) == USAGE


def test_pictures_that_are_kept_count_as_well(settings: Settings) -> None:
    stored = Stored(chars=10_000)
    guest = Guest("one", Moderator(settings.policy), Reading(400, 1, "proxy"), 1_000)
    picture = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 6_000}
    for name in ("resp_a", "resp_b"):
        body = {"input": [{"type": "message", "role": "user", "content": [picture]}]}
        call = Call(body, [{"role": "user", "content": "hello"}], False, 1, "m")
        stored.join(call, guest)
        assert call.keep is not None
        call.keep(whole([("message", ["fine"])], name))
    with pytest.raises(NotFound):
        stored.answer("GET", "/v1/responses/resp_a", guest)
    assert stored.answer("GET", "/v1/responses/resp_b", guest)[1] == "fine"
