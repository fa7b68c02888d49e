"""Log-probabilities never say more than the text has said."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from asgi_client import Fixed, chat, completion, events, until_live
from house import FAST
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from upstream import DONE, chat_body, chat_chunk, encode, text_body, text_chunk

from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.logprobs import Entry, Queue, chat_entries, text_entries

TOKENS = ["The", " zephyr", " lan", "tern", " is", " red", "."]


def entry(token: str, *others: str) -> dict[str, Any]:
    def one(text: str) -> dict[str, Any]:
        return {"token": text, "logprob": -0.5, "bytes": list(text.encode())}

    return {**one(token), "top_logprobs": [one(token), *map(one, others)]}


def chat_events(tokens: list[str]) -> list[bytes]:
    rows = [chat_chunk({"role": "assistant", "content": ""})]
    rows += [
        chat_chunk({"content": token}, logprobs={"content": [entry(token, " marzipan gasket")]})
        for token in tokens
    ]
    return [*map(encode, rows), encode(chat_chunk({}, "stop")), encode(DONE)]


def text_events(tokens: list[str]) -> list[bytes]:
    rows, offset = [], 0
    for token in tokens:
        logprobs = {
            "tokens": [token],
            "token_logprobs": [-0.5],
            "text_offset": [offset],
            "top_logprobs": [{token: -0.5, " marzipan gasket": -1.0}],
        }
        row = {"index": 0, "text": token, "logprobs": logprobs, "finish_reason": None}
        rows.append(encode({**text_chunk(token), "choices": [row]}))
        offset += len(token)
    return [*rows, encode(text_chunk("", "stop")), encode(DONE)]


async def stream_of(settings: Settings, pieces: list[bytes], ask: Any, **options: Any) -> Any:
    app = PrismMiddleware(Fixed(pieces), settings=settings, timing=FAST, **options)
    await until_live(app)
    reply = await ask(app, logprobs=True if ask is chat else 1)
    await app.selftest.stop()
    return reply


def entries_of(reply: Any) -> list[Any]:
    found = []
    for event in events(reply):
        for choice in event["choices"]:
            found += (choice.get("logprobs") or {}).get("content") or []
    return found


async def test_entries_wait_for_their_text_and_all_arrive(settings: Settings) -> None:
    tokens = ["The", " zephyr", " lan", "yard", " is", " red", "."]
    reply = await stream_of(settings, chat_events(tokens), chat)
    text, shown = "", ""
    for event in events(reply):
        for choice in event["choices"]:
            text += choice["delta"].get("content") or ""
            for one in (choice.get("logprobs") or {}).get("content") or []:
                shown += one["token"]
                assert text.startswith(shown)
    assert text == shown == "".join(tokens)


async def test_entries_of_a_blocked_match_never_go_out(settings: Settings) -> None:
    reply = await stream_of(settings, chat_events(TOKENS), chat)
    assert b"zephyr" not in reply.body
    assert b"lan" not in reply.body
    assert list(b"zephyr") not in [one["bytes"] for one in entries_of(reply)]
    reply = await stream_of(settings, text_events(TOKENS), completion)
    assert b"zephyr" not in reply.body
    assert b"lan" not in reply.body


async def test_alternatives_are_for_engines_that_mask_them(settings: Settings) -> None:
    tokens = ["The", " end"]
    reply = await stream_of(settings, chat_events(tokens), chat)
    assert b"marzipan" not in reply.body
    assert [[t["token"] for t in e["top_logprobs"]] for e in entries_of(reply)] == [
        ["The"], [" end"]
    ]  # fmt: skip
    reply = await stream_of(settings, text_events(tokens), completion)
    assert b"marzipan" not in reply.body
    reply = await stream_of(settings, chat_events(tokens), chat, processed_logprobs=True)
    assert b"marzipan" in reply.body


async def test_offsets_are_those_of_the_text_that_went_out(settings: Settings) -> None:
    tokens = ["by", " walnut", " ferry", " and", " back", "."]
    reply = await stream_of(settings, text_events(tokens), completion)
    text, rows = "", []
    for event in events(reply):
        for choice in event["choices"]:
            text += choice["text"]
            got = choice["logprobs"] or {"tokens": [], "text_offset": []}
            rows += zip(got["tokens"], got["text_offset"], strict=True)
    assert text == "by [redacted] and back."
    assert [token for token, _ in rows] == ["by", " and", " back", "."]
    assert all(text[at:].startswith(token) for token, at in rows)


async def test_in_one_piece(settings: Settings) -> None:
    for text, tokens in (("The red.", ["The", " red", "."]), ("".join(TOKENS), TOKENS)):
        body = chat_body(text)
        body["choices"][0]["logprobs"] = {"content": [entry(t, " marzipan") for t in tokens]}
        engine = Fixed([json.dumps(body).encode()], "application/json")
        app = PrismMiddleware(engine, settings=settings, timing=FAST)
        await until_live(app)
        choice = (await chat(app, stream=False, logprobs=True)).json()["choices"][0]
        plain = (await chat(app, stream=False)).json()["choices"][0]
        assert plain["logprobs"] is None  # not asked for
        if text == "The red.":
            assert [e["token"] for e in choice["logprobs"]["content"]] == tokens
            assert all(len(e["top_logprobs"]) == 1 for e in choice["logprobs"]["content"])
        else:
            assert choice["logprobs"] is None
        body = text_body(text)
        body["choices"][0]["logprobs"] = {
            "tokens": tokens, "token_logprobs": [None, *([-1.0] * (len(tokens) - 1))],
            "text_offset": [0] * len(tokens), "top_logprobs": None,
        }  # fmt: skip
        engine.pieces = [json.dumps(body).encode()]
        choice = (await completion(app, stream=False, logprobs=1)).json()["choices"][0]
        await app.selftest.stop()
        if text == "The red.":
            assert choice["logprobs"]["tokens"] == tokens
            assert choice["logprobs"]["text_offset"] == [0, 3, 7]
        else:
            assert choice["logprobs"] is None


async def test_tokens_behind_a_stop_string_stay_hidden(settings: Settings) -> None:
    """A client's ``stop`` cuts the text; the entries would show the rest of the match."""
    tokens = ["a", " marzipan", " gasket"]
    rows = [chat_chunk({"content": "a"}, logprobs={"content": [entry(t) for t in tokens]})]
    pieces = [*map(encode, rows), encode(chat_chunk({}, "stop", stop_reason=" marz")), encode(DONE)]
    reply = await stream_of(settings, pieces, chat)
    assert b"marzipan" not in reply.body
    assert [e["token"] for e in entries_of(reply)] == ["a"]


def drain(tokens: list[str], released: list[str]) -> list[str]:
    queue = Queue()
    queue.add([Entry(token, token) for token in tokens])
    out = []
    for text in released:
        queue.released("content", text)
        out += [entry.token for entry, _ in queue.take()]
    return out + [entry.token for entry, _ in queue.take(final=True)]


@pytest.mark.parametrize(
    ("tokens", "text", "shown"),
    [
        (["<think>", "a", "b", "<eos>"], "ab", ["a", "b"]),
        (["zephyr", "lantern"], "zephyr lantern", ["zephyr", "lantern"]),  # leading space lost
        (["caf", "\ufffd", "\ufffd", " x"], "café x", ["caf", " x"]),
        (["caf", "", "é", " x"], "café x", ["caf", "", "é", " x"]),
        ([" hidden", " words"], "", []),
    ],
)
def test_what_lines_up_is_shown_and_the_rest_is_not(
    tokens: list[str], text: str, shown: list[str]
) -> None:
    assert drain(tokens, list(text)) == shown


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    tokens=st.lists(st.text("ab é", max_size=4), max_size=12),
    text=st.text("ab é[]", max_size=30),
    splits=st.lists(st.integers(0, 30), max_size=5),
)
def test_whatever_the_engine_says_entries_are_pieces_of_released_text(
    tokens: list[str], text: str, splits: list[int]
) -> None:
    marks = sorted({min(s, len(text)) for s in splits} | {0, len(text)})
    pieces = [text[a:b] for a, b in itertools.pairwise(marks)]
    shown = drain(tokens, pieces)
    place = 0
    for token in shown:
        found = text.find(token.strip(), place)
        assert found >= 0
        place = found + len(token.strip())


def test_bytes_may_not_say_other_than_the_token() -> None:
    lying = {"token": "fine", "logprob": 0.0, "bytes": list(b"zephyr")}
    assert drain([chat_entries({"content": [lying]})[0].token], ["fine zephyr"]) == []
    assert (
        chat_entries(None) == chat_entries({"content": 5}) == chat_entries({"content": [5]}) == []
    )
    assert text_entries(None) == text_entries({"tokens": 5}) == text_entries({"tokens": [5]}) == []
