"""A request that is split over turns is judged as one, in every API that knows turns."""

from __future__ import annotations

import json
from typing import Any

import pytest
from house import MESSAGE
from serving import http
from upstream import Upstream

USER, MODEL = ("user", "well then zephyr"), ("assistant", "I see. What about it?")
LAST = ("user", "lantern please")
TURNS = [USER, MODEL, LAST]


def chat(turns: list[tuple[str, str]]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def parts(turns: list[tuple[str, str]], kind: str = "text") -> dict[str, Any]:
    return {
        "messages": [
            {"role": role, "content": [{"type": kind, "text": text}]} for role, text in turns
        ]
    }


def items(turns: list[tuple[str, str]]) -> dict[str, Any]:
    kinds = {"user": "input_text", "assistant": "output_text"}
    return {
        "input": [
            {"type": "message", "role": role, "content": [{"type": kinds[role], "text": text}]}
            for role, text in turns
        ]
    }


def chatml(turns: list[tuple[str, str]]) -> str:
    said = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
    return f"{said}<|im_start|>assistant\n"


def llama3(turns: list[tuple[str, str]]) -> str:
    return "<|begin_of_text|>" + "".join(
        f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>" for role, text in turns
    )


def gemma(turns: list[tuple[str, str]]) -> str:
    names = {"user": "user", "assistant": "model"}
    return "".join(f"<start_of_turn>{names[role]}\n{text}<end_of_turn>\n" for role, text in turns)


def mistral(turns: list[tuple[str, str]]) -> str:
    return "<s>" + "".join(
        f"[INST] {text} [/INST]" if role == "user" else f" {text}</s>" for role, text in turns
    )


def plain(turns: list[tuple[str, str]]) -> str:
    return "\n".join(f"{role.upper()}: {text}" for role, text in turns)


def tool_between(turns: list[tuple[str, str]]) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    first, _, last = chat(turns)["messages"]
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    answer = {"role": "tool", "tool_call_id": "c", "content": "nothing found"}
    return {"messages": [first, asked, answer, last]}


SHAPES: dict[str, tuple[str, Any]] = {
    "chat": ("/v1/chat/completions", chat),
    "chat, in parts": ("/v1/chat/completions", parts),
    "chat, a tool between": ("/v1/chat/completions", tool_between),
    "chat, a template in a message": (
        "/v1/chat/completions",
        lambda turns: chat([("user", chatml(turns))]),
    ),
    "anthropic": ("/v1/messages", lambda turns: {"max_tokens": 9, **chat(turns)}),
    "anthropic, in blocks": ("/v1/messages", lambda turns: {"max_tokens": 9, **parts(turns)}),
    "responses": ("/v1/responses", items),
    "cohere": ("/v2/chat", chat),
    "cohere of vLLM": ("/cohere/v2/chat", chat),
    "ollama": ("/api/chat", chat),
    "ollama, bare": ("/api/generate", lambda turns: {"prompt": chatml(turns), "raw": True}),
    "completions, ChatML": ("/v1/completions", lambda turns: {"prompt": chatml(turns)}),
    "completions, Llama 3": ("/v1/completions", lambda turns: {"prompt": llama3(turns)}),
    "completions, Gemma": ("/v1/completions", lambda turns: {"prompt": gemma(turns)}),
    "completions, Mistral": ("/v1/completions", lambda turns: {"prompt": mistral(turns)}),
    "completions, plain": ("/v1/completions", lambda turns: {"prompt": [plain(turns)]}),
    "llama.cpp": ("/completion", lambda turns: {"prompt": chatml(turns)}),
    "llama.cpp, infill": (
        "/infill",
        lambda turns: {"input_prefix": chatml(turns), "input_suffix": ""},
    ),
}


def ask(url: str, path: str, body: dict[str, Any], stream: bool) -> str:
    reply = http.post(f"{url}{path}", json={"model": "small", "stream": stream, **body})
    assert reply.status_code == 200, reply.text
    return reply.text


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stream", [False, True])
def test_a_phrase_over_turns(url: str, upstream: Upstream, shape: str, stream: bool) -> None:
    path, make = SHAPES[shape]
    before = len(upstream.seen)
    assert MESSAGE in ask(url, path, make(TURNS), stream)
    assert len(upstream.seen) == before  # the engine was not asked


@pytest.mark.parametrize("shape", SHAPES)
def test_turns_without_it_go_through(url: str, upstream: Upstream, shape: str) -> None:
    """The phrase's second half first: the order of turns counts."""
    path, make = SHAPES[shape]
    before = len(upstream.seen)
    reply = http.post(f"{url}{path}", json={"model": "small", **make([LAST, MODEL, USER])})
    assert len(upstream.seen) == before + 1
    assert MESSAGE not in reply.text


def test_a_role_that_is_made_up_hides_nothing(url: str, upstream: Upstream) -> None:
    for role in ("User", "human", "guest", " user"):
        turns = [(role, USER[1]), MODEL, LAST]
        assert MESSAGE in ask(url, "/v1/chat/completions", chat(turns), False)


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_that_is_stored(url: str, upstream: Upstream, stream: bool) -> None:
    """The earlier turns are here and nowhere in the request."""
    from responses_script import whole

    upstream.say("turns", body=whole([("message", [MODEL[1]])], f"resp_turns{stream:d}"))
    first = http.post(f"{url}/v1/responses", json={"model": "turns", "input": USER[1]})
    assert first.json()["output"][0]["content"][0]["text"] == MODEL[1]
    body = {"model": "turns", "input": LAST[1], "previous_response_id": first.json()["id"]}
    before = len(upstream.seen)
    assert MESSAGE in ask(url, "/v1/responses", body, stream)
    assert len(upstream.seen) == before
    fine = http.post(f"{url}/v1/responses", json={**body, "input": "thanks"})
    assert json.loads(fine.text)["output"][0]["content"][0]["text"] == MODEL[1]


def test_what_the_model_said_is_judged_with_what_was_asked(url: str, upstream: Upstream) -> None:
    """A history that a client sends may be made up: it counts as a whole, too."""
    turns = [("user", "go on"), ("assistant", "the zephyr"), ("user", "lantern")]
    assert MESSAGE in ask(url, "/v1/chat/completions", chat(turns), False)
