"""Where a text can be found in an answer: in every field, put together as a client would."""

from __future__ import annotations

from typing import Any

import pytest

from prism.conform.answer import Answer


def answer(*rows: dict[str, Any], status: int = 200, **more: Any) -> Answer:
    made = Answer(status, {}, True, "4f2a", "what was asked for", **more)
    made.rows = [(float(at), row) for at, row in enumerate(rows)]
    return made


def chat(index: int = 0, reason: str | None = None, **delta: Any) -> dict[str, Any]:
    row = {"index": index, "delta": delta, "finish_reason": reason}
    return {"object": "chat.completion.chunk", "choices": [row]}


def call(name: str | None, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
    return chat(tool_calls=[{"index": 0, "function": function}])


def entry(token: str, *others: str) -> dict[str, Any]:
    top = [{"token": text} for text in (token, *others)]
    row = {"index": 0, "logprobs": {"content": [{"token": token, "top_logprobs": top}]}}
    return {"choices": [row]}


def old_entry(token: str, *others: str) -> dict[str, Any]:
    top = [dict.fromkeys((token, *others), -1.0)]
    return {"choices": [{"index": 0, "logprobs": {"tokens": [token], "top_logprobs": top}}]}


def old_whole(*tokens: tuple[str, str]) -> dict[str, Any]:
    top = [dict.fromkeys(pair, -1.0) for pair in tokens]
    return {"choices": [{"index": 0, "logprobs": {"top_logprobs": top}}]}


LEAKS = {
    "in pieces": [chat(content="the mar"), chat(content="zipan gas"), chat(content="ket")],
    "in capitals": [chat(content="MARZIPAN GASKET")],
    "over a line break": [chat(content="marzipan\n gasket")],
    "in reasoning": [chat(reasoning_content="marzipan"), chat(reasoning_content=" gasket")],
    "in arguments": [call("f", ""), call(None, '{"a": "marzi'), call(None, 'pan gasket"}')],
    "in arguments that are escaped": [call("f", '"marzip\\u0061n'), call(None, '\\u0020gasket"')],
    "in a field that nobody knows": [{"later": {"text": "a marzipan gasket"}}],
    "in what repeats a text": [{"type": "response.completed", "response": {"output": [
        {"type": "message", "content": [{"text": "marzipan gasket"}]}]}}],
    "in a message's block": [
        {"type": "content_block_delta", "index": 1, "delta": {"text": "marzipan "}},
        {"type": "content_block_delta", "index": 1, "delta": {"text": "gasket"}}],
    "in log-probabilities": [entry("mar"), entry("zipan"), entry(" gasket")],
    "in alternatives": [entry("a", "marzipan"), entry("b", " gasket")],
    "in alternatives of old": [old_entry("a", "marzipan"), old_entry("b", " gasket")],
    "in alternatives of old, whole": [old_whole(("a", "marzipan"), ("b", " gasket"))],
    "in an error that quotes the engine": [{"error": {"message": "4f2a: marzipan gasket"}}],
}  # fmt: skip

HARMLESS = {
    "in two choices": [chat(0, content="marzipan "), chat(1, content="gasket")],
    "in two blocks": [
        {"type": "content_block_delta", "index": 0, "delta": {"text": "marzipan "}},
        {"type": "content_block_delta", "index": 1, "delta": {"text": "gasket"}}],
    "apart": [chat(content="marzipan and a gasket")],
    "in an error that names the rule": [{"error": {"message": "keyword 'marzipan gasket'"}}],
}  # fmt: skip


@pytest.mark.parametrize("rows", LEAKS.values(), ids=LEAKS.keys())
def test_a_phrase_is_found(rows: list[dict[str, Any]]) -> None:
    assert answer(*rows).leak() is not None


@pytest.mark.parametrize("rows", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_no_client_can_read_is_not(rows: list[dict[str, Any]]) -> None:
    assert answer(*rows).leak() is None


def test_it_is_found_in_headers_and_in_what_is_no_json() -> None:
    made = answer()
    made.headers["x-told"] = "marzipan gasket"
    assert made.leak() == "header x-told"
    made = answer()
    made.other.append("<p>marzipan gasket")
    assert made.leak() == "what is no JSON"


def test_an_error_that_names_the_phrase_is_told_apart() -> None:
    made = answer({"error": {"message": "found 'marzipan gasket'"}}, status=400)
    assert (made.leak(), made.named()) == (None, "error.message")
    assert answer(chat(content="marzipan gasket")).named() is None


def test_half_a_phrase_is_a_hint() -> None:
    assert answer(chat(content="the mar"), chat(content="zi")).hint() == "choices.delta.content"
    assert answer(chat(content="the mark")).hint() is None


@pytest.mark.parametrize(
    ("row", "mark"),
    [
        (chat(reason="content_filter"), "finish_reason content_filter"),
        ({"type": "message_delta", "delta": {"stop_reason": "refusal"}}, "stop_reason refusal"),
        (
            {"response": {"incomplete_details": {"reason": "content_filter"}}},
            "reason content_filter",
        ),
        ({"error": {"message": "blocked"}}, "an error event"),
        (chat(reason="stop"), None),
        ({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, None),
    ],
)
def test_how_a_block_is_marked(row: dict[str, Any], mark: str | None) -> None:
    assert answer(row).mark == mark


def test_a_status_and_a_broken_connection_are_marks_too() -> None:
    assert answer(status=400).mark == "status 400"
    assert answer(chat(content="a"), broken=True).mark == "the connection was broken off"


def test_the_text_of_a_choice() -> None:
    made = answer(chat(0, content="a"), chat(1, content="b"), chat(0, content="c"))
    assert (made.content(), made.content(1), made.first_text()) == ("ac", "b", 0.0)
    assert answer({"choices": [{"index": 0, "text": "t"}]}).content() == "t"
    reasoning = {"type": "reasoning", "content": [{"text": "r"}]}
    message = {"type": "message", "content": [{"text": "m"}]}
    assert answer({"output": [reasoning, message]}).content() == "m"
