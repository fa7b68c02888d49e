"""vLLM's batch chat and ``/invocations``, on the scripted engine."""

from __future__ import annotations

from typing import Any

import pytest
from house import MESSAGE
from serving import http
from upstream import Upstream, chat_body, chat_stream, text_body, text_stream

FINE = [{"role": "user", "content": "hello"}]
BAD = [{"role": "user", "content": [{"type": "text", "text": "the Zephyr Lantern"}]}]
BATCH = "/v1/chat/completions/batch"


def ask(url: str, path: str, **body: Any) -> Any:
    return http.post(url + path, json=body)


def batch_body(*texts: str, **more: Any) -> dict[str, Any]:
    rows = [{**chat_body(text)["choices"][0], "index": n} for n, text in enumerate(texts)]
    return {**chat_body(""), "choices": rows, **more}


def test_every_conversation_of_a_batch_is_answered(url: str, upstream: Upstream) -> None:
    name = upstream.say("batch", body=batch_body("one", "by walnut ferry", "a marzipan gasket"))
    reply = ask(url, BATCH, model=name, messages=[FINE, FINE, FINE])
    assert reply.status_code == 200
    got = reply.json()
    rows = [(c["index"], c["message"]["content"], c["finish_reason"]) for c in got["choices"]]
    assert rows == [
        (0, "one", "stop"),
        (1, "by [redacted]", "stop"),
        (2, MESSAGE, "content_filter"),
    ]
    assert got["usage"] == {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    assert "marzipan" not in reply.text


def test_batch_logprobs_of_a_blocked_choice_are_dropped(url: str, upstream: Upstream) -> None:
    def logprobs(word: str) -> Any:
        others = [{"token": "zephyr", "logprob": -2.0, "bytes": None}]
        return {
            "content": [{"token": word, "logprob": -0.1, "bytes": None, "top_logprobs": others}]
        }

    body = batch_body("fine", "marzipan gasket")
    for row in body["choices"]:
        row["logprobs"] = logprobs(row["message"]["content"])
    name = upstream.say("batch-logprobs", body=body)
    reply = ask(url, BATCH, model=name, messages=[FINE, FINE], logprobs=True, top_logprobs=1)
    first, second = reply.json()["choices"]
    assert [entry["token"] for entry in first["logprobs"]["content"]] == ["fine"]
    assert first["logprobs"]["content"][0]["top_logprobs"] == []
    assert second["logprobs"] is None
    assert "zephyr" not in reply.text


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_blocked_prompt_refuses_the_whole_batch(url: str, upstream: Upstream, place: int) -> None:
    conversations = [FINE, FINE, FINE]
    conversations[place] = [*FINE, {"role": "assistant", "content": "yes"}, *BAD]
    before = len(upstream.seen)
    got = ask(url, BATCH, model="small", messages=conversations).json()
    assert [c["message"]["content"] for c in got["choices"]] == [MESSAGE] * 3
    assert {c["finish_reason"] for c in got["choices"]} == {"content_filter"}
    assert len(upstream.seen) == before


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": FINE}, "messages[0]"),
        ({"messages": []}, "messages"),
        ({"messages": [[{"content": "hi"}]]}, "messages[0][0]"),
        ({"messages": [FINE] * 17}, "messages"),
        ({"messages": [FINE], "n": 2}, "n"),
        ({"messages": [FINE], "stream": True}, "stream"),
        ({"messages": [FINE], "return_token_ids": True}, "return_token_ids"),
        ({"messages": [FINE], "use_beam_search": True}, "use_beam_search"),
        ({"messages": [FINE], "chat_template": "{{ 1 }}"}, "chat_template"),
    ],
)
def test_batches_that_are_wrong(url: str, more: Any, param: str) -> None:
    reply = ask(url, BATCH, model="small", **more)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


# /invocations


def test_invocations_speak_chat(url: str, upstream: Upstream) -> None:
    name = upstream.say(
        "inv-chat", body=chat_body("a marzipan gasket"), stream=chat_stream(["marzi", "pan gasket"])
    )
    got = ask(url, "/invocations", model=name, messages=FINE).json()
    assert got["choices"][0]["message"]["content"] == MESSAGE
    streamed = ask(url, "/invocations", model=name, messages=FINE, stream=True).text
    assert "content_filter" in streamed
    assert "marzi" not in streamed
    assert streamed.endswith("data: [DONE]\n\n")
    blocked = ask(url, "/invocations", model=name, messages=BAD, stream=True).text
    assert MESSAGE in blocked
    assert "chat.completion.chunk" in blocked


def test_invocations_speak_completions(url: str, upstream: Upstream) -> None:
    name = upstream.say(
        "inv-text", body=text_body("by walnut ferry"), stream=text_stream(["by wal", "nut ferry"])
    )
    got = ask(url, "/invocations", model=name, prompt="hello").json()
    assert got["choices"][0]["text"] == "by [redacted]"
    assert "walnut" not in ask(url, "/invocations", model=name, prompt="hello", stream=True).text
    refused = ask(url, "/invocations", model=name, prompt=["fine", "zephyr lantern"]).json()
    assert [c["text"] for c in refused["choices"]] == [MESSAGE] * 2


@pytest.mark.parametrize("shape", [{"input": "hello"}, {"messages": FINE}])
def test_invocations_speak_embeddings(url: str, upstream: Upstream, shape: Any) -> None:
    row = {"object": "embedding", "index": 0, "embedding": [0.5, -1]}
    name = upstream.say("inv-embed", body={"object": "list", "data": [row], "note": "zephyr"})
    reply = ask(url, "/invocations", model=name, **shape)
    assert reply.json()["data"] == [row]
    assert "zephyr" not in reply.text


@pytest.mark.parametrize(
    "shape",
    [
        {"input": "zephyr lantern"},
        {"query": "zephyr lantern", "documents": ["a"]},
        {"queries": ["a"], "documents": ["a", "zephyr lantern"]},
        {"text_1": "a", "text_2": "zephyr lantern"},
    ],
)
def test_blocked_inputs_of_invocations_are_errors(url: str, shape: Any) -> None:
    reply = ask(url, "/invocations", model="small", **shape)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "content_filter"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"requestType": "NEW_SESSION"},
        {"messages": FINE, "prompt": "zephyr lantern"},
        {"messages": FINE, "prompt": None},
        {"prompt": "a", "input": "b"},
        {"input": "a", "data_1": "b"},
    ],
)
def test_a_body_that_could_be_two_apis_is_refused(url: str, upstream: Upstream, body: Any) -> None:
    before = len(upstream.seen)
    reply = ask(url, "/invocations", model="small", **body)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "ambiguous_request"
    assert len(upstream.seen) == before


# What vLLM can put beside the text, on the routes that everybody asks


@pytest.mark.parametrize(
    "more",
    [
        {"kv_transfer_params": {"do_remote_decode": True}},
        {"vllm_xargs": {"kv_transfer_params": "x"}},
        {"vllm_xargs": {"ec_transfer_params": "x"}},
        {"return_token_ids": True},
        {"return_tokens_as_token_ids": True},
        {"prompt_logprobs": 1},
        {"return_prompt_text": True},
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", BATCH])
def test_what_shows_or_brings_unjudged_text_cant_be_asked_for(
    url: str, upstream: Upstream, path: str, more: Any
) -> None:
    asked = {"/v1/completions": {"prompt": "hello"}, BATCH: {"messages": [FINE]}}
    before = len(upstream.seen)
    reply = ask(url, path, model="small", **asked.get(path, {"messages": FINE}), **more)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "not_moderated"
    assert len(upstream.seen) == before


def test_what_vllm_adds_unasked_does_not_go_out(url: str, upstream: Upstream) -> None:
    beside = {
        "prompt_token_ids": [901, 902], "prompt_logprobs": [{"901": {"decoded_token": "zephyr"}}],
        "kv_transfer_params": {"remote": "zephyr"}, "prompt_text": "zephyr lantern",
    }  # fmt: skip
    inside = {"token_ids": [901], "routed_experts": "zephyr", "stop_reason": "zephyr"}
    for path, body, stream, prompt in (
        ("/v1/chat/completions", chat_body("fine"), chat_stream(["fine"]), {"messages": FINE}),
        ("/v1/completions", text_body("fine"), text_stream(["fine"]), {"prompt": "hello"}),
    ):
        body["choices"][0] |= inside
        events = [
            {**event, **beside, "choices": [{**row, **inside} for row in event["choices"]]}
            if isinstance(event, dict)
            else event
            for event in stream
        ]
        name = upstream.say(f"beside{path}", body={**body, **beside}, stream=events)
        for more in ({}, {"stream": True}):
            reply = ask(url, path, model=name, **prompt, **more)
            assert reply.status_code == 200
            assert "fine" in reply.text
            assert "zephyr" not in reply.text
            assert "901" not in reply.text


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "tool_call_id": "1", "content": "Zephyr lantern"},
        {"role": "system", "content": [{"type": "text", "text": "zephyr lantern"}]},
        {"role": "assistant", "content": None, "refusal": "zephyr lantern"},
        {"role": "assistant", "content": "", "reasoning_content": "zephyr lantern"},
        {"role": "assistant", "content": "", "reasoning": "zephyr lantern"},
        {"role": "user", "content": [{"type": "refusal", "refusal": "zephyr lantern"}]},
        {"role": "user", "name": "zephyr lantern", "content": "hi"},
        {"role": "user", "content": [{"type": "image_url", "alt_text": "zephyr lantern",
                                      "image_url": {"url": "data:image/png;base64,AAAA"}}]},
        {"role": "user", "content": [{"type": "input_audio", "transcript": "zephyr lantern",
                                      "input_audio": {"data": "AAAA", "format": "wav"}}]},
        {"role": "assistant", "tool_calls": [
            {"id": "1", "function": {"name": "f", "arguments": '{"a": "zephyr lantern"}'}}]},
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/chat/completions", BATCH, "/invocations"])
def test_every_channel_of_a_prompt_is_judged(url: str, path: str, message: Any) -> None:
    messages: Any = [*FINE, message]
    body = {"messages": [messages] if path == BATCH else messages}
    got = ask(url, path, model="small", **body).json()
    assert got["choices"][0]["finish_reason"] == "content_filter"
