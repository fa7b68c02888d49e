"""Events that go out by template are those that reading them in full would have made."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.http.upstream import chat_chunk, text_chunk
from tests.policies import policy, rule

from prism.http.families.openai_chat import CHAT
from prism.http.families.openai_common import OpenAIStream
from prism.http.families.openai_completions import COMPLETIONS
from prism.http.families.template import Template, learn
from prism.http.family import Call
from prism.http.judge import Judge
from prism.http.sse import Event, Reader
from prism.moderator import Moderator
from prism.record.metrics import Metrics
from prism.types import Action

MODERATOR = Moderator(
    policy(
        rule("lantern", ["zephyr lantern"]),
        rule("hidden", ["velvet cartographer"], action=Action.REDACT),
    )
)
METRICS = Metrics()
PIECES = st.lists(
    st.one_of(
        st.sampled_from([
            " zephyr", " lan", "tern", " velvet", " cart", "ographer", " the", " river", "\n", '"',
            "\\", "é", "日本", "", " ", "\u2028", "\x7f", "}", '"}', "[DONE]", "a\tb", "\ud83d",
        ]),
        st.text(max_size=4),
    ),
    max_size=16,
)  # fmt: skip


def stream(family, choices=1):
    session = MODERATOR.session()
    session.check_prompt("hello")
    judge = Judge(session, check=MODERATOR.check_output, metrics=METRICS)
    call = Call(body={}, messages=[], stream=True, choices=choices, model="small")
    made = family.stream(call, judge)
    assert isinstance(made, OpenAIStream)
    return made


def told(events):
    return [(event.data, event.last) for event in events]


def parsed(rows):
    return [(data if data == "[DONE]" else json.loads(data), last) for data, last in rows]


def in_full(family, events, choices=1):
    filter_ = stream(family, choices)
    out = [row for event in events for row in told(filter_.feed(event))]
    return out + told(filter_.close())


def by_template(family, events, choices=1, at_once=1):
    """Feed as an exchange does; return what went out and how many events went by template."""
    filter_ = stream(family, choices)
    reader = Reader()
    reader.feed(b": begin\n\n")
    out, quick = [], 0
    for first in range(0, len(events), at_once):
        batch, at = events[first : first + at_once], 0
        while at < len(batch) and not filter_.done:
            count, ready, more = filter_.quick(batch, at)
            if count:
                out += told(reader.feed(ready.encode())) + told(more)
                quick += count
            else:
                out += told(filter_.feed(batch[at]))
            at += count or 1
    return out + told(filter_.close()), quick


def by_chunk(family, chunks, choices=1):
    """Feed chunks of bytes as an exchange does; return what went out and how many went at once."""
    filter_ = stream(family, choices)
    reader, sent = Reader(), Reader()
    reader.feed(b": begin\n\n")
    sent.feed(b": begin\n\n")
    out, swift = [], 0
    for chunk in chunks:
        if filter_.done:
            break
        made = filter_.swift(chunk) if reader.clean else None
        swift += made is not None
        if made is None:
            made = [row for event in reader.feed(chunk) for row in filter_.feed(event)]
        out += told(sent.feed(made) if isinstance(made, bytes) else made)
    return out + told(filter_.close()), swift


def chat(pieces, channel="content", **more):
    rows = [chat_chunk({"role": "assistant", "content": ""})]
    rows += [chat_chunk({channel: piece}, **more) for piece in pieces]
    rows.append(chat_chunk({}, "stop"))
    return [Event(json.dumps(row)) for row in rows] + [Event("[DONE]")]


@settings(max_examples=100, deadline=None)
@given(PIECES, st.sampled_from(["content", "reasoning_content"]), st.booleans())
def test_a_chat_by_template_is_the_chat_read_in_full(pieces, channel, ascii_only):
    rows = [json.loads(event.data) for event in chat(pieces, channel)[:-1]]
    events = []
    for row in rows:
        data = json.dumps(row, ensure_ascii=ascii_only)
        events.append(Event(data.encode("utf-8", "replace").decode()))
    events.append(Event("[DONE]"))
    expected = in_full(CHAT, events)
    assert by_template(CHAT, events)[0] == expected


@settings(max_examples=60, deadline=None)
@given(PIECES)
def test_a_completion_by_template_is_the_completion_read_in_full(pieces):
    rows = [*(text_chunk(piece) for piece in pieces), text_chunk("", "stop")]
    events = [*(Event(json.dumps(row)) for row in rows), Event("[DONE]")]
    assert by_template(COMPLETIONS, events)[0] == in_full(COMPLETIONS, events)


@settings(max_examples=60, deadline=None)
@given(PIECES, st.integers(2, 9))
def test_events_taken_together_say_the_same(pieces, at_once):
    def said(rows):
        choices = [body["choices"][0] for body, _ in parsed(rows) if body != "[DONE]"]
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
        reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
        return text, reasons, rows[-1]

    events = chat([" the", *pieces])
    expected, found = said(in_full(CHAT, events)), said(by_template(CHAT, events, 1, at_once)[0])
    # Where a match is found, what else was still open at that moment stays back.
    assert found == expected or (
        expected[1] == ["content_filter"]
        and found[1:] == expected[1:]
        and (expected[0].startswith(found[0]) or found[0].startswith(expected[0]))
    )


def test_nearly_all_of_an_answer_goes_by_template():
    events = chat([f" word{n}" for n in range(50)])
    out, quick = by_template(CHAT, events)
    assert out == in_full(CHAT, events)
    assert quick >= 45


@settings(max_examples=100, deadline=None)
@given(PIECES, st.sampled_from(["content", "reasoning_content"]), st.booleans())
def test_a_chat_by_the_chunk_is_the_chat_read_in_full(pieces, channel, ascii_only):
    rows = [json.loads(event.data) for event in chat(pieces, channel)[:-1]]
    datas = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    events = [Event(data.encode("utf-8", "replace").decode()) for data in datas] + [Event("[DONE]")]
    chunks = [event.encode() for event in events]
    assert by_chunk(CHAT, chunks)[0] == in_full(CHAT, events)


@settings(max_examples=100, deadline=None)
@given(PIECES, st.lists(st.integers(1, 400), max_size=12))
def test_chunks_that_are_cut_anywhere_say_the_same(pieces, cuts):
    events = chat([" a", " b", *pieces])
    raw = b"".join(event.encode() for event in events)
    places = [0]
    for cut in cuts:
        places.append(places[-1] + cut)
    chunks = [raw[a:b] for a, b in zip(places, [*places[1:], len(raw)], strict=True) if raw[a:b]]
    assert by_chunk(CHAT, chunks)[0] == in_full(CHAT, events)


def test_nearly_all_of_an_answer_goes_by_the_chunk():
    events = chat([f" word{n}" for n in range(50)])
    out, swift = by_chunk(CHAT, [event.encode() for event in events])
    assert out == in_full(CHAT, events)
    assert swift >= 45


def test_a_block_by_the_chunk_ends_the_answer():
    events = chat([" the", " river", " zephyr", " lan", "tern", " and", " more"])
    out, swift = by_chunk(CHAT, [event.encode() for event in events])
    assert out == in_full(CHAT, events)
    assert swift >= 3
    assert json.loads(out[-2][0])["choices"][0]["finish_reason"] == "content_filter"


@pytest.mark.parametrize(
    "change",
    [
        lambda chunk: chunk + b": note\n\n",
        lambda chunk: b"event: x\n" + chunk,
        lambda chunk: chunk.replace(b"\n\n", b"\r\n\r\n"),
        lambda chunk: chunk[:-1],
        lambda chunk: chunk + chunk,
        lambda chunk: chunk.replace(b" river", b" \xc3"),
        lambda chunk: chunk.replace(b" river", b" \x00"),
        lambda chunk: chunk.replace(b" river", b' ","role":"x'),
        lambda chunk: chunk.replace(b" river", b" \\n"),
        lambda chunk: chunk.replace(b" river", b""),
    ],
)
def test_a_chunk_that_may_be_more_than_one_plain_event_is_left_unread(change):
    filter_ = stream(CHAT)
    *known, chunk = (event.encode() for event in chat([" word", " more", " river"])[:4])
    for earlier in known:
        filter_.feed(Event(earlier.decode()[6:-2]))
    assert filter_.swift(change(chunk)) is None
    assert b" river" in filter_.swift(chunk)


def test_a_reader_is_clean_where_the_next_event_begins():
    reader = Reader()
    assert not reader.clean  # a byte order mark may come
    for chunk, clean in [
        (b"data: a", False), (b"\n", False), (b"\n", True), (b"data: b\n\n", True),
        (b"event: x\n", False), (b"\n", True), (b": note\n", True), (b"\r", False),
    ]:  # fmt: skip
        reader.feed(chunk)
        assert reader.clean == clean, chunk


def test_choices_have_templates_of_their_own():
    events = chat([])[:1]
    for n in range(20):
        events += [
            Event(json.dumps(chat_chunk({"content": f" w{n}"}, index=index))) for index in (0, 1)
        ]
    out, quick = by_template(CHAT, events, 2)
    assert out == in_full(CHAT, events, 2)
    assert quick >= 30


@pytest.mark.parametrize(
    "more",
    [
        {"logprobs": {"content": [{"token": " a", "logprob": -1.0, "top_logprobs": []}]}},
        {"stop_reason": 7},
        {"delta": {"content": " a", "tool_calls": [{"index": 0, "function": {"name": "f"}}]}},
        {"delta": {"content": " a", "role": "assistant"}},
        {"delta": {"content": " a", "reasoning": "b"}},
        {"finish_reason": "stop"},
    ],
)
def test_a_piece_that_is_more_than_its_text_is_read_in_full(more):
    row = {"index": 0, "delta": {"content": " a"}, "logprobs": None, "finish_reason": None}
    body = chat_chunk()
    body["choices"] = [{**row, **more}]
    assert by_template(CHAT, [Event(json.dumps(body))] * 4)[1] == 0


def test_usage_in_a_chunk_is_read_in_full():
    body = {**chat_chunk({"content": " a"}), "usage": {"completion_tokens": 1}}
    assert by_template(CHAT, [Event(json.dumps(body))] * 4)[1] == 0


BODY = {"id": "a", "choices": [{"index": 0, "delta": {"content": "hello"}}]}
MADE = json.dumps(BODY)
PATH = ("delta", "content")


def template(data=MADE, body=BODY):
    return learn(data, body, MADE, PATH, 0)


@pytest.mark.parametrize(
    "made",
    [
        '{"id":"a","choices":[{"index":0,"delta":{"content":"hell"}}]}',
        '{"content":"x","choices":[{"index":0,"delta":{"content":"hello"}}]}',
        '{"id":"a","choices":[{"index":0,"delta":{}}]}',
        '{"id":"a","choices":[{"index":0,"delta":{"content":7}}]}',
    ],
    ids=["another text", "two of the name", "none of the name", "no text"],
)
def test_what_went_out_has_to_hold_just_that_text(made):
    assert learn(MADE, BODY, made, PATH, 0) is None


@pytest.mark.parametrize(
    "inside",
    ['a"b', 'a","x":"b', "a\nb", "a\\", 'a\\"', '\\","y":"', "a\x00", "\\ud83d", "\\q", ""],
)
def test_what_could_mean_more_than_a_text_is_no_event_of_a_template(inside):
    made = template()
    assert isinstance(made, Template)
    text = made.text(f"{made.prefix}{inside}{made.suffix}")
    if text is not None:
        data = json.loads(f"{made.prefix}{inside}{made.suffix}")
        assert data == {"id": "a", "choices": [{"index": 0, "delta": {"content": text}}]}
    else:
        assert inside != "a"


@given(st.text(alphabet='abc"\\\n{}:,nu0é\ud83d', max_size=8))
def test_a_text_read_by_template_is_the_text_that_json_has(inside):
    made = template()
    assert made is not None
    data = f"{made.prefix}{inside}{made.suffix}"
    text = made.text(data)
    if text is not None:
        assert json.loads(data)["choices"][0]["delta"] == {"content": text}


@pytest.mark.parametrize(
    "data",
    [
        '{"choices": [{"delta": {"content": "x", "content": "hello"}}], "id": "a"}',
        '{"id": {"content": "hello"}, "choices": [{"delta": {"content": "hello"}}]}',
        '{"choices": [{"delta": {"conten\\u0074": "hello"}}], "id": "a"}',
        '{"id": "\\"content\\": \\"hello", "choices": [{"delta": {"conten\\u0074": "hello"}}]}',
        '{"choices": [{"delta": {"content": "he\\u006clo"}}, {"delta": {}}]}',
    ],
)
def test_where_the_text_is_not_plain_to_see_there_is_no_template(data):
    assert template(data, json.loads(data)) is None
