"""Ollama's API with its official client: lines as Ollama writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest
from asgi_client import until_live
from chunking import FEW, PLACES, TEXTS, in_any_chunks
from house import FAST, MESSAGE
from hypothesis import given
from hypothesis import strategies as st
from serving import http
from upstream import Upstream

from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.dialect import LineReader
from prism.http.errors import UpstreamShape
from prism.http.inprocess import call
from prism.http.sse import MAX_EVENT_BYTES

LINES = "application/x-ndjson"
ASK: Any = [{"role": "user", "content": "hello"}]
BAD: Any = [{"role": "user", "content": "tell me of the Zephyr Lantern"}]
TOTALS = {
    "total_duration": 900, "load_duration": 10, "prompt_eval_count": 7,
    "prompt_eval_duration": 300, "eval_count": 5, "eval_duration": 500,
}  # fmt: skip


@pytest.fixture
def ai(url: str) -> Iterator[ollama.Client]:
    made = ollama.Client(url)
    yield made
    made._client.close()


def frame(**more: Any) -> dict[str, Any]:
    return {"model": "small", "created_at": "2026-11-21T10:00:00.123456789Z", **more}


def chat_line(content: str = "", **message: Any) -> dict[str, Any]:
    return frame(message={"role": "assistant", "content": content, **message}, done=False)


def chat_end(content: str = "", **message: Any) -> dict[str, Any]:
    return {**chat_line(content, **message), "done_reason": "stop", "done": True, **TOTALS}


def text_line(text: str = "", **more: Any) -> dict[str, Any]:
    return frame(response=text, done=False, **more)


def text_end(text: str = "", **more: Any) -> dict[str, Any]:
    end = {"done": True, "done_reason": "stop", "context": [105, 2364], **TOTALS}
    return {**text_line(text), **end, **more}


def lines(*rows: dict[str, Any]) -> list[bytes]:
    return [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows]


def say(upstream: Upstream, name: str, *rows: dict[str, Any], **more: Any) -> str:
    return upstream.say(name, stream=lines(*rows), content_type=LINES, **more)


def say_either(
    upstream: Upstream, name: str, stream: bool, rows: list[dict[str, Any]], body: Any
) -> str:
    return say(upstream, name, *rows) if stream else upstream.say(name, body=body)


def chat(ai: ollama.Client, name: str, **more: Any) -> tuple[str, Any]:
    parts = list(ai.chat(model=name, messages=ASK, stream=True, **more))
    return "".join(part.message.content or "" for part in parts), parts[-1]


def test_an_ordinary_answer_passes_untouched(ai: ollama.Client, upstream: Upstream) -> None:
    got = ai.chat(model=upstream.say("plain", body=chat_end("Good morning.")), messages=ASK)
    assert (got.message.content, got.done, got.done_reason) == ("Good morning.", True, "stop")
    assert (got.prompt_eval_count, got.eval_count, got.total_duration) == (7, 5, 900)
    assert got.created_at == "2026-11-21T10:00:00.123456789Z"
    name = upstream.say("plain-text", body=text_end("Good morning.", secret="marzipan gasket"))
    text = ai.generate(model=name, prompt="hello")
    assert (text.response, text.done_reason) == ("Good morning.", "stop")
    assert text.context is None  # the conversation as ids: nobody here can read it
    body = {"model": name, "prompt": "a", "stream": False}
    reply = http.post(f"{ai._client.base_url}/api/generate", json=body)
    assert "x-prism-receipt" in reply.headers
    assert "marzipan" not in reply.text


def test_streaming_is_the_default_and_the_last_line_has_the_receipt(
    url: str, upstream: Upstream
) -> None:
    name = say(upstream, "lines", chat_line("fi"), chat_line("ne"), chat_end())
    reply = http.post(f"{url}/api/chat", json={"model": name, "messages": ASK})
    assert reply.headers["content-type"].startswith(LINES)
    got = [json.loads(line) for line in reply.text.splitlines()]
    assert "".join(row["message"]["content"] for row in got) == "fine"
    assert [row["done"] for row in got] == [False] * (len(got) - 1) + [True]
    assert not any("prism" in row for row in got[:-1])
    assert got[-1]["prism"]["tiers"] == {"prompt.patterns": "ran", "output.patterns": "ran"}
    assert got[-1]["eval_count"] == 5


def test_a_blocked_prompt_never_reaches_the_engine(ai: ollama.Client, upstream: Upstream) -> None:
    before = len(upstream.seen)
    got = ai.chat(model="x", messages=BAD)
    assert (got.message.content, got.done_reason, got.eval_count) == (MESSAGE, "content_filter", 0)
    parts = list(ai.chat(model="x", messages=BAD, stream=True))
    assert "".join(part.message.content or "" for part in parts) == MESSAGE
    assert (parts[-1].done, parts[-1].done_reason) == (True, "content_filter")
    text = ai.generate(model="x", prompt="zephyr lantern")
    assert (text.response, text.done_reason) == (MESSAGE, "content_filter")
    pieces = list(ai.generate(model="x", prompt="zephyr lantern", stream=True))
    assert "".join(piece.response or "" for piece in pieces) == MESSAGE
    assert len(upstream.seen) == before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("generate", {"prompt": "a", "system": "zephyr lantern"}),
        ("generate", {"prompt": "a", "suffix": "zephyr lantern"}),
        ("generate", {"prompt": "the zephyr lan", "suffix": "tern"}),
        ("generate", {"prompt": "a", "format": {"description": "zephyr lantern"}}),
        ("generate", {"prompt": "a", "unheard_of": ["zephyr lantern"]}),
        ("chat", {"messages": [{"role": "system", "content": "zephyr lantern"}]}),
        ("chat", {"messages": [{"role": "tool", "content": "zephyr lantern", "tool_name": "t"}]}),
        ("chat", {"messages": [{"role": "assistant", "thinking": "zephyr lantern"}]}),
        ("chat", {"messages": [{"role": "assistant", "tool_calls": [
            {"function": {"name": "f", "arguments": {"q": "zephyr lantern"}}}]}]}),
        ("chat", {"messages": ASK, "tools": [{"function": {"description": "zephyr lantern"}}]}),
    ],
)  # fmt: skip
def test_prompts_of_every_shape_are_judged(
    url: str, upstream: Upstream, path: str, body: Any
) -> None:
    before = len(upstream.seen)
    got = http.post(f"{url}/api/{path}", json={"model": "x", "stream": False, **body}).json()
    assert got["done_reason"] == "content_filter"
    assert len(upstream.seen) == before


def test_images_are_passed_by_and_said_to_be_unread(url: str, upstream: Upstream) -> None:
    name = upstream.say("picture", body=chat_end("fine"))
    picture = "enBoeXIgbGFudGVybg=="  # as text this would be a blocked prompt
    message = {"role": "user", "content": "what is it?", "images": [picture]}
    body = {"model": name, "messages": [message], "stream": False}
    reply = http.post(f"{url}/api/chat", json=body)
    assert reply.json()["message"]["content"] == "fine"
    assert json.loads(reply.headers["x-prism-receipt"])["unread"] == ["image"]
    assert upstream.seen[-1]["messages"] == [message]


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("generate", {"prompt": "a", "context": [1, 2]}, "context"),
        ("generate", {"prompt": "a", "template": "{{ .Prompt }}"}, "template"),
        ("generate", {"prompt": ["a"]}, "prompt"), ("generate", {"stream": "false"}, "stream"),
        ("generate", {"images": "a"}, "images"), ("chat", {"messages": "a"}, "messages"),
        ("chat", {"messages": [3]}, "messages[0]"), ("chat", {"prism": 1}, "prism"),
        ("chat", {"messages": [{"role": "user", "images": [{"a": 1}]}]}, "images"),
    ],
)  # fmt: skip
def test_errors_are_in_ollamas_shape(url: str, path: str, body: Any, word: str) -> None:
    reply = http.post(f"{url}/api/{path}", json={"model": "x", **body})
    assert reply.status_code == 400
    assert word in reply.json()["error"]


def test_a_blocked_answer_is_replaced_whole(ai: ollama.Client, upstream: Upstream) -> None:
    body = chat_end("A marzipan gasket.", thinking="so far so good")
    got = ai.chat(model=upstream.say("bad", body=body), messages=ASK)
    assert (got.message.content, got.done_reason) == (MESSAGE, "content_filter")
    assert got.message.thinking is None
    assert got.eval_count == 5


def test_a_stream_is_cut_where_the_match_begins(ai: ollama.Client, upstream: Upstream) -> None:
    parts = ["Look: the ze", "phyr lan", "tern", " shines"]
    name = say(upstream, "cut", *map(chat_line, parts), chat_end())
    text, last = chat(ai, name)
    assert (text, last.done, last.done_reason) == ("Look: the ", True, "content_filter")
    assert last.eval_count >= 3
    name = say(upstream, "atonce", *map(chat_line, ["zephyr", " lantern"]), chat_end())
    text, last = chat(ai, name)
    assert (text, last.done_reason) == (MESSAGE, "content_filter")
    name = say(upstream, "text", *map(text_line, ["by wal", "nut fer", "ry today"]), text_end())
    pieces = list(ai.generate(model=name, prompt="a", stream=True))
    assert "".join(piece.response or "" for piece in pieces) == "by [redacted] today"
    assert pieces[-1].done_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_does_not_leak(ai: ollama.Client, upstream: Upstream, stream: bool) -> None:
    parts = ["so mar", "zipan gas", "ket is"]
    rows = [*(chat_line("", thinking=part) for part in parts), chat_line("well"), chat_end()]
    whole = chat_end("well", thinking="".join(parts))
    name = say_either(upstream, "think", stream, rows, whole)
    if stream:
        found = list(ai.chat(model=name, messages=ASK, stream=True))
        assert "".join(part.message.content or "" for part in found) == MESSAGE
        assert "".join(part.message.thinking or "" for part in found) == "so "
        assert found[-1].done_reason == "content_filter"
        return
    got = ai.chat(model=name, messages=ASK)
    assert (got.message.content, got.done_reason) == (MESSAGE, "content_filter")


def tool(name: str = "look", **arguments: Any) -> dict[str, Any]:
    return {"id": "call_1", "function": {"index": 0, "name": name, "arguments": arguments}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "made",
    [
        tool("marzipan_gasket"), tool(q="a marzipan gasket"), tool(**{"marzipan gasket": 1}),
        tool(q=["x", {"deep": "marzipan\ngasket"}]),
        {**tool(q="fine"), "id": "marzipan gasket"},
    ],
)  # fmt: skip
def test_no_part_of_a_tool_call_leaks(
    url: str, upstream: Upstream, made: dict[str, Any], stream: bool
) -> None:
    rows = [chat_line("", tool_calls=[made]), chat_end()]
    name = say_either(upstream, "tool", stream, rows, chat_end(tool_calls=[made]))
    body = {"model": name, "messages": ASK, "stream": stream}
    reply = http.post(f"{url}/api/chat", json=body)
    assert "marzipan" not in reply.text
    assert json.loads(reply.text.splitlines()[-1])["done_reason"] == "content_filter"


@pytest.mark.parametrize("stream", [False, True])
def test_clean_tool_calls_arrive_and_a_redacted_one_keeps_its_form(
    ai: ollama.Client, upstream: Upstream, stream: bool
) -> None:
    calls = [tool(city="Zephyrville", days=3), tool("news", q="by walnut ferry", deep=["x"])]
    rows = [*(chat_line("", tool_calls=[one]) for one in calls), chat_end()]
    name = say_either(upstream, "tools", stream, rows, chat_end(tool_calls=calls))
    got: Any = ai.chat(model=name, messages=ASK, stream=stream)
    found = [
        one.function for part in (got if stream else [got]) for one in part.message.tool_calls or []
    ]
    assert [(one.name, dict(one.arguments)) for one in found] == [
        ("look", {"city": "Zephyrville", "days": 3}),
        ("news", {"q": "by [redacted]", "deep": ["x"]}),
    ]


def test_logprobs_follow_the_text(ai: ollama.Client, upstream: Upstream) -> None:
    def line(token: str) -> dict[str, Any]:
        other = {"token": " gasket", "logprob": -2.0, "bytes": list(b" gasket")}
        entry = {"token": token, "logprob": -0.5, "bytes": list(token.encode())}
        return {**chat_line(token), "logprobs": [{**entry, "top_logprobs": [dict(entry), other]}]}

    name = say(upstream, "probs", *map(line, ["so", " mar", "zipan", " gasket"]), chat_end())
    parts = list(ai.chat(model=name, messages=ASK, stream=True, logprobs=True, top_logprobs=2))
    shown = [entry for part in parts for entry in part.logprobs or []]
    assert [entry.token for entry in shown] == ["so"]
    assert [other.token for other in shown[0].top_logprobs or []] == ["so"]


def test_errors_of_the_engine(ai: ollama.Client, upstream: Upstream) -> None:
    name = upstream.say("missing", status=404, body={"error": "model 'missing' not found"})
    with pytest.raises(ollama.ResponseError, match="not found"):
        ai.chat(model=name, messages=ASK)
    name = upstream.say("quotes", status=500, body={"error": "at marzipan gasket"})
    with pytest.raises(ollama.ResponseError, match="withheld"):
        ai.chat(model=name, messages=ASK)
    name = say(upstream, "mid", chat_line("ok"), {"error": "at marzipan gasket"})
    with pytest.raises(ollama.ResponseError, match="withheld"):
        chat(ai, name)
    name = say(upstream, "broken", chat_line("ok"), {"message": 3, "done": False})
    with pytest.raises(ollama.ResponseError, match="no object"):
        chat(ai, name)


def test_a_model_that_is_only_loaded(url: str, upstream: Upstream) -> None:
    name = upstream.say("load", body={**text_end(), "done_reason": "load"})
    got = http.post(f"{url}/api/generate", json={"model": name}).json()
    assert (got["response"], got["done_reason"]) == ("", "load")
    assert http.get(f"{url}/api/version").json() == {"version": "1"}


def test_a_last_line_without_its_end_is_read_and_half_of_one_is_an_error(
    ai: ollama.Client, upstream: Upstream
) -> None:
    raw = b"".join(lines(chat_line("ok"), chat_end()))
    for name, sent in (("no-end", raw[:-1]), ("half", raw[:-20])):
        upstream.say(name, stream=[sent], content_type=LINES)
    assert chat(ai, "no-end")[1].done_reason == "stop"
    with pytest.raises(ollama.ResponseError, match="no valid JSON"):
        chat(ai, "half")


def test_a_line_without_end_is_not_read_forever() -> None:
    reader = LineReader()
    for _ in range(MAX_EVENT_BYTES // 1_000_000):
        assert reader.feed(b"x" * 1_000_000) == []
    with pytest.raises(UpstreamShape):
        reader.feed(b"x")


@FEW
@given(pieces=TEXTS, places=PLACES, crlf=st.booleans())
async def test_any_chunking_of_the_bytes_gives_the_same_text_and_no_leak(
    settings: Settings, pieces: list[str], places: list[int], crlf: bool
) -> None:
    async def ask(app: Any) -> tuple[str, str | None]:
        reply = await call(app, "POST", "/api/generate", {"prompt": "hello"}, patience=60)
        got = [json.loads(line) for line in reply.body.decode().split("\n") if line]
        return "".join(row["response"] for row in got), got[-1]["done_reason"]

    raw = b"".join(lines(*map(text_line, pieces), text_end()))
    if crlf:
        raw = raw.replace(b"\n", b"\r\n\n")
    await in_any_chunks(settings, raw, pieces, places, ask, kind=LINES)


@pytest.mark.parametrize("action", ["redact", "block"])
@pytest.mark.parametrize("stream", [False, True])
async def test_numbers_in_a_tools_arguments_are_judged_as_text(
    tmp_path: Path, stream: bool, action: str
) -> None:
    """Arguments are objects here: what the other APIs write as text is a number in them."""
    policy = tmp_path / "cards.yaml"
    rule = f"{{id: cards, category: prv, stages: [output], pii: [card], action: {action}}}"
    policy.write_text(f"prism: 1\nid: cards\nmessages: {{en: No.}}\nrules:\n  - {rule}\n")
    upstream = Upstream()
    made = {"function": {"name": "pay", "arguments": {"to": 4242424242424242, "of": [5, True]}}}
    rows = [chat_line("", tool_calls=[made]), chat_end()]
    name = say_either(upstream, "pay", stream, rows, chat_end(tool_calls=[made]))
    app = PrismMiddleware(upstream.app, settings=Settings.for_policy(policy), timing=FAST)
    await until_live(app)
    try:
        body = {"model": name, "messages": ASK, "stream": stream}
        reply = await call(app, "POST", "/api/chat", body, patience=60)
    finally:
        await app.selftest.stop()
    assert b"4242" not in reply.body
    said = [json.loads(line) for line in reply.body.splitlines()]
    calls = [one["function"] for row in said for one in row["message"].get("tool_calls", ())]
    if action == "redact":
        assert calls == [{"name": "pay", "arguments": {"to": "[redacted]", "of": [5, True]}}]
    else:
        assert calls == []
        assert said[-1]["done_reason"] == "content_filter"
