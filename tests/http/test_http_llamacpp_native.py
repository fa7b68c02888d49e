"""llama.cpp's own routes: events and answers as native ``llama-server`` writes them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from asgi_client import Fixed, until_live
from chunking import FEW, PLACES, TEXTS, in_any_chunks
from house import FAST, MESSAGE
from hypothesis import given
from serving import http
from upstream import Upstream, encode

from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.inprocess import call

SETTINGS = {
    "seed": 4294967295, "temperature": 0.8, "stop": ["never said"], "n_predict": 3,
    "grammar": "root ::= marzipan gasket", "samplers": ["top_k"], "lora": [],
}  # fmt: skip


def piece(text: str, index: int = 0, **more: Any) -> dict[str, Any]:
    row = {"index": index, "content": text, "tokens": [17], "stop": False, "id_slot": -1}
    return {**row, "tokens_predicted": 1, "tokens_evaluated": 4, **more}


def final(text: str = "", index: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "index": index, "content": text, "tokens": [], "id_slot": 1, "stop": True,
        "model": "small.gguf", "tokens_predicted": 3, "tokens_evaluated": 4,
        "generation_settings": SETTINGS, "prompt": "<bos>The quick marzipan gasket",
        "has_new_line": False, "truncated": False, "stop_type": "limit", "stopping_word": "",
        "tokens_cached": 6, "timings": {"cache_n": 0, "prompt_ms": 1.5}, **more,
    }  # fmt: skip


def probability(token: str, number: int = 7, **more: Any) -> dict[str, Any]:
    row = {"id": number, "token": token, "bytes": list(token.encode()), "logprob": -0.5}
    other = {"id": 9, "token": " gasket", "bytes": list(b" gasket"), "logprob": -1.5}
    return {**row, "top_logprobs": [dict(row), other], **more}


def ask(url: str, name: str, path: str = "/completion", **body: Any) -> Any:
    reply = http.post(url + path, json={"prompt": "hello", "model": name, **body})
    assert reply.status_code == 200, reply.text
    return reply.json()


def rows(data: bytes) -> list[dict[str, Any]]:
    blocks = data.decode().split("\n\n")
    return [json.loads(b.removeprefix("data: ")) for b in blocks if b.startswith("data: ")]


def stream(url: str, name: str, **body: Any) -> list[dict[str, Any]]:
    reply = http.post(
        f"{url}/completion", json={"prompt": "hello", "model": name, "stream": True, **body}
    )
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert b"[DONE]" not in reply.content
    assert reply.content.count(b": prism-receipt ") == 1
    return rows(reply.content)


def said(events: list[dict[str, Any]], index: int = 0) -> tuple[str, str | None]:
    mine = [event for event in events if event.get("index", 0) == index]
    kinds = [event["stop_type"] for event in mine if event["stop"]]
    return "".join(event["content"] for event in mine), kinds[-1] if kinds else None


def test_an_ordinary_answer_keeps_what_is_known(url: str, upstream: Upstream) -> None:
    name = upstream.say("plain", body={**final(" fox jumps"), "secret": "marzipan gasket"})
    reply = http.post(f"{url}/completion", json={"prompt": "The quick", "model": name})
    got = reply.json()
    assert "x-prism-receipt" in reply.headers
    assert (got["content"], got["stop"], got["stop_type"]) == (" fox jumps", True, "limit")
    assert (got["tokens_predicted"], got["tokens_evaluated"], got["tokens_cached"]) == (3, 4, 6)
    assert got["generation_settings"]["n_predict"] == 3
    assert got["timings"] == {"cache_n": 0, "prompt_ms": 1.5}
    assert got["prompt"] == "The quick"  # the client's own words, not the engine's rendering
    assert got["tokens"] == []
    assert "marzipan" not in reply.text


@pytest.mark.parametrize("path", ["/completion", "/completions", "/infill"])
def test_a_blocked_prompt_never_reaches_the_engine(url: str, upstream: Upstream, path: str) -> None:
    before = len(upstream.seen)
    got = ask(url, "x", path, prompt="the Zephyr Lantern", n=2)
    assert [row["content"] for row in got] == [MESSAGE, MESSAGE]
    assert {row["stop_type"] for row in got} == {"content_filter"}
    events = stream(url, "x", prompt="the Zephyr Lantern")
    assert said(events) == (MESSAGE, "content_filter")
    assert events[-1]["tokens_predicted"] == 0
    assert len(upstream.seen) == before


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": ["fine", "zephyr lantern"]},
        {"prompt": {"prompt_string": "zephyr lantern"}},
        {"prompt": ["fine", {"prompt_string": "zephyr lantern", "multimodal_data": ["AAAA"]}]},
        {"prompt": "", "input_prefix": "zephyr lantern"},
        {"prompt": "", "input_suffix": "zephyr lantern"},
        {"input_prefix": "the zephyr lan", "input_suffix": "tern"},
        {"input_prefix": "the zephyr lan", "prompt": "tern", "input_suffix": " shines"},
        {"input_prefix": "x", "input_extra": [{"filename": "a", "text": "zephyr lantern"}]},
        {"input_prefix": "x", "input_extra": [{"filename": "zephyr lantern", "text": "a"}]},
        {"prompt": "", "grammar": "zephyr lantern"},
        {"prompt": "", "unheard_of": {"zephyr lantern": 1}},
    ],
)
def test_prompts_of_every_shape_are_judged(url: str, upstream: Upstream, body: Any) -> None:
    before = len(upstream.seen)
    got = http.post(f"{url}/infill", json=body).json()
    for row in got if isinstance(got, list) else [got]:
        assert (row["content"], row["stop_type"]) == (MESSAGE, "content_filter")
    assert len(upstream.seen) == before


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"prompt": [1, 2]}, "not_moderated"),  # this server has no detokeniser
        ({"prompt": [1, "a"]}, "not_moderated"),
        ({"prompt": [[1, 2], "a"]}, "not_moderated"),
        ({"prompt": 3}, "invalid_type"),
        ({"prompt": [True]}, "invalid_type"),
        ({"prompt": [1.5, "a"]}, "invalid_type"),
        ({"prompt": {"text": "a"}}, "not_moderated"),
        ({"prompt": {"multimodal_data": []}}, "invalid_type"),
        ({"input_extra": "a"}, "invalid_type"),
        ({"input_prefix": 3}, "invalid_type"),
        ({"prompt": "a", "return_tokens": True}, "not_moderated"),
        ({"prompt": "a", "n": 99}, "out_of_range"),
        ({"prompt": "a", "n_cmpl": 99}, "out_of_range"),
        ({"prompt": ["a"] * 99}, "out_of_range"),
        ({"prompt": "a", "grammar": "%llguidance {}"}, "unsupported_grammar"),
        ({"prompt": "a", "response_fields": [1]}, "invalid_type"),
        ({"prompt": "a", "prism_policy": "x"}, "policy_not_yours"),
    ],
)
def test_what_cant_be_judged_is_refused(url: str, body: Any, code: str) -> None:
    reply = http.post(f"{url}/completion", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == code


async def test_token_ids_are_judged_where_they_can_be_read(settings: Settings) -> None:
    words = {1: "zephyr", 2: " lan", 3: "fine"}
    engine = Fixed([json.dumps(final("ok")).encode()], kind="application/json")
    app = PrismMiddleware(
        engine, settings=settings, timing=FAST,
        detokenise=lambda ids: "".join(words[n] for n in ids),
    )  # fmt: skip
    await until_live(app)
    for prompt, fine in (
        ([3, 3], True), ([1, 2, "tern"], False), ([[1, 2], "fine"], True), (["fine", [3]], True),
        ([[3], [1, 2, "tern"]], False),
    ):  # fmt: skip
        reply = await call(app, "POST", "/completion", {"prompt": prompt}, patience=60)
        got = reply.json()
        got = got[0] if isinstance(got, list) else got
        assert (got["stop_type"] == "limit") is fine
    await app.selftest.stop()


def test_a_blocked_answer_is_replaced_whole(url: str, upstream: Upstream) -> None:
    body = final("a marzipan gasket", completion_probabilities=[probability(" marzipan")])
    name = upstream.say("bad", body=body)
    got = ask(url, name, n_probs=1)
    assert (got["content"], got["stop_type"]) == (MESSAGE, "content_filter")
    assert "marzipan" not in json.dumps(got)


def test_several_answers_are_a_list_and_one_blocked_leaves_the_others(
    url: str, upstream: Upstream
) -> None:
    texts = ["all well", "a marzipan gasket", "by walnut ferry"]
    name = upstream.say("list", body=[final(text, n) for n, text in enumerate(texts)])
    got = ask(url, name, prompt=["a", "b", "c"])
    assert [row["content"] for row in got] == ["all well", MESSAGE, "by [redacted]"]
    assert [row["stop_type"] for row in got] == ["limit", "content_filter", "limit"]


def test_response_fields_are_chosen_after_judging(url: str, upstream: Upstream) -> None:
    name = upstream.say("fields", body=final("fine"))
    wanted = ["content", "generation_settings/n_predict", "generation_settings/grammar", "nothing"]
    got = ask(url, name, response_fields=wanted)
    assert got == {"content": "fine", "generation_settings/n_predict": 3}
    assert "response_fields" not in upstream.seen[-1]


def test_a_stream_passes_as_it_was_but_for_what_is_unknown(url: str, upstream: Upstream) -> None:
    events = [
        "null",
        piece("", prompt_progress={"total": 4, "processed": 4}),
        piece(" fox"), piece(" jumps", timings={"prompt_ms": 1.0}), final(),
    ]  # fmt: skip
    name = upstream.say("stream", stream=events)
    got = stream(url, name)
    assert said(got) == (" fox jumps", "limit")
    assert got[0]["prompt_progress"] == {"total": 4, "processed": 4}
    assert got[-1]["stop"] is True
    assert [event["stop"] for event in got[:-1]] == [False] * (len(got) - 1)
    assert all(event["tokens"] == [] for event in got)
    assert "marzipan" not in json.dumps(got)


def test_a_stream_is_cut_where_the_match_begins(url: str, upstream: Upstream) -> None:
    parts = ["Look: the ze", "phyr lan", "tern", " shines"]
    name = upstream.say("cut", stream=[*map(piece, parts), final()])
    assert said(stream(url, name)) == ("Look: the ", "content_filter")
    name = upstream.say("atonce", stream=[*map(piece, ["zephyr", " lantern"]), final()])
    assert said(stream(url, name)) == (MESSAGE, "content_filter")
    name = upstream.say("soft", stream=[*map(piece, ["by wal", "nut fer", "ry today"]), final()])
    assert said(stream(url, name)) == ("by [redacted] today", "limit")


def test_streams_of_several_choices_are_judged_apart(url: str, upstream: Upstream) -> None:
    said_by = ["all well now", "a marzipan gasket"]
    events: list[Any] = ["null"]
    for at in range(0, 18, 3):
        events += [piece(text[at : at + 3], n) for n, text in enumerate(said_by)]
    name = upstream.say("two", stream=[*events, final(index=1), final(index=0)])
    got = stream(url, name, prompt=["a", "b"])
    assert said(got, 0) == ("all well now", "limit")
    assert said(got, 1) == ("a ", "content_filter")


def test_probabilities_wait_for_their_text(url: str, upstream: Upstream) -> None:
    events = [
        piece(text, completion_probabilities=[probability(text)])
        for text in ["so", " zephyr", " lanyard", " mar", "zipan", " gasket"]
    ]
    name = upstream.say("probs", stream=[*events, final()])
    got = stream(url, name, n_probs=2)
    assert said(got) == ("so zephyr lanyard ", "content_filter")
    entries = [e for event in got for e in event.get("completion_probabilities", [])]
    assert [entry["token"] for entry in entries] == ["so", " zephyr", " lanyard"]
    assert entries[0]["id"] == 7
    assert all(len(entry["top_logprobs"]) == 1 for entry in entries)  # the sampled token alone
    whole = final("so", completion_probabilities=[probability("so")])
    one = ask(url, upstream.say("probs-whole", body=whole), n_probs=2)
    assert [entry["token"] for entry in one["completion_probabilities"]] == ["so"]


def test_only_a_stop_string_of_the_client_is_named(url: str, upstream: Upstream) -> None:
    for word, told in (("the end", "the end"), ("marzipan gasket", "")):
        body = final("ok", stop_type="word", stopping_word=word)
        name = upstream.say("word", body=body)
        assert ask(url, name)["stopping_word"] == ""
        assert ask(url, name, stop=[word])["stopping_word"] == told


def test_errors_inside_a_stream_are_judged(url: str, upstream: Upstream) -> None:
    error = {"error": {"code": 500, "message": "at marzipan gasket", "type": "server_error"}}
    name = upstream.say("error", stream=[piece("ok"), error])
    got = http.post(f"{url}/completion", json={"prompt": "a", "model": name, "stream": True})
    assert "marzipan" not in got.text
    assert "withheld" in got.text
    fine = {"error": {"code": 501, "message": "Infill is not supported", "type": "x"}}
    name = upstream.say("fine-error", status=501, body=fine)
    reply = http.post(f"{url}/infill", json={"prompt": "a", "model": name})
    assert (reply.status_code, reply.json()) == (501, fine)


@pytest.mark.parametrize("body", [3, "text", [3], [], {"content": 3}, {"index": "a"}])
def test_answers_of_another_shape_are_withheld(url: str, upstream: Upstream, body: Any) -> None:
    name = upstream.say("shape", body=body)
    reply = http.post(f"{url}/completion", json={"prompt": "a", "model": name})
    assert reply.status_code == 502 or reply.json() == []


@FEW
@given(pieces=TEXTS, places=PLACES)
async def test_any_chunking_of_the_bytes_gives_the_same_text_and_no_leak(
    settings: Settings, pieces: list[str], places: list[int]
) -> None:
    async def ask(app: Any) -> tuple[str, str | None]:
        body = {"prompt": "hello", "stream": True}
        return said(rows((await call(app, "POST", "/completion", body, patience=60)).body))

    raw = b"".join(encode(event) for event in [*map(piece, pieces), final()])
    await in_any_chunks(settings, raw, pieces, places, ask)
