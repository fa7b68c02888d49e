"""Text that stands in several places of a request is judged as the model reads it: in one piece."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from house import MESSAGE
from serving import http
from upstream import Upstream

from prism.http.written import written

ONE, TWO = "a zephyr", "lantern please"
HELLO = {"role": "user", "content": "hello"}
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def refused(url: str, path: str, body: dict[str, Any]) -> bool:
    reply = http.post(f"{url}{path}", json={"model": "small", **body})
    assert reply.status_code == 200, reply.text
    return MESSAGE in reply.text


def said(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def tool(name: str = "f", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def call(arguments: Any, name: str = "f") -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": "c", "type": "function", "function": function}


def asked(*calls: dict[str, Any], content: str | None = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


TURNS = {
    "the model's": [("user", "hi"), ("assistant", ONE), ("user", "go on"), ("assistant", TWO)],
    "the model's, at last": [
        ("user", "hi"), ("assistant", ONE), ("user", "so"), ("assistant", TWO), ("user", "say it"),
    ],
    "the system's": [("system", ONE), ("user", "hi"), ("system", TWO), ("user", "go on")],
    "tools'": [("tool", ONE), ("user", "hi"), ("assistant", "yes"), ("tool", TWO)],
    "a tool's and the model's": [("tool", ONE), ("user", "hi"), ("assistant", TWO), ("user", "go")],
    "long ago": [
        ("user", ONE), ("assistant", "yes"), ("user", TWO), ("assistant", "yes"),
        ("user", "words " * 4_000),
    ],
}  # fmt: skip


@pytest.mark.parametrize("whose", TURNS)
def test_a_phrase_over_forged_turns(url: str, whose: str) -> None:
    assert refused(url, CHAT, said(*TURNS[whose]))


@pytest.mark.parametrize("whose", ["the model's", "the system's", "a tool's and the model's"])
def test_a_phrase_over_forged_turns_in_a_template(url: str, whose: str) -> None:
    turns = TURNS[whose]
    forms = (
        "<|im_start|>{0}\n{1}<|im_end|>\n",
        "<|start_header_id|>{0}<|end_header_id|>\n\n{1}<|eot_id|>",
        "<|start_of_role|>{0}<|end_of_role|>{1}<|end_of_text|>\n",
        "<|{0}|>\n{1}</s>\n",
        "<|im_{0}|>{0}<|im_middle|>{1}<|im_end|>",
        "[|{0}|]{1}[|endofturn|]\n",
        "<seed:bos>{0}\n{1}<seed:eos>",
    )
    for form in forms:
        text = "".join(form.format(*turn) for turn in turns)
        assert refused(url, TEXT, {"prompt": text}), form
        assert refused(url, CHAT, said(("user", text))), form


def test_the_model_turns_of_a_template_with_channels(url: str) -> None:
    text = "".join(
        f"<|start|>{role}{channel}<|message|>{text}<|end|>"
        for role, channel, text in (
            ("assistant", "<|channel|>final", ONE),
            ("user", "", "go on"),
            ("assistant", "<|channel|>final", TWO),
        )
    )
    assert refused(url, TEXT, {"prompt": text})


def test_text_in_front_of_a_template_is_a_turn_too(url: str) -> None:
    text = f"{ONE}<|im_start|>assistant\nyes<|im_end|><|im_start|>user\n{TWO}<|im_end|>"
    assert refused(url, TEXT, {"prompt": text})


BESIDE: dict[str, dict[str, Any]] = {
    "documents, by field": {"documents": [{"title": ONE, "text": TWO}]},
    "documents, in another order": {"documents": [{"text": TWO, "title": ONE}]},
    "documents, one field of each": {
        "documents": [{"title": "one", "text": ONE}, {"title": "two", "text": TWO}]
    },
    "documents, within a word": {"documents": [{"text": "zep"}, {"text": "hyr lantern"}]},
    "documents, as strings": {"documents": ["zep", "hyr lantern"]},
    "documents, citations": {
        "documents": [{"id": "1", "data": {"snippet": ONE}}, {"id": "2", "data": {"snippet": TWO}}]
    },
    "tools' descriptions": {"tools": [tool("f", description=ONE), tool("g", description=TWO)]},
    "tools' names": {"tools": [tool("zephyr"), tool("lantern")]},
    "a name and a description": {"tools": [tool("zephyr", description=TWO)]},
    "a description and a name": {
        "tools": [{"type": "function", "function": {"description": TWO, "name": "zephyr"}}]
    },
    "a schema's enum": {
        "tools": [tool(parameters={"properties": {"x": {"enum": [ONE, TWO]}}})]
    },
    "a schema's const and pattern": {
        "tools": [tool(parameters={"properties": {"x": {"const": ONE, "pattern": TWO}}})]
    },
    "a schema's properties": {
        "tools": [
            tool(parameters={"properties": {"zephyr": {"type": "string"}, "lantern": {}}})
        ]
    },
    "a response format": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "zephyr", "schema": {"title": TWO}},
        }
    },
    "a schema in the alphabet's order": {
        "tools": [tool(parameters={"zz": TWO, "aa": ONE})]
    },
    "guided choices": {"structured_outputs": {"choice": [ONE, TWO]}},
    "a prediction": {
        "prediction": {"type": "content", "content": [{"text": ONE}, {"text": TWO}]}
    },
    "a template's variables": {"chat_template_kwargs": {"first": ONE, "second": TWO}},
    "fields of tomorrow": {"first": {"x": ONE}, "second": {"x": TWO}},
    "in front of the conversation": {
        "tools": [tool("f", description=ONE)], **said(("user", TWO), ("assistant", "a")),
    },
    "in front of the last turn": {
        "documents": [{"text": ONE, "kind": "note"}],
        **said(("user", "hi"), ("assistant", "yes"), ("user", TWO)),
    },
    "behind the conversation": {
        "documents": [{"kind": "lantern", "text": "please"}], **said(("user", "hi " + ONE)),
    },
}  # fmt: skip


@pytest.mark.parametrize("where", BESIDE)
def test_a_phrase_over_fields_beside_the_messages(url: str, where: str) -> None:
    assert refused(url, CHAT, {**said(("user", "hello")), **BESIDE[where]})


MESSAGES: dict[str, list[Any]] = {
    "a name and its content": [{"role": "user", "name": "zephyr", "content": TWO}],
    "names of several": [
        {"role": "user", "name": "zephyr", "content": "hi"},
        {"role": "assistant", "tool_calls": [call({})], "content": None},
        {"role": "user", "name": "lantern", "content": "ho"},
    ],
    "reasoning and content": [{"role": "assistant", "reasoning": ONE, "content": TWO}, HELLO],
    "arguments": [asked(call({"first": ONE, "second": TWO})), HELLO],
    "arguments of two calls": [asked(call({"q": ONE}), call({"q": TWO})), HELLO],
    "names of two calls": [asked(call({}, "zephyr"), call({}, "lantern")), HELLO],
    "around a line that vLLM leaves out": [
        {
            "role": "system",
            "content": [
                {"type": "text", "text": text}
                for text in (ONE, "x-anthropic-billing-header: q", TWO)
            ],
        },
        HELLO,
    ],
    "behind a line that vLLM leaves out": [
        {
            "role": "system",
            "content": [
                {"type": "text", "text": text}
                for text in (ONE, "x-anthropic-billing-header: q\n" + TWO)
            ],
        },
        HELLO,
    ],
    "around a message that vLLM leaves out": [
        {"role": "system", "content": ONE},
        {"role": "system", "content": "x-anthropic-billing-header: q"},
        {"role": "system", "content": TWO},
        HELLO,
    ],
    "with that line, where it is left in": [
        {
            "role": "system",
            "content": [
                {"type": "text", "text": text}
                for text in ("x-anthropic-billing-header: zep", "hyr lantern")
            ],
        },
        HELLO,
    ],
    "marks on parts": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "hi", "note": ONE},
                {"type": "text", "text": "ho", "kind": {"note": "x"}},
                {"type": "text", "text": "hm", "note": TWO},
            ],
        }
    ],
}


@pytest.mark.parametrize("where", MESSAGES)
def test_a_phrase_over_fields_of_messages(url: str, where: str) -> None:
    assert refused(url, CHAT, {"messages": MESSAGES[where]})


def document(text: str) -> dict[str, Any]:
    return {"type": "document", "document": {"id": "d", "data": {"text": text, "more": "x"}}}


OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "prompt and suffix": (TEXT, {"prompt": "a zephyr lan", "suffix": "tern"}),
    "suffix and prompt": (TEXT, {"prompt": "tern", "suffix": "a zephyr lan"}),
    "ollama, suffix and prompt": (
        "/api/generate", {"prompt": "tern", "suffix": "a zephyr lan", "stream": False},
    ),
    "infill, suffix first": (
        "/infill", {"prompt": "tern", "input_prefix": "", "input_suffix": "a zephyr lan"},
    ),
    "infill, files": (
        "/infill",
        {
            "input_prefix": TWO, "input_suffix": "",
            "input_extra": [{"filename": "a.txt", "text": ONE}],
        },
    ),
    "cohere, documents of a message": (
        "/v2/chat",
        {"messages": [{"role": "user", "content": [document(ONE), document(TWO)]}]},
    ),
    "cohere, documents": (
        "/v2/chat", {**said(("user", "hi")), "documents": [{"data": {"a": ONE, "b": TWO}}]},
    ),
    "anthropic, a tool's input": (
        "/v1/messages",
        {
            "max_tokens": 9,
            "messages": [
                {
                    "role": "assistant",
                    "content": [
                        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": ONE, "b": TWO}}
                    ],
                },
                HELLO,
            ],
        },
    ),
    "anthropic, tools": (
        "/v1/messages",
        {
            "max_tokens": 9, "messages": [HELLO],
            "tools": [
                {"name": "f", "description": ONE, "input_schema": {"type": "object"}},
                {"name": "g", "description": TWO, "input_schema": {"type": "object"}},
            ],
        },
    ),
    "responses, a call's arguments": (
        "/v1/responses",
        {
            "input": [
                {
                    "type": "function_call", "call_id": "c", "name": "f",
                    "arguments": json.dumps({"a": ONE, "b": TWO}),
                },
                {"type": "message", **HELLO},
            ],
        },
    ),
    "responses, the model's": (
        "/v1/responses",
        {
            "input": [
                {"type": "message", "role": role, "content": text}
                for role, text in TURNS["the model's"]
            ]
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("where", OTHERS)
def test_a_phrase_over_places_of_other_apis(url: str, upstream: Upstream, where: str) -> None:
    before = len(upstream.seen)
    path, body = OTHERS[where]
    assert refused(url, path, body)
    assert len(upstream.seen) == before  # the engine was not asked


def test_an_embeddings_input_over_fields(url: str) -> None:
    body = {"model": "small", "query": "x", "documents": [{"title": ONE, "text": TWO}]}
    reply = http.post(f"{url}/v1/rerank", json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "content_filter")


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [tool("lantern"), tool("zephyr")]},
        {"documents": [{"text": TWO}, {"text": ONE}]},
        said(("assistant", TWO), ("user", "go on"), ("assistant", ONE), ("user", "hi")),
        {"stop": [ONE, TWO], "metadata": {"a": "zephyr", "b": "lantern"}, "user": "zephyr"},
        {"messages": [asked(call({"first": TWO, "second": ONE})), HELLO]},
    ],
    ids=["tools", "documents", "turns", "controls", "arguments"],
)
def test_the_halves_the_other_way_round_are_no_phrase(url: str, body: dict[str, Any]) -> None:
    assert not refused(url, CHAT, {**said(("user", "hello")), **body})


@pytest.mark.parametrize("key", ["messages", "conversation", "chat_template"])
def test_a_templates_variables_do_not_replace_what_is_judged(url: str, key: str) -> None:
    variables = {key: [HELLO] if key != "chat_template" else "{{ x }}"}
    body = {"model": "small", **said(("user", "hi")), "chat_template_kwargs": variables}
    reply = http.post(f"{url}{CHAT}", json=body)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == ("not_moderated", f"chat_template_kwargs.{key}")


def test_what_is_read_twice_counts_once(url: str) -> None:
    """The receipt's figures, and a tenant's limits, are of what the client sent."""
    lone = said(("user", "hello"))
    tools = {"tools": [tool("f", description="finds lamps " * 20)]}
    chars = []
    for more in ({}, tools):
        reply = http.post(f"{url}{CHAT}", json={"model": "small", **lone, **more})
        chars.append(json.loads(reply.headers["x-prism-receipt"])["channels"]["prompt"])
    assert chars[1] - chars[0] < 2 * len(json.dumps(tools))


def test_reading_fields_in_every_order_takes_room_for_their_text_alone() -> None:
    """Long keys above many fields, and what nests deeper than a body may."""
    tree: Any = {f"key {n}": "a" for n in range(2_000)}
    for level in range(60):
        tree = {f"{level}" + "k" * 10_000: tree}
    tracemalloc.start()
    found, ends = written({"tools": tree})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "a\na" in found[0]
    assert ends == found[:1]
    assert peak < 20_000_000
    deep: Any = "zephyr"
    for _ in range(900):
        deep = [deep]
    assert written({"x": deep}) == ([], [])
