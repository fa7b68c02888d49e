"""p(x) sees the text of a request in every shape it can take."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from house import FAST, MESSAGE
from serving import healthy, http, served
from upstream import Upstream, chat_body

from prism.config import Settings
from prism.http import PrismMiddleware

BAD = "gibbous teapot"
HELLO = {"role": "user", "content": "hello"}


def ask(url: str, body: dict[str, Any]) -> str:
    route = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
    reply = http.post(url + route, json={"model": "small", **body})
    assert reply.status_code == 200, reply.text
    choice = reply.json()["choices"][0]
    text = choice["text"] if "prompt" in body else choice["message"]["content"]
    assert (choice["finish_reason"] == "content_filter") == (text == MESSAGE)
    return str(text)


def function(**more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **more}}


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": f"the {BAD}."}],
        [{"role": "system", "content": BAD}, HELLO],
        [{"role": "developer", "content": BAD}, HELLO],
        [{"role": "assistant", "content": BAD}, HELLO],
        [{"role": "tool", "tool_call_id": "c", "content": BAD}, HELLO],
        [{"role": "function", "name": "f", "content": BAD}, HELLO],
        [{"role": "made_up", "content": BAD}],
        [{"role": "user", "content": [{"type": "text", "text": BAD}]}],
        [{"role": "user", "content": [{"type": "input_text", "text": BAD}]}],
        [{"role": "user", "content": [BAD]}],
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": t} for t in ("gibbous ", "teapot")],
            }
        ],
        [{"role": "user", "content": [{"type": "text", "text": t} for t in ("gibbous", "teapot")]}],
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": t} for t in ("gibb", "ous teapot")],
            }
        ],
        [{"role": "assistant", "content": [{"type": "refusal", "refusal": BAD}]}, HELLO],
        [{"role": "assistant", "content": [{"type": "thinking", "thinking": BAD}]}, HELLO],
        [{"role": "user", "name": BAD, "content": "hi"}],
        [{"role": "assistant", "content": None, "reasoning": BAD}, HELLO],
        [{"role": "assistant", "content": None, "reasoning_content": BAD}, HELLO],
        [{"role": "assistant", "content": None, "refusal": BAD}, HELLO],
        [{"role": "assistant", "content": None, "function_call": {"name": BAD, "arguments": ""}}],
        [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c", **function(arguments=f'{{"a": "{BAD}"}}')}],
            }
        ],
        [{"role": "assistant", "content": "", "novel": {"deep": [{"x": BAD}]}}, HELLO],
        [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": f"https://x.test/{BAD}"}},
                    {"type": "text", "text": "see"},
                ],
            }
        ],
        [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": f"data:text/plain,{BAD}"}},
                    {"type": "text", "text": "see"},
                ],
            }
        ],
    ],
)
def test_every_shape_of_a_chat_is_judged(url: str, messages: list[Any]) -> None:
    assert ask(url, {"messages": messages}) == MESSAGE


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [function(description=BAD)]},
        {"tools": [function(parameters={"properties": {BAD: {"type": "string"}}})]},
        {"tools": [function(parameters={"properties": {"x": {"enum": ["a", BAD]}}})]},
        {"functions": [{"name": "f", "description": BAD}]},
        {"tool_choice": {"type": "function", "function": {"name": BAD}}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": BAD}}}},
        {"structured_outputs": {"choice": [BAD]}},
        {"documents": [{"title": "t", "text": BAD}]},
        {"chat_template_kwargs": {"extra": BAD}},
        {"grammar": f'root ::= "{BAD}"'},
        {"a_key_of_tomorrow": {"x": [BAD]}},
    ],
    ids=lambda more: next(iter(more)),
)
def test_text_beside_the_messages_is_judged(url: str, more: dict[str, Any]) -> None:
    assert ask(url, {"messages": [HELLO], **more}) == MESSAGE


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": f"x {BAD}"},
        {"prompt": ["fine", BAD]},
        {"prompt": "x", "suffix": BAD},
        {"prompt": "x", "structured_outputs": {"regex": BAD}},
    ],
)
def test_every_shape_of_a_completion_is_judged(url: str, body: dict[str, Any]) -> None:
    assert ask(url, body) == MESSAGE


def test_one_bad_prompt_of_several_refuses_them_all(url: str) -> None:
    body = {"model": "small", "prompt": ["fine", BAD], "n": 2}
    got = http.post(f"{url}/v1/completions", json=body).json()
    assert [(c["index"], c["text"]) for c in got["choices"]] == [(n, MESSAGE) for n in range(4)]


@pytest.mark.parametrize(
    "more",
    [
        {"stop": [BAD]},
        {"bad_words": [BAD]},
        {"user": BAD},
        {"tools": [function(description="finds teapots")], "stop": None, "metadata": {"a": "b"}},
    ],
)
def test_controls_are_not_prompts(url: str, more: dict[str, Any]) -> None:
    assert ask(url, {"messages": [HELLO], **more}) == "fine"


def test_media_passes_unread_and_the_receipt_says_so(url: str, upstream: Upstream) -> None:
    name = upstream.say("see", body=chat_body("a cat"))
    # Bytes that are no text must not be searched for disguised text.
    hidden = base64.b64encode(BAD.encode()).decode()
    parts = [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{hidden}"}},
        {"type": "input_audio", "input_audio": {"data": hidden, "format": "wav"}},
    ]
    body = {"model": name, "messages": [{"role": "user", "content": parts}]}
    reply = http.post(f"{url}/v1/chat/completions", json=body)
    assert reply.json()["choices"][0]["message"]["content"] == "a cat"
    assert json.loads(reply.headers["x-prism-receipt"])["unread"] == ["audio", "image"]


def test_a_flagged_prompt_passes_and_is_counted(url: str) -> None:
    assert ask(url, {"messages": [{"role": "user", "content": "plaid thunder"}]}) == "fine"
    counted = 'action="flag",category="tox",enforced="true",stage="prompt"'
    deadline = time.monotonic() + 60  # counted when the engine's part is over, too
    while counted not in http.get(f"{url}/prism/metrics").text:
        assert time.monotonic() < deadline


@pytest.fixture(scope="module")
def ids_url(upstream: Upstream, settings: Settings) -> Iterator[str]:
    """A server whose adapter can read token ids; each id is a character."""

    def detokenise(ids: Any) -> str:
        return "".join(map(chr, ids))

    app = PrismMiddleware(upstream.app, settings=settings, timing=FAST, detokenise=detokenise)
    with served(app) as base:
        healthy(base)
        yield base


def test_token_ids_are_judged_where_they_can_be_read(ids_url: str, upstream: Upstream) -> None:
    ids = list(map(ord, f"a {BAD}!"))
    assert ask(ids_url, {"prompt": ids}) == MESSAGE
    assert ask(ids_url, {"prompt": [[104, 105], ids]}) == MESSAGE
    name = upstream.say("ids", body={**chat_body(""), "choices": [{"index": 0, "text": "ok"}]})
    assert ask(ids_url, {"prompt": [104, 105], "model": name}) == "ok"
    assert [104, 105] in [seen.get("prompt") for seen in upstream.seen]
    body = {"model": "small", "prompt": [2**62]}
    reply = http.post(f"{ids_url}/v1/completions", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "invalid_token_ids"


def test_usage_is_counted_along_only_where_the_engine_can(
    upstream: Upstream, settings: Settings
) -> None:
    for engine, expected in (("vllm", True), ("llamacpp", None)):
        app = PrismMiddleware(upstream.app, settings=settings, timing=FAST, engine=engine)
        with served(app) as base:
            healthy(base)
            options = {"include_usage": True}
            body = {
                "model": "small",
                "messages": [HELLO],
                "stream": True,
                "stream_options": options,
            }
            assert http.post(f"{base}/v1/chat/completions", json=body).status_code == 200
            sent = [seen for seen in upstream.seen if "messages" in seen][-1]["stream_options"]
            assert sent.get("continuous_usage_stats") is expected


@pytest.mark.parametrize("change", [{"thinking_token_budget": 5}, {"echo": True, "logprobs": 2}])
def test_what_vllm_would_refuse_too_late_is_refused_in_time(
    upstream: Upstream, settings: Settings, change: dict[str, Any]
) -> None:
    app = PrismMiddleware(upstream.app, settings=settings, timing=FAST, engine="vllm")
    with served(app) as base:
        healthy(base)
        body = {"model": "small", "prompt": "hi", "stream": True, **change}
        assert http.post(f"{base}/v1/completions", json=body).status_code == 400
