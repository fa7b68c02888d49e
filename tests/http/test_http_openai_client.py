"""What users of the official client see, streamed and not."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from house import MESSAGE
from upstream import (
    DONE,
    Upstream,
    chat_body,
    chat_chunk,
    chat_stream,
    text_body,
    text_chunk,
    text_stream,
    usage,
)

ASK: Any = [{"role": "user", "content": "hello"}]
BAD: Any = [{"role": "user", "content": "tell me of the Zephyr Lantern"}]


def chat_text(stream: Any, index: int = 0) -> tuple[str, str | None]:
    text, reason = "", None
    for chunk in stream:
        for choice in chunk.choices:
            if choice.index == index:
                text += choice.delta.content or ""
                reason = choice.finish_reason or reason
    return text, reason


def test_an_ordinary_chat_passes_untouched(client: openai.OpenAI, upstream: Upstream) -> None:
    name = upstream.say("plain", body=chat_body("Good morning to you."))
    got = client.chat.completions.create(model=name, messages=ASK)
    assert got.choices[0].message.content == "Good morning to you."
    assert got.choices[0].finish_reason == "stop"
    assert got.usage is not None
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (7, 5)


def test_a_blocked_prompt_is_answered_and_never_reaches_the_engine(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    before = len(upstream.seen)
    got = client.chat.completions.create(model="x", messages=BAD, n=2)
    assert [c.message.content for c in got.choices] == [MESSAGE, MESSAGE]
    assert {c.finish_reason for c in got.choices} == {"content_filter"}
    assert got.usage is not None
    assert got.usage.completion_tokens == 0
    stream = client.chat.completions.create(model="x", messages=BAD, stream=True)
    assert chat_text(stream) == (MESSAGE, "content_filter")
    text = client.completions.create(model="x", prompt="zephyr lantern")
    assert (text.choices[0].text, text.choices[0].finish_reason) == (MESSAGE, "content_filter")
    pieces = list(client.completions.create(model="x", prompt="zephyr lantern", stream=True))
    assert "".join(c.choices[0].text for c in pieces) == MESSAGE
    assert pieces[-1].choices[0].finish_reason == "content_filter"
    assert len(upstream.seen) == before


def test_a_blocked_prompt_streams_the_usage_that_was_asked_for(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="x", messages=BAD, stream=True, stream_options={"include_usage": True}
    )
    last = list(stream)[-1]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 0


def test_the_refusal_is_in_the_clients_language(client: openai.OpenAI) -> None:
    got = client.chat.completions.create(
        model="x", messages=BAD, extra_headers={"Accept-Language": "fr, de-AT;q=0.9, en;q=0.5"}
    )
    assert got.choices[0].message.content == "Das sagt man hier nicht."


def test_a_blocked_answer_is_replaced_whole(client: openai.OpenAI, upstream: Upstream) -> None:
    body = chat_body("It is the zephyr lantern.", reasoning_content="hm, zephyr lantern")
    name = upstream.say("bad", body=body)
    got = client.chat.completions.create(model=name, messages=ASK)
    assert got.choices[0].message.content == MESSAGE
    assert got.choices[0].finish_reason == "content_filter"
    assert "zephyr" not in got.model_dump_json()
    assert got.usage is not None
    assert got.usage.completion_tokens == 5


def test_a_stream_ends_where_the_match_begins(client: openai.OpenAI, upstream: Upstream) -> None:
    name = upstream.say("cut", stream=chat_stream(["Look: the ze", "phyr lan", "tern", " shines"]))
    stream = client.chat.completions.create(model=name, messages=ASK, stream=True)
    text, reason = chat_text(stream)
    assert text == "Look: the "
    assert reason == "content_filter"


def test_the_refusal_is_streamed_if_nothing_else_was(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    name = upstream.say("atonce", stream=chat_stream(["zephyr", " lantern"]))
    stream = client.chat.completions.create(model=name, messages=ASK, stream=True)
    assert chat_text(stream) == (MESSAGE, "content_filter")


def test_text_that_only_looked_like_a_match_comes_out(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    name = upstream.say("near", stream=chat_stream(["a zephyr", " lanyard", " and a zephyr"]))
    stream = client.chat.completions.create(model=name, messages=ASK, stream=True)
    assert chat_text(stream) == ("a zephyr lanyard and a zephyr", "stop")


def test_a_redacted_span_is_replaced_and_the_rest_stays(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    parts = ["by wal", "nut fer", "ry today"]
    name = upstream.say("soft", body=chat_body("".join(parts)), stream=chat_stream(parts))
    got = client.chat.completions.create(model=name, messages=ASK)
    assert got.choices[0].message.content == "by [redacted] today"
    assert got.choices[0].finish_reason == "stop"
    stream = client.chat.completions.create(model=name, messages=ASK, stream=True)
    assert chat_text(stream) == ("by [redacted] today", "stop")


@pytest.mark.parametrize("channel", ["content", "reasoning", "reasoning_content", "refusal"])
@pytest.mark.parametrize("stream", [False, True])
def test_no_channel_of_text_leaks(
    client: openai.OpenAI, upstream: Upstream, channel: str, stream: bool
) -> None:
    parts = ["so mar", "zipan gas", "ket is"]
    body = chat_body(None)
    body["choices"][0]["message"][channel] = "".join(parts)
    name = upstream.say(f"ch-{channel}", body=body, stream=chat_stream(parts, channel=channel))
    got: Any = client.chat.completions.create(model=name, messages=ASK, stream=stream)
    rows = list(got) if stream else [got]
    dumped = "".join(row.model_dump_json() for row in rows)
    assert "marzipan" not in dumped
    assert "mar" not in dumped.replace("small", "")
    assert rows[-1].choices[0].finish_reason == "content_filter"


TOOL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": ""}}


@pytest.mark.parametrize("place", ["name", "arguments", "id"])
@pytest.mark.parametrize("stream", [False, True])
def test_no_part_of_a_tool_call_leaks(
    client: openai.OpenAI, upstream: Upstream, place: str, stream: bool
) -> None:
    bad = "marzipan gasket" if place != "name" else "marzipan_gasket"
    call = json.loads(json.dumps(TOOL))
    call["function"]["arguments"] = '{"q": "'
    target = call if place == "id" else call["function"]
    target[place] = target[place] + bad if place == "arguments" else bad
    pieces = [{**call, "index": 0, "function": {**call["function"], "arguments": ""}}]
    text = call["function"]["arguments"]
    pieces += [{"index": 0, "function": {"arguments": letter}} for letter in text]
    events = [chat_chunk({"role": "assistant"})]
    events += [chat_chunk({"tool_calls": [piece]}) for piece in pieces]
    name = upstream.say(
        f"tool-{place}",
        body=chat_body(None, "tool_calls", tool_calls=[call]),
        stream=[*events, chat_chunk({}, "tool_calls"), DONE],
    )
    got: Any = client.chat.completions.create(model=name, messages=ASK, stream=stream)
    rows = list(got) if stream else [got]
    streamed = "".join(
        (tool.function.arguments or "") + (tool.function.name or "") + (tool.id or "")
        for row in rows
        for tool in (getattr(row.choices[0], "delta" if stream else "message").tool_calls or [])
    )
    assert "marz" not in streamed
    assert rows[-1].choices[0].finish_reason == "content_filter"


@pytest.mark.parametrize("stream", [False, True])
def test_a_clean_tool_call_arrives_as_the_engine_made_it(
    client: openai.OpenAI, upstream: Upstream, stream: bool
) -> None:
    arguments = '{"city": "Zephyrville"}'
    calls = [
        {"id": f"call_{n}", "type": "function", "function": {"name": tool, "arguments": arguments}}
        for n, tool in enumerate(["weather", "news"])
    ]
    events = [chat_chunk({"role": "assistant", "content": None})]
    for n, call in enumerate(calls):
        head = {"index": n, "id": call["id"], "type": "function"}
        events.append(
            chat_chunk({"tool_calls": [{**head, "function": {"name": call["function"]["name"]}}]})
        )
        events += [
            chat_chunk({"tool_calls": [{"index": n, "function": {"arguments": part}}]})
            for part in (arguments[:7], arguments[7:])
        ]
    name = upstream.say(
        "tools",
        body=chat_body(None, "tool_calls", tool_calls=calls),
        stream=[*events, chat_chunk({}, "tool_calls"), DONE],
    )
    if not stream:
        got = client.chat.completions.create(model=name, messages=ASK)
        message = got.choices[0].message
        assert message.tool_calls is not None
        assert [call.model_dump(exclude_none=True) for call in message.tool_calls] == calls
        assert got.choices[0].finish_reason == "tool_calls"
        return
    with client.chat.completions.stream(model=name, messages=ASK) as events_of:
        final = events_of.get_final_completion()
    made = final.choices[0].message.tool_calls
    assert made is not None
    assert [(c.id, c.function.name, c.function.arguments) for c in made] == [
        (f"call_{n}", tool, arguments) for n, tool in enumerate(["weather", "news"])
    ]


def test_llama_cpp_repeats_a_tools_name_and_the_legacy_form_is_judged_too(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    def piece(arguments: str) -> dict[str, Any]:
        function = {"name": "look", "arguments": arguments}
        tool = {"index": 0, "id": "call_0", "type": "function", "function": function}
        return chat_chunk(
            {"role": None, "content": None, "function_call": function, "tool_calls": [tool]}
        )

    events = [chat_chunk({"role": "assistant"}), *map(piece, ["{", '"a"', ": 1}"])]
    name = upstream.say("llama", stream=[*events, chat_chunk({}, "tool_calls"), DONE])
    rows = list(client.chat.completions.create(model=name, messages=ASK, stream=True))
    tools = [tool for row in rows for tool in (row.choices[0].delta.tool_calls or [])]
    assert "".join(tool.function.arguments or "" for tool in tools if tool.function) == '{"a": 1}'
    assert [t.function.name for t in tools if t.function and t.function.name] == ["look"]
    legacy = [row.choices[0].delta.function_call for row in rows]
    assert "".join(call.arguments or "" for call in legacy if call) == '{"a": 1}'
    bad = [chat_chunk({"role": "assistant"}), *map(piece, ["marzipan", " gas", "ket"])]
    name = upstream.say("llama-bad", stream=[*bad, chat_chunk({}, "tool_calls"), DONE])
    rows = list(client.chat.completions.create(model=name, messages=ASK, stream=True))
    assert "marz" not in "".join(row.model_dump_json() for row in rows)
    assert rows[-1].choices[0].finish_reason == "content_filter"


def test_one_blocked_choice_does_not_hide_the_others(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    said = ["all well", "a marzipan gasket", "also well"]
    events = [chat_chunk({"role": "assistant", "content": ""}, index=n) for n in range(3)]
    for place in range(0, 18, 3):
        events += [
            chat_chunk({"content": text[place : place + 3]}, index=n) for n, text in enumerate(said)
        ]
    events += [chat_chunk({}, "stop", index=n) for n in range(3)]
    rows = [{**chat_body(text)["choices"][0], "index": n} for n, text in enumerate(said)]
    name = upstream.say("three", body={**chat_body(""), "choices": rows}, stream=[*events, DONE])
    got = client.chat.completions.create(model=name, messages=ASK, n=3)
    assert [c.message.content for c in got.choices] == ["all well", MESSAGE, "also well"]
    assert [c.finish_reason for c in got.choices] == ["stop", "content_filter", "stop"]
    chunks = list(client.chat.completions.create(model=name, messages=ASK, n=3, stream=True))
    results = [chat_text(chunks, n) for n in range(3)]
    assert results == [("all well", "stop"), ("a ", "content_filter"), ("also well", "stop")]


def test_completions_with_several_prompts_and_choices(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    name = upstream.say("many", body=text_body("one", "marzipan gasket", "three", "four"))
    got = client.completions.create(model=name, prompt=["a", "b"], n=2)
    assert [c.text for c in got.choices] == ["one", MESSAGE, "three", "four"]


def test_a_completions_stream_is_cut_in_the_same_way(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    name = upstream.say("textcut", stream=text_stream(["oh, mar", "zipan", " gasket!"]))
    rows = list(client.completions.create(model=name, prompt="hello", stream=True))
    assert "".join(row.choices[0].text for row in rows) == "oh, "
    assert rows[-1].choices[0].finish_reason == "content_filter"


def test_the_usage_chunk_of_a_stream_comes_through(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    last = {**chat_chunk(), "choices": [], "usage": usage(3, 4)}
    name = upstream.say("usage", stream=[*chat_stream(["ok"])[:-1], last, DONE])
    rows = list(
        client.chat.completions.create(
            model=name, messages=ASK, stream=True, stream_options={"include_usage": True}
        )
    )
    assert rows[-1].usage is not None
    assert rows[-1].usage.total_tokens == 7


def test_a_cut_stream_still_reports_usage(client: openai.OpenAI, upstream: Upstream) -> None:
    events = chat_stream(["a", " marzipan", " gasket", " is", " long"])
    for number, event in enumerate(events[:-1]):
        event["usage"] = usage(9, number)
    name = upstream.say("usage-cut", stream=events, pause=0.05)
    rows = list(
        client.chat.completions.create(
            model=name, messages=ASK, stream=True, stream_options={"include_usage": True}
        )
    )
    assert rows[-1].usage is not None
    assert rows[-1].usage.prompt_tokens == 9
    assert 2 <= rows[-1].usage.completion_tokens <= 4


def test_an_engines_error_reaches_the_client_as_its_own(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    error = {"message": "context is too long", "type": "x", "param": None, "code": 400}
    name = upstream.say("error", status=400, body={"error": error})
    with pytest.raises(openai.BadRequestError, match="context is too long"):
        client.chat.completions.create(model=name, messages=ASK)


def test_an_engines_error_may_not_quote_what_the_model_may_not_say(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    error = {"message": "can't parse: marzipan gasket", "type": "x", "param": None, "code": 500}
    name = upstream.say("error-bad", status=500, body={"error": error})
    with pytest.raises(openai.InternalServerError, match="withheld") as caught:
        client.chat.completions.create(model=name, messages=ASK)
    assert "marzipan" not in str(caught.value.body)
    streamed = upstream.say("error-bad-stream", stream=[*chat_stream(["a"])[:2], {"error": error}])
    with pytest.raises(openai.APIError, match="withheld"):
        list(client.chat.completions.create(model=streamed, messages=ASK, stream=True))


async def test_the_asynchronous_client_sees_the_same(url: str, upstream: Upstream) -> None:
    name = upstream.say(
        "async", body=chat_body("hi"), stream=chat_stream(["x marzipan", " gasket"])
    )
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        got = await client.chat.completions.create(model=name, messages=ASK)
        assert got.choices[0].message.content == "hi"
        stream = await client.chat.completions.create(model=name, messages=ASK, stream=True)
        chunks = [chunk async for chunk in stream]
        assert chat_text(chunks) == ("x ", "content_filter")
        models = [model.id async for model in await client.models.list()]
        assert models == ["small"]


def test_an_echoed_prompt_is_output_too(client: openai.OpenAI) -> None:
    got = client.completions.create(model="small", prompt="say marzipan gasket: ", echo=True)
    assert (got.choices[0].text, got.choices[0].finish_reason) == (MESSAGE, "content_filter")
    fine = client.completions.create(model="small", prompt="good day: ", echo=True)
    assert fine.choices[0].text == "good day: fine"


def test_the_editors_route_of_llama_cpp_is_moderated(url: str, upstream: Upstream) -> None:
    with openai.OpenAI(
        base_url=f"{url}/v1/engines/copilot-codex", api_key="unused", max_retries=0
    ) as client:
        got = client.completions.create(model="small", prompt="zephyr lantern")
        assert got.choices[0].text == MESSAGE
        name = upstream.say("codex", stream=[text_chunk("marzipan gasket", "stop"), DONE])
        rows = list(client.completions.create(model=name, prompt="def", stream=True))
        assert "".join(row.choices[0].text for row in rows) == MESSAGE
