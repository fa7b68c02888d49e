"""What stands beside a text (names, ids, marks) neither hides nor parts what it says."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from house import MESSAGE
from serving import http
from upstream import Upstream

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
MARK = {"cache_control": {"type": "ephemeral"}}
BAD = "zephyr lantern"


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def chat(*messages: dict[str, Any], **more: Any) -> tuple[str, dict[str, Any]]:
    return CHAT, {"messages": list(messages), **more}


def messages(*given: dict[str, Any], **more: Any) -> tuple[str, dict[str, Any]]:
    return MESSAGES, {"max_tokens": 9, "messages": list(given), **more}


def responses(*items: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return RESPONSES, {"input": list(items)}


PICTURE = {"type": "image_url", "image_url": {"url": "https://pictures.example/a.png"}}
SPLIT: dict[str, tuple[str, dict[str, Any]]] = {
    "a mark on a part": chat(user([text("zephyr", **MARK), text("lantern")])),
    "a picture between parts": chat(user([text("zephyr"), PICTURE, text("lantern")])),
    "a part before, a turn behind": chat(user([text("well"), text("zephyr")]), user("lantern")),
    "half a word, a turn behind": chat(
        user([text("zep"), text("hyr")]), {"role": "assistant", "content": "yes?"}, user("lantern")
    ),
    "a name between turns": chat(user("zephyr", name="bob"), user("lantern")),
    "a field that nobody knows": chat(user("zephyr", mood="calm"), user("lantern")),
    "a name of the system's": chat(
        {"role": "system", "name": "bob", "content": "zephyr"},
        {"role": "system", "content": "lantern"},
    ),
    "messages, a mark on a block": messages(user([text("zephyr", **MARK), text("lantern")])),
    "messages, marks and turns": messages(
        user([text("zephyr", **MARK)]),
        {"role": "assistant", "content": [text("yes?", **MARK)]},
        user([text("lantern", **MARK)]),
    ),
    "messages, a mark on a result": messages(
        user(
            [
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "content": [text("zephyr", **MARK), text("lantern")],
                }
            ]
        )
    ),
    "messages, a block before": messages(user([text("well"), text("zephyr")]), user("lantern")),
    "responses, a mark on a part": responses(
        user([text("zephyr", annotations=["a note"]), text("lantern")])
    ),
    "responses, a thought in pieces": responses(
        {
            "type": "reasoning",
            "id": "r",
            "summary": [],
            "content": [
                {"type": "reasoning_text", "text": "zephyr"},
                {"type": "reasoning_text", "text": "lantern"},
            ],
        }
    ),
    "cohere, a mark": (
        "/v2/chat",
        {"messages": [user("zephyr", documents=["x"]), user("lantern")]},
    ),
    "ollama, a name": (
        "/api/chat",
        {"messages": [user("zephyr", tool_name="look"), user("lantern")]},
    ),
    "embeddings, a mark": (
        "/v1/embeddings",
        {"messages": [user([text("zephyr", **MARK), text("lantern")])]},
    ),
}
HIDDEN: dict[str, tuple[str, dict[str, Any]]] = {
    "a call's id": chat({"role": "tool", "tool_call_id": BAD, "content": "fine"}),
    "a message's id": chat(user("hello", id=BAD)),
    "a role": chat({"role": BAD, "content": "hello"}),
    "a role and its text": chat({"role": "zephyr", "content": "lantern"}),
    "a text that looks like a picture": chat(
        user([{**PICTURE, "text": f"data:image/ {BAD}"}]),
    ),
    "a call's arguments": chat(
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "c", "function": {"name": "f", "arguments": '{"a": "zephyr\\nlantern"}'}}
            ],
        }
    ),
    "how much to think": chat(user("hello"), reasoning_effort=BAD),
    "messages, a result's id": messages(
        user([{"type": "tool_result", "tool_use_id": BAD, "content": "fine"}])
    ),
    "messages, a document": messages(
        user(
            [
                {
                    "type": "document",
                    "source": {
                        "type": "base64",
                        "media_type": "text/plain",
                        "data": base64.b64encode(BAD.encode()).decode(),
                    },
                }
            ]
        )
    ),
    "responses, a call's id": responses(
        {"type": "function_call_output", "call_id": BAD, "output": "fine"}
    ),
}


def ask(url: str, path: str, body: dict[str, Any]) -> str:
    return http.post(f"{url}{path}", json={"model": "small", "stream": False, **body}).text


@pytest.mark.parametrize("case", SPLIT)
def test_what_stands_between_two_texts_keeps_no_phrase_apart(
    url: str, upstream: Upstream, case: str
) -> None:
    before = len(upstream.seen)
    assert MESSAGE in ask(url, *SPLIT[case])
    assert len(upstream.seen) == before  # the engine was not asked


@pytest.mark.parametrize("case", HIDDEN)
def test_a_phrase_beside_the_text_is_found(url: str, upstream: Upstream, case: str) -> None:
    before = len(upstream.seen)
    assert MESSAGE in ask(url, *HIDDEN[case])
    assert len(upstream.seen) == before


@pytest.mark.parametrize(
    "case",
    [
        chat(user([text("a lantern", **MARK), text("a zephyr")], name="bob"), user("so it is")),
        chat({"role": "tool", "tool_call_id": "call_1", "content": "fine"}, reasoning_effort="low"),
    ],
)
def test_names_and_marks_of_harmless_texts_do_no_harm(
    url: str, upstream: Upstream, case: tuple[str, dict[str, Any]]
) -> None:
    before = len(upstream.seen)
    assert MESSAGE not in ask(url, *case)
    assert len(upstream.seen) == before + 1


def test_a_document_that_is_no_text_is_told_of(url: str) -> None:
    source = {"type": "base64", "media_type": "text/plain", "data": "///"}
    path, body = messages(user([{"type": "document", "source": source}]))
    assert "messages[0].content[0].source.data must be text in UTF-8" in ask(url, path, body)
