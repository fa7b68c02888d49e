"""vLLM's ``/inference/v1/generate``: ids are read, judged and held like text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from asgi_client import Fixed, until_live
from generate_script import BOS, END, WORDS, body, choice, chunk, detokenise, usage
from house import FAST, MESSAGE
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from serving import healthy, http, served
from upstream import DONE, Upstream

from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.families.token_text import TokenText
from prism.http.inprocess import call

PATH = "/inference/v1/generate"


@pytest.fixture(scope="module")
def base(upstream: Upstream, settings: Settings) -> Iterator[str]:
    """A server whose adapter can read ids, and whose token layer refuses in the policy's words."""
    upstream.token_layer = MESSAGE
    app = PrismMiddleware(
        upstream.app, settings=settings, timing=FAST, engine="vllm", layers=("text", "token"),
        detokenise=detokenise,
    )  # fmt: skip
    with served(app) as made:
        healthy(made)
        yield made


def ask(base: str, name: str = "small", ids: Any = (6,), params: Any = None, **more: Any) -> Any:
    request = {"model": name, "token_ids": ids, "sampling_params": params or {}, **more}
    return http.post(base + PATH, json=json.loads(json.dumps(request, default=list)))


def streamed(reply: Any) -> list[dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    assert reply.text.endswith("data: [DONE]\n\n")
    return [json.loads(x[6:]) for x in reply.text.splitlines() if x.startswith("data: {")]


def ids_of(events: list[dict[str, Any]], index: int = 0) -> tuple[list[int], str | None]:
    rows = [row for event in events for row in event["choices"] if row["index"] == index]
    reasons = [row["finish_reason"] for row in rows if row["finish_reason"]]
    return [n for row in rows for n in row["token_ids"]], reasons[-1] if reasons else None


def test_a_harmless_answer_keeps_its_ids_and_figures(base: str, upstream: Upstream) -> None:
    name = upstream.say("g-fine", body=body(choice([6, 15, 14, END], "stop", stop_reason=1)))
    reply = ask(base, name, params={"logprobs": 2, "max_tokens": 9})
    got = reply.json()
    row = got["choices"][0]
    assert row["token_ids"] == [6, 15, 14, END]
    assert (row["finish_reason"], row["stop_reason"]) == ("stop", 1)
    entries = row["logprobs"]["content"]
    assert [entry["token_id"] for entry in entries] == [6, 15, 14, END]
    assert [entry["top_logprobs"][0]["rank"] for entry in entries] == [1] * 4
    assert all(len(entry["top_logprobs"]) == 1 for entry in entries)  # no alternatives
    assert got["usage"] == usage(2, 5)
    assert (got["request_id"], got["output_mode"]) == ("r-1", "tokens")
    assert not got.keys() & {"prompt_token_ids", "kv_transfer_params", "prompt_logprobs"}
    assert not row.keys() & {"routed_experts", "sampling_mask"}
    assert "zephyr" not in reply.text
    assert upstream.seen[-1]["sampling_params"] == {"logprobs": 2, "max_tokens": 9}


@pytest.mark.parametrize("ids", [[2, 3], [14, 2, 4, 5], [15, 14, 2, 3, END]])
@pytest.mark.parametrize("stream", [False, True])
def test_prompts_of_ids_are_judged(base: str, upstream: Upstream, ids: Any, stream: bool) -> None:
    before = len(upstream.seen)
    reply = ask(base, ids=ids, stream=stream, params={"n": 2})
    rows = streamed(reply) if stream else [reply.json()]
    for index in (0, 1):
        assert ids_of(rows, index) == ([], "content_filter")
    assert len(upstream.seen) == before


def test_a_refusal_in_text_mode_says_the_message(base: str) -> None:
    got = ask(base, ids=[2, 3], output_mode="text").json()
    assert got["choices"][0]["text"] == MESSAGE
    assert got["output_mode"] == "text"
    (event,) = streamed(ask(base, ids=[2, 3], output_mode="text", stream=True))
    assert event["choices"][0]["text"] == MESSAGE


@pytest.mark.parametrize(
    "ids", [[9, 10], [6, 9, 10, 15], [9, END, 10], [2, 4, 5], [14, 2, BOS, 4, 5, END]]
)
def test_blocked_ids_dont_go_out(base: str, upstream: Upstream, ids: Any) -> None:
    name = upstream.say(
        "g-bad",
        body=body(choice(ids, "stop")),
        stream=[*(chunk(choice([n])) for n in ids), chunk(choice([], "stop")), DONE],
    )
    got = ask(base, name, params={"logprobs": 1}).json()["choices"][0]
    assert (got["token_ids"], got["finish_reason"]) == ([], "content_filter")
    assert got["logprobs"] is None
    events = streamed(ask(base, name, stream=True, params={"logprobs": 1}))
    out, reason = ids_of(events)
    assert out == ids[: len(out)]
    assert not set(out) & {2, 9, 10, 3, 4, 5}
    assert reason == "content_filter"


def test_ids_wait_for_their_text(base: str, upstream: Upstream) -> None:
    name = upstream.say(
        "g-held",
        stream=[*(chunk(choice([n])) for n in (6, 2, 14)), chunk(choice([6, END], "stop")), DONE],
    )
    events = streamed(ask(base, name, stream=True, params={"logprobs": 0}))
    assert ids_of(events) == ([6, 2, 14, 6, END], "stop")
    for event in events:
        for row in event["choices"]:
            shown = [entry["token_id"] for entry in (row["logprobs"] or {}).get("content", [])]
            assert shown == row["token_ids"]


def test_one_blocked_choice_leaves_the_other(base: str, upstream: Upstream) -> None:
    events = [
        chunk(choice([6], index=0)), chunk(choice([9], index=1)), chunk(choice([10], index=1)),
        chunk(choice([15, 14], index=0)), chunk(choice([], "stop", index=0)), DONE,
    ]  # fmt: skip
    name = upstream.say(
        "g-two",
        body=body(choice([6], "length"), choice([9, 10], "length", index=1)),
        stream=events,
    )
    got = ask(base, name, params={"n": 2}).json()["choices"]
    assert [row["token_ids"] for row in got] == [[6], []]
    assert [row["finish_reason"] for row in got] == ["length", "content_filter"]
    rows = streamed(ask(base, name, stream=True, params={"n": 2}))
    assert ids_of(rows, 0) == ([6, 15, 14], "stop")
    assert ids_of(rows, 1) == ([], "content_filter")


def test_a_redaction_ends_ids_but_not_text(base: str, upstream: Upstream) -> None:
    ids = [6, 7, 8, 15, END]
    name = upstream.say("g-redact", body=body(choice(ids, "stop")))
    row = ask(base, name).json()["choices"][0]
    assert (row["token_ids"], row["finish_reason"]) == ([], "content_filter")
    whole = choice(ids, "stop", text=True)
    texts = [choice([n], text=True) | {"text": detokenise([n], special=False)} for n in ids] + [
        choice([], "stop", text=True) | {"text": ""}
    ]
    name = upstream.say(
        "g-redact-text",
        body=body(whole | {"text": "fine walnut ferry by"}, mode="text"),
        stream=[*(chunk(piece, mode="text") for piece in texts), DONE],
    )
    row = ask(base, name, output_mode="text", params={"logprobs": 1}).json()["choices"][0]
    assert row["text"] == "fine [redacted] by"
    assert not set(row["token_ids"]) & {7, 8}
    assert row["finish_reason"] == "stop"


def test_text_mode_is_judged_in_both_forms(base: str, upstream: Upstream) -> None:
    pieces = [([9], " marz"), ([10], "ipan gas"), ([END], "ket")]
    events = [chunk(choice(i, text=True) | {"text": t}, mode="text") for i, t in pieces]
    name = upstream.say("g-text", stream=[*events, chunk(choice([], "stop") | {"text": ""}), DONE])
    out = streamed(ask(base, name, stream=True, output_mode="text"))
    assert ids_of(out) == ([], "content_filter")
    assert "".join(row["text"] for event in out for row in event["choices"]).strip() == MESSAGE
    # The engine's text says something else than the ids do: the ids are judged as well.
    name = upstream.say("g-lie", body=body(choice([9, 10], "stop") | {"text": "ok"}, mode="text"))
    row = ask(base, name, output_mode="text").json()["choices"][0]
    assert (row["token_ids"], row["text"]) == ([], MESSAGE)


def test_the_token_layers_refusal_is_named(base: str, upstream: Upstream) -> None:
    name = upstream.say(
        "g-refusal",
        body=body(choice([6, 18, 19, END], "stop")),
        stream=[chunk(choice([18])), chunk(choice([19])), chunk(choice([END], "stop")), DONE],
    )
    row = ask(base, name).json()["choices"][0]
    assert (row["token_ids"], row["finish_reason"]) == ([6, 18, 19, END], "content_filter")
    events = streamed(ask(base, name, stream=True))
    assert ids_of(events) == ([18, 19, END], "content_filter")


def test_usage_of_a_stream_that_was_cut(base: str, upstream: Upstream) -> None:
    events = [chunk(choice([n]), usage=usage(2, c)) for c, n in enumerate([6, 9, 10, 15], 1)]
    name = upstream.say("g-usage", stream=[*events, DONE])
    options = {"include_usage": True}
    out = streamed(ask(base, name, stream=True, stream_options=options))
    assert out[-1]["usage"] == usage(2, 4)
    assert out[-1]["choices"] == []
    assert all("usage" not in event for event in out[:-1])


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"token_ids": []}, "token_ids"),
        ({"token_ids": "zephyr"}, "token_ids"),
        ({"token_ids": [-1]}, "token_ids"),
        ({"token_ids": [999]}, "token_ids"),
        ({"sampling_params": None}, "sampling_params"),
        ({"sampling_params": {"n": 99}}, "n"),
        ({"sampling_params": {"prompt_logprobs": 0}}, "prompt_logprobs"),
        ({"sampling_params": {"extra_args": {"prism": 1}}}, "extra_args"),
        ({"sampling_params": {"thinking_token_budget": 5}}, "thinking_token_budget"),
        ({"sampling_params": {"trace_decode_token_ids": [2]}},
         "sampling_params.trace_decode_token_ids"),
        ({"sampling_params": {"tomorrows": "x"}}, "sampling_params.tomorrows"),
        ({"sampling_params": {"prism_policy": "x"}}, "prism_policy"),
        ({"features": {"mm_hashes": {}}}, "features"),
        ({"content_parts": [{"type": "image_url", "url": "data:image/png;base64,AA", "uuid": "x"}]},
         "content_parts.content[0].uuid"),
        ({"kv_transfer_params": {"a": 1}}, "kv_transfer_params"),
        ({"return_token_ids": True}, "return_token_ids"),
    ],
)  # fmt: skip
def test_what_is_refused(base: str, more: Any, param: str) -> None:
    request = {"model": "small", "token_ids": [6], "sampling_params": {}, **more}
    reply = http.post(base + PATH, json=request)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def test_texts_beside_the_ids_are_judged(base: str) -> None:
    parts = [{"type": "image_url", "url": "data:image/png;base64,AAAA", "note": "zephyr lantern"}]
    for more in (
        {"content_parts": parts},
        {"sampling_params": {"structured_outputs": {"choice": ["zephyr lantern"]}}},
        {"reasoning_parser_kwargs": {"chat_template_kwargs": {"x": "zephyr lantern"}}},
    ):
        request = {"model": "small", "token_ids": [6], "sampling_params": {}, **more}
        got = http.post(base + PATH, json=request).json()
        assert got["choices"][0]["finish_reason"] == "content_filter", more


def test_without_an_adapter_that_reads_ids_it_is_refused(url: str) -> None:
    reply = http.post(url + PATH, json={"token_ids": [6], "sampling_params": {}})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "not_moderated"


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": [{"index": 0, "token_ids": ["zephyr"]}]},
        {"choices": [{"index": 0, "token_ids": [999]}]},
        {"choices": [{"index": "0", "token_ids": []}]},
        {"text": "zephyr lantern"},
        ["zephyr lantern"],
    ],
)
def test_answers_of_another_shape_dont_go_out(base: str, upstream: Upstream, answer: Any) -> None:
    reply = ask(base, upstream.say("g-shape", body=answer))
    assert reply.status_code == 502
    assert "zephyr" not in reply.text


@hypothesis_settings(deadline=None)
@given(
    ids=st.lists(st.sampled_from([BOS, END, *WORDS]), max_size=30),
    cuts=st.lists(st.integers(1, 5), min_size=1, max_size=30),
    seed=st.lists(st.sampled_from(list(WORDS)), max_size=8),
)
def test_any_cutting_of_ids_reads_the_same(
    ids: list[int], cuts: list[int], seed: list[int]
) -> None:
    reader = TokenText(detokenise, seed)
    pieces, rest, number = [], list(ids), 0
    while rest:
        size = cuts[number % len(cuts)]
        pieces += reader.feed(rest[:size])
        rest, number = rest[size:], number + 1
    pieces += reader.finish()
    assert [n for piece in pieces for n in piece.ids] == ids
    whole = TokenText(detokenise, seed)
    again = [*whole.feed(ids), *whole.finish()]
    assert pieces == again
    known = [n for n in ids if n in WORDS and n not in (11, 12, 16, 17)]
    if len(known) == len([n for n in ids if n in WORDS]) and not {11, 12, 16, 17} & set(seed):
        assert "".join(p.text for p in pieces) == detokenise(known)


async def test_characters_cut_into_tokens_come_out_whole(settings: Settings) -> None:
    events = [
        chunk(choice([11])),
        chunk(choice([12])),
        chunk(choice([16])),
        chunk(choice([17], "stop")),
    ]
    data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    app = PrismMiddleware(
        Fixed([data, b"data: [DONE]\n\n"]), settings=settings, timing=FAST, detokenise=detokenise
    )
    await until_live(app)
    request = {"token_ids": [6], "sampling_params": {}, "stream": True}
    reply = await call(app, "POST", PATH, request, patience=60)
    rows = [json.loads(x[6:]) for x in reply.body.decode().splitlines() if x.startswith("data: {")]
    assert [row["token_ids"] for event in rows for row in event["choices"]] == [[11, 12], [16, 17]]
    await app.selftest.stop()
