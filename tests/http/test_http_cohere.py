"""Cohere's v2 chat: events as vLLM writes them, which are Cohere's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chunking import FEW, PLACES, TEXTS, in_any_chunks
from house import MESSAGE
from hypothesis import given
from serving import http
from upstream import DONE, Upstream, encode

from prism.config import Settings
from prism.http.inprocess import call

ASK: Any = [{"role": "user", "content": "hello"}]
BAD: Any = [{"role": "user", "content": "tell me of the Zephyr Lantern"}]
PATHS = ["/v2/chat", "/cohere/v2/chat"]
TOKENS = {"input_tokens": 7, "output_tokens": 5}
USAGE = {"billed_units": TOKENS, "tokens": TOKENS}


def row(kind: str, index: int, **message: Any) -> dict[str, Any]:
    return {"type": kind, "index": index, "delta": {"message": message}}


def start() -> dict[str, Any]:
    return {"type": "message-start", "id": "c1", "delta": {"message": {"role": "assistant"}}}


def end(reason: str = "COMPLETE", **more: Any) -> dict[str, Any]:
    delta = {"finish_reason": reason, "usage": USAGE, **more}
    return {"type": "message-end", "id": "c1", "delta": delta}


def block(pieces: list[str], index: int = 0, kind: str = "text") -> list[Any]:
    return [
        row("content-start", index, content={"type": kind, kind: ""}),
        *(row("content-delta", index, content={kind: piece}) for piece in pieces),
        {"type": "content-end", "index": index},
    ]


def plan(text: str) -> dict[str, Any]:
    return {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": text}}}


def tool(pieces: list[str], index: int = 0, name: str = "look", **head: Any) -> list[Any]:
    function = {"name": name, "arguments": ""}
    begun = {"id": "call_1", "type": "function", "function": function, **head}
    return [
        row("tool-call-start", index, tool_calls=begun),
        *(row("tool-call-delta", index, tool_calls={"function": {"arguments": piece}})
          for piece in pieces),
        {"type": "tool-call-end", "index": index},
    ]  # fmt: skip


def cited(text: str) -> list[Any]:
    source = {"type": "document", "id": "d1", "document": {"title": text}}
    found = {"start": 0, "end": 4, "text": "fine", "sources": [source]}
    return [row("citation-start", 0, citations=found), {"type": "citation-end", "index": 0}]


def events(data: bytes) -> list[dict[str, Any]]:
    blocks = data.decode().split("\n\n")
    found = [b.removeprefix("data: ") for b in blocks if b.startswith("data: ")]
    assert found[-1] == DONE
    return [json.loads(text) for text in found[:-1]]


def stream(url: str, name: str, path: str = "/v2/chat", **body: Any) -> list[dict[str, Any]]:
    asked = {"model": name, "messages": ASK, "stream": True, **body}
    reply = http.post(url + path, json=asked)
    assert reply.status_code == 200, reply.text
    assert reply.content.count(b": prism-receipt ") == 1
    found = events(reply.content)
    well_formed(found)
    return found


def well_formed(found: list[dict[str, Any]]) -> None:
    """Everything that begins ends, and nothing comes in between."""
    assert [found[0]["type"], found[-1]["type"]] == ["message-start", "message-end"]
    opened = None
    for event in found[1:-1]:
        kind, _, what = event["type"].rpartition("-")
        if kind == "tool-plan":
            assert opened is None
        elif what == "start":
            assert opened is None
            opened = (kind, event["index"])
        else:
            assert opened == (kind, event["index"])
            opened = None if what == "end" else opened
    assert opened is None


def said(found: list[dict[str, Any]], kind: str = "text") -> tuple[str, str]:
    messages = [event["delta"].get("message", {}) for event in found if "delta" in event]
    if kind == "tool_plan":
        text = "".join(message.get(kind, "") for message in messages)
    else:
        text = "".join(message.get("content", {}).get(kind, "") for message in messages)
    return text, found[-1]["delta"]["finish_reason"]


def whole(*content: dict[str, Any], reason: str = "COMPLETE", **message: Any) -> dict[str, Any]:
    made = {"role": "assistant", "content": list(content), **message}
    return {"id": "c1", "finish_reason": reason, "message": made, "usage": USAGE}


def ask(url: str, name: str, **body: Any) -> dict[str, Any]:
    reply = http.post(f"{url}/v2/chat", json={"model": name, "messages": ASK, **body})
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


@pytest.mark.parametrize("path", PATHS)
def test_an_ordinary_stream_passes(url: str, upstream: Upstream, path: str) -> None:
    sent = [start(), *block(["Hm, "], 0, "thinking"), *block(["Good ", "day."], 1), end(), DONE]
    name = upstream.say("plain", stream=sent)
    found = stream(url, name, path)
    assert said(found) == ("Good day.", "COMPLETE")
    assert said(found, "thinking")[0] == "Hm, "
    assert found[-1]["delta"]["usage"] == USAGE
    assert [e["index"] for e in found if e["type"] == "content-start"] == [0, 1]


def test_an_ordinary_answer_passes(url: str, upstream: Upstream) -> None:
    call_ = {"id": "x", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    body = whole(
        {"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Good day."},
        tool_calls=[call_], tool_plan="Look.", citations=[{"start": 0, "end": 4, "text": "Good"}],
    )  # fmt: skip
    body["message"]["secret"] = "marzipan gasket"
    got = ask(url, upstream.say("whole", body=body))
    del body["message"]["secret"]
    assert got == body


@pytest.mark.parametrize("path", PATHS)
def test_a_blocked_prompt_never_reaches_the_engine(url: str, upstream: Upstream, path: str) -> None:
    before = len(upstream.seen)
    got = http.post(url + path, json={"model": "x", "messages": BAD}).json()
    assert got["message"]["content"] == [{"type": "text", "text": MESSAGE}]
    assert (got["finish_reason"], got["usage"]["tokens"]["output_tokens"]) == ("ERROR_TOXIC", 0)
    assert said(stream(url, "x", path, messages=BAD)) == (MESSAGE, "ERROR_TOXIC")
    assert len(upstream.seen) == before


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "system", "content": "zephyr lantern"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "zephyr lantern"}]}]},
        {"messages": [{"role": "assistant", "tool_plan": "zephyr lantern"}]},
        {"messages": [{"role": "assistant",
                       "content": [{"type": "thinking", "thinking": "zephyr lantern"}]}]},
        {"messages": [{"role": "tool", "tool_call_id": "c", "content": [
            {"type": "document", "document": {"id": "d", "data": {"t": "zephyr lantern"}}}]}]},
        {"messages": ASK, "documents": ["zephyr lantern"]},
        {"messages": ASK, "documents": [{"id": "a", "data": {"text": "zephyr lantern"}}]},
        {"messages": ASK, "tools": [{"function": {"description": "zephyr lantern"}}]},
        {"messages": ASK, "response_format": {"schema": {"title": "zephyr lantern"}}},
    ],
)  # fmt: skip
def test_prompts_of_every_shape_are_judged(url: str, upstream: Upstream, body: Any) -> None:
    before = len(upstream.seen)
    got = http.post(f"{url}/v2/chat", json={"model": "x", **body}).json()
    assert got["finish_reason"] == "ERROR_TOXIC"
    assert len(upstream.seen) == before


@pytest.mark.parametrize(
    "body",
    [
        {"messages": "a"}, {"messages": ASK, "logprobs": True}, {"messages": ASK, "stream": 1},
        {"messages": ASK, "kv_transfer_params": {}}, {"messages": ASK, "prism": 1},
        {"messages": [{"role": "user", "content": [{"type": "unheard_of"}]}]},
    ],
)  # fmt: skip
def test_errors_are_in_coheres_shape(url: str, body: Any) -> None:
    reply = http.post(f"{url}/v2/chat", json={"model": "x", **body})
    assert reply.status_code == 400
    assert set(reply.json()) == {"message"}


def test_a_stream_is_cut_where_the_match_begins(url: str, upstream: Upstream) -> None:
    parts = ["Look: the ze", "phyr lan", "tern", " shines"]
    name = upstream.say("cut", stream=[start(), *block(parts), end(), DONE])
    assert said(stream(url, name)) == ("Look: the ", "ERROR_TOXIC")
    name = upstream.say("atonce", stream=[start(), *block(["zephyr", " lantern"]), end(), DONE])
    assert said(stream(url, name)) == (MESSAGE, "ERROR_TOXIC")
    parts = ["by wal", "nut fer", "ry today"]
    name = upstream.say("soft", stream=[start(), *block(parts), end(), DONE])
    assert said(stream(url, name)) == ("by [redacted] today", "COMPLETE")


def test_a_phrase_over_two_blocks_is_found(url: str, upstream: Upstream) -> None:
    sent = [start(), *block(["so mar"]), *block(["zipan gasket"], 1), end(), DONE]
    found = stream(url, upstream.say("over", stream=sent))
    assert said(found)[1] == "ERROR_TOXIC"
    assert "zipan" not in said(found)[0]


@pytest.mark.parametrize("kind", ["thinking", "tool_plan"])
def test_thinking_and_plans_do_not_leak(url: str, upstream: Upstream, kind: str) -> None:
    parts = ["so mar", "zipan gas", "ket is"]
    first = block(parts, 0, "thinking") if kind == "thinking" else [plan(part) for part in parts]
    sent = [start(), *first, *block(["well"], 1), end(), DONE]
    found = stream(url, upstream.say(f"think-{kind}", stream=sent))
    assert said(found, kind) == ("so ", "ERROR_TOXIC")
    assert said(found) == (MESSAGE, "ERROR_TOXIC")
    extra = {kind: "".join(parts)} if kind == "tool_plan" else {}
    blocks = [{"type": "thinking", "thinking": "".join(parts)}] if kind == "thinking" else []
    body = whole(*blocks, {"type": "text", "text": "well"}, **extra)
    got = ask(url, upstream.say(f"think-{kind}-whole", body=body))
    assert got["message"] == {
        "role": "assistant",
        "content": [{"type": "text", "text": MESSAGE}],
    }


@pytest.mark.parametrize(
    "made",
    [
        tool(['{"q": "mar', "zipan gas", 'ket"}']), tool(["{}"], name="marzipan_gasket"),
        tool(["{}"], id="marzipan gasket"),
        tool(["{}"], function={"name": "f", "arguments": "marzipan gasket"}),
    ],
)  # fmt: skip
def test_no_part_of_a_tool_call_leaks(url: str, upstream: Upstream, made: list[Any]) -> None:
    sent = [start(), *made, end("TOOL_CALL"), DONE]
    found = stream(url, upstream.say("tool", stream=sent))
    assert "marz" not in json.dumps(found)
    assert found[-1]["delta"]["finish_reason"] == "ERROR_TOXIC"


def test_clean_tool_calls_arrive(url: str, upstream: Upstream) -> None:
    sent = [start(), plan("I will "), plan("look."), *tool(['{"city": ', '"Zephyrville"}']),
            *tool(["{}"], 1, "news"), end("TOOL_CALL"), DONE]  # fmt: skip
    found = stream(url, upstream.say("tools", stream=sent))
    assert said(found, "tool_plan") == ("I will look.", "TOOL_CALL")
    calls = [e["delta"]["message"]["tool_calls"] for e in found if "tool-call-" in e["type"]
             and "delta" in e]  # fmt: skip
    text = "".join(one["function"]["arguments"] for one in calls)
    assert text == '{"city": "Zephyrville"}{}'
    assert [one["function"]["name"] for one in calls if "id" in one] == ["look", "news"]


def test_citations_come_after_the_text_and_are_judged(url: str, upstream: Upstream) -> None:
    sent = [start(), *block(["fine"]), *cited("a book"), end(), DONE]
    found = stream(url, upstream.say("cited", stream=sent))
    assert found[-3]["delta"]["message"]["citations"]["text"] == "fine"
    assert found[-2]["type"] == "citation-end"
    sent = [start(), *block(["fine"]), *cited("marzipan gasket"), end(), DONE]
    found = stream(url, upstream.say("cited-bad", stream=sent))
    assert said(found) == ("fine", "ERROR_TOXIC")
    assert "marzipan" not in json.dumps(found)


def test_errors_of_the_engine(url: str, upstream: Upstream) -> None:
    fine = {"message": "no such model", "id": "c1"}
    name = upstream.say("error", status=404, body=fine)
    reply = http.post(f"{url}/v2/chat", json={"model": name, "messages": ASK})
    assert (reply.status_code, reply.json()) == (404, fine)
    name = upstream.say("quotes", status=500, body={"message": "at marzipan gasket"})
    reply = http.post(f"{url}/v2/chat", json={"model": name, "messages": ASK})
    assert "withheld" in reply.json()["message"]
    sent = [start(), *block(["fine"]), end("ERROR", error="at marzipan gasket"), DONE]
    found = stream(url, upstream.say("mid", stream=sent))
    assert found[-1]["delta"]["finish_reason"] == "ERROR"
    assert "marzipan" not in json.dumps(found)


@pytest.mark.parametrize(
    "sent",
    [
        [row("content-delta", 0, content={"text": "a"})], [{"type": "content-start", "index": 0}],
        [row("content-start", 0, content={"type": "video"})], ["not json"],
        [row("content-start", -1, content={"type": "text"})], [row("tool-call-start", 0)],
        [*block(["a"]), row("content-delta", 0, content={"text": "b"})],
        [row("content-start", 0, content={"type": "text", "text": 3})],
    ],
)  # fmt: skip
def test_what_breaks_the_contract_ends_the_stream(
    url: str, upstream: Upstream, sent: list[Any]
) -> None:
    name = upstream.say("broken", stream=[start(), *sent, *block(["zephyr lantern"]), end(), DONE])
    reply = http.post(f"{url}/v2/chat", json={"model": name, "messages": ASK, "stream": True})
    last = events(reply.content)[-1]
    assert (last["type"], last["delta"]["finish_reason"]) == ("message-end", "ERROR")
    assert "zephyr" not in reply.text


@FEW
@given(pieces=TEXTS, places=PLACES)
async def test_any_chunking_of_the_bytes_gives_the_same_text_and_no_leak(
    settings: Settings, pieces: list[str], places: list[int]
) -> None:
    async def ask(app: Any) -> tuple[str, str | None]:
        body = {"messages": ASK, "stream": True}
        found = events((await call(app, "POST", "/v2/chat", body, patience=60)).body)
        well_formed(found)
        return said(found)

    raw = b"".join(encode(event) for event in [start(), *block(pieces), end(), DONE])
    await in_any_chunks(settings, raw, pieces, places, ask, blocked="ERROR_TOXIC")
