"""Speech to text: forms in, transcripts out.

No such model is at hand offline, so the engine is the scripted one. What it answers has the shapes
of vLLM 0.32's protocol (``json``, ``verbose_json``, chunks of a stream), of OpenAI's documentation
(its own stream events) and of servers that write subtitles.
"""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from house import MESSAGE
from serving import http
from upstream import DONE, Upstream, usage

PATHS = ["/v1/audio/transcriptions", "/v1/audio/translations"]
PATH = PATHS[0]
SOUND = b"RIFF\x00\r\n--zephyr lantern--\r\n\xff\xfe"
SECONDS = {"type": "duration", "seconds": 3}


def ask(url: str, path: str = PATH, *, file: Any = None, **fields: Any) -> Any:
    given = file if file is not None else ("zephyr lantern.wav", SOUND, "audio/wav")
    return http.post(url + path, data={"model": "small", **fields}, files={"file": given})


def chunk(text: str, reason: str | None = None, **more: Any) -> dict[str, Any]:
    """A piece of vLLM's: choices have no index there."""
    choice = {"delta": {"content": text}, **({"finish_reason": reason} if reason else {})}
    return {
        "id": "transcribe-1", "object": "transcription.chunk", "created": 1, "model": "small",
        "choices": [choice], **more,
    }  # fmt: skip


def streamed(reply: Any) -> list[dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    return [json.loads(x[6:]) for x in reply.text.splitlines() if x.startswith("data: {")]


def said(events: list[dict[str, Any]]) -> tuple[str, list[str]]:
    rows = [row for event in events for row in event["choices"]]
    reasons = [row["finish_reason"] for row in rows if row["finish_reason"]]
    return "".join(row["delta"]["content"] for row in rows), reasons


@pytest.mark.parametrize("path", PATHS)
def test_a_form_reaches_the_engine_as_it_was_judged(
    url: str, upstream: Upstream, path: str
) -> None:
    name = upstream.say("a-fine", body={"text": "all well", "usage": SECONDS, "secret": "zephyr"})
    fields = {"prompt": "a café", "temperature": "0.2", "timestamp_granularities[]": ["word"]}
    reply = ask(url, path, **{**fields, "model": name})
    assert reply.json() == {"text": "all well", "usage": SECONDS}
    seen = upstream.seen[-1]
    assert seen["file"] == ("upload.wav", SOUND)
    assert (seen["prompt"], seen["timestamp_granularities[]"]) == ("a café", "word")
    assert upstream.headers[-1]["content-type"].startswith("multipart/form-data; boundary=prism-")
    receipt = json.loads(reply.headers["x-prism-receipt"])
    assert receipt["unread"] == ["audio"]
    assert receipt["channels"]["text"] == len("all well")


@pytest.mark.parametrize("field", ["prompt", "hotwords", "tomorrows"])
@pytest.mark.parametrize("stream", ["false", "true"])
def test_texts_of_the_form_are_judged(
    url: str, upstream: Upstream, field: str, stream: str
) -> None:
    before = len(upstream.seen)
    reply = ask(url, stream=stream, **{field: "about the Zephyr Lantern"})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["code"], error["message"]) == ("content_filter", MESSAGE)
    assert json.loads(reply.headers["x-prism-receipt"])["action"] == "block"
    assert len(upstream.seen) == before


def test_the_official_client(url: str, upstream: Upstream, client: openai.OpenAI) -> None:
    upstream.say("a-sdk", body={"text": "by walnut ferry", "usage": SECONDS})
    got = client.audio.transcriptions.create(model="a-sdk", file=("a.mp3", SOUND))
    assert got.text == "by [redacted]"
    upstream.say("a-sdk-bad", body={"text": "a marzipan gasket", "usage": SECONDS})
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.translations.create(model="a-sdk-bad", file=("a.mp3", SOUND))
    assert caught.value.code == "content_filter"
    assert "x-prism-receipt" in caught.value.response.headers


def verbose(text: str, segments: list[str], words: list[str]) -> dict[str, Any]:
    """A verbose answer."""
    return {
        "task": "transcribe", "language": "english", "duration": "3.5", "text": text,
        "segments": [
            {"id": n, "seek": 0, "start": n, "end": n + 1.0, "text": part, "tokens": [1, 2],
             "temperature": 0.0, "avg_logprob": -0.2, "compression_ratio": 1.1,
             "no_speech_prob": 0.01, "other": "zephyr"}
            for n, part in enumerate(segments)
        ],
        "words": [{"word": word, "start": 0.0, "end": 0.5} for word in words],
    }  # fmt: skip


def test_verbose_answers(url: str, upstream: Upstream) -> None:
    body = verbose("Hello by walnut ferry", ["Hello by", " walnut", " ferry"], ["Hello", "by"])
    got = ask(url, model=upstream.say("a-verbose", body=body)).json()
    assert got["text"] == "Hello by [redacted]"
    assert (got["language"], got["duration"], got["task"]) == ("english", "3.5", "transcribe")
    assert got["words"] == body["words"]
    assert "segments" not in got  # none of them could be told from the others


def test_verbose_answers_keep_their_segments(url: str, upstream: Upstream) -> None:
    body = verbose("Hello there", ["Hello", " there"], ["Hello", "there"])
    got = ask(url, model=upstream.say("a-segments", body=body)).json()
    assert [row["text"] for row in got["segments"]] == ["Hello", " there"]
    assert all(row["tokens"] == [] and "other" not in row for row in got["segments"])
    assert got["segments"][1]["avg_logprob"] == -0.2


@pytest.mark.parametrize(
    "body",
    [
        verbose("a marzipan gasket", ["fine"], ["fine"]),
        verbose("fine", ["a marzipan", " gasket"], ["fine"]),
        verbose("fine", ["fine"], ["marzipan", "gasket"]),
        {**verbose("fine", [], []), "language": "marzipan gasket"},
    ],
)
def test_every_place_that_repeats_the_text_is_judged(
    url: str, upstream: Upstream, body: Any
) -> None:
    reply = ask(url, model=upstream.say("a-places", body=body))
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "content_filter")
    assert "marzipan" not in reply.text


SRT = "1\n00:00:00,000 --> 00:00:02,500\n{}\n\n2\n00:00:02,500 --> 00:00:04,000\n{}\n"
VTT = "WEBVTT\n\n00:00.000 --> 00:02.500\n{}\n\n00:02.500 --> 00:04.000 align:start\n{}\n"


@pytest.mark.parametrize(
    ("form", "kind"),
    [("{} {}", "text/plain"), (SRT, "text/plain; charset=utf-8"), (SRT, "application/x-subrip"),
     (VTT, "text/vtt"), (SRT.replace("\n", "\r"), "text/plain"),
     (VTT.replace("\n", "\r\n"), "text/vtt")],
)  # fmt: skip
def test_texts_and_subtitles(url: str, upstream: Upstream, form: str, kind: str) -> None:
    def get(one: str, two: str) -> Any:
        raw = form.format(one, two).encode()
        return ask(url, model=upstream.say("a-text", raw=raw, content_type=kind))

    fine = get("Hello é", "and 12 more")
    assert fine.text == form.format("Hello é", "and 12 more")
    assert fine.headers["content-type"].startswith(kind.partition(";")[0])
    assert "x-prism-receipt" in fine.headers
    for one, two in (("a marzipan", "gasket"), ("marzipan gasket", "x"), ("a", "marzipan gasket")):
        blocked = get(one, two)
        assert (blocked.status_code, blocked.json()["error"]["code"]) == (400, "content_filter")
        assert "marzipan" not in blocked.text
    redacted = get("by walnut ferry", "home")
    assert redacted.text == form.format("by [redacted]", "home")
    assert "walnut" not in get("by walnut", "ferry home").text


def test_a_language_is_a_language_or_judged(url: str, upstream: Upstream) -> None:
    blocked = ask(url, language="zephyr lantern")
    assert (blocked.status_code, blocked.json()["error"]["code"]) == (400, "content_filter")
    fine = upstream.say("a-language", body={"text": "fine"})
    assert ask(url, model=fine, language="zh-Hant").json() == {"text": "fine"}


def test_other_media_types_dont_go_out(url: str, upstream: Upstream) -> None:
    for kind in ("text/html", "application/octet-stream", "application/xml"):
        name = upstream.say("a-kind", raw=b"zephyr lantern", content_type=kind)
        reply = ask(url, model=name)
        assert reply.json()["error"]["code"] == "upstream_content_type"
    name = upstream.say("a-bytes", raw=b"\xff zephyr", content_type="text/plain")
    assert ask(url, model=name).json()["error"]["code"] == "upstream_utf8"
    assert ask(url, model=upstream.say("a-list", body=["zephyr"])).status_code == 502
    chat = ask(url, "/v1/chat/completions")
    assert chat.status_code == 415


def test_a_stream_in_vllms_form_goes_on_after_each_part(url: str, upstream: Upstream) -> None:
    events = [
        chunk("Hello"), chunk(" there", "stop"), chunk(" by wal"), chunk("nut ferry"),
        chunk(" home", "stop"), DONE,
    ]  # fmt: skip
    reply = ask(url, model=upstream.say("a-stream", stream=events), stream="true")
    assert said(streamed(reply)) == ("Hello there by [redacted] home", ["stop"])
    assert reply.text.endswith("data: [DONE]\n\n")
    assert ": prism-receipt {" in reply.text
    assert upstream.seen[-1]["stream"] == "true"


def test_a_stream_in_vllms_form_is_cut(url: str, upstream: Upstream) -> None:
    events = [chunk("Hello "), chunk("marzi", "stop"), chunk("pan gasket"), chunk(" more"), DONE]
    reply = ask(url, model=upstream.say("a-cut", stream=events), stream="true")
    assert said(streamed(reply)) == ("Hello ", ["content_filter"])
    assert reply.text.endswith("data: [DONE]\n\n")
    events = [chunk("marzipan gasket.", "stop"), DONE]
    reply = ask(url, model=upstream.say("a-cut-all", stream=events), stream="true")
    assert said(streamed(reply)) == (MESSAGE, ["content_filter"])
    late = ask(
        url, model=upstream.say("a-late", stream=[chunk("marzipan gasket", "stop"), DONE]),
        stream="true",
    )  # fmt: skip
    assert said(streamed(late)) == (MESSAGE, ["content_filter"])
    assert late.text.endswith("data: [DONE]\n\n")


def test_usage_of_streams(url: str, upstream: Upstream) -> None:
    end = {**chunk("", None), "choices": [], "usage": usage(9, 2)}
    name = upstream.say("a-usage", stream=[chunk("Hello"), chunk(" all", "stop"), end, DONE])
    events = streamed(ask(url, model=name, stream="true", stream_include_usage="true"))
    assert said(events) == ("Hello all", ["stop"])
    assert events[-1]["usage"] == usage(9, 2)
    cut = [chunk("marzipan", usage=usage(9, 1)), chunk(" gasket. ", usage=usage(9, 2)), DONE]
    name = upstream.say("a-usage-cut", stream=cut)
    events = streamed(ask(url, model=name, stream="true", stream_include_usage="true"))
    assert events[-1]["usage"] == usage(9, 2)


def delta(text: str) -> dict[str, Any]:
    return {"type": "transcript.text.delta", "delta": text, "logprobs": [{"token": "zephyr"}]}


def test_a_stream_in_openais_form(url: str, upstream: Upstream, client: openai.OpenAI) -> None:
    counted = {"type": "tokens", "input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    end = {"type": "transcript.text.done", "text": "zephyr lantern", "usage": counted}
    upstream.say("a-own", stream=[delta("Hello by wal"), delta("nut ferry"), end])
    with client.audio.transcriptions.create(
        model="a-own", file=("a.mp3", SOUND), stream=True
    ) as events:
        got = list(events)
    texts = [event.delta for event in got if event.type == "transcript.text.delta"]
    assert "".join(texts) == "Hello by [redacted]"
    last = got[-1]
    assert last.type == "transcript.text.done"
    assert last.text == "Hello by [redacted]"
    assert last.usage is not None
    assert last.usage.total_tokens == 5


def test_a_stream_in_openais_form_is_cut(url: str, upstream: Upstream) -> None:
    for events in (
        [delta("Hello "), delta("marzipan gasket. "), delta("zephyr")],
        [delta("Hello "), delta("marzipan gasket"), {"type": "transcript.text.done", "text": "x"}],
    ):
        reply = ask(url, model=upstream.say("a-own-cut", stream=events), stream="true")
        rows = streamed(reply)
        assert [row["delta"] for row in rows[:-1]] == ["Hello "]
        assert rows[-1]["error"]["code"] == "content_filter"
        assert rows[-1]["error"]["message"] == MESSAGE


def test_errors_of_the_engine_keep_their_status(url: str, upstream: Upstream) -> None:
    body = {"error": {"message": "too long", "type": "x", "param": None, "code": 400}}
    reply = ask(url, model=upstream.say("a-error", body=body, status=400))
    assert (reply.status_code, reply.json()) == (400, body)
    event = {"error": {"message": "zephyr lantern", "code": 500}}
    reply = ask(url, model=upstream.say("a-late-error", stream=[event, DONE]), stream="true")
    assert "error_withheld" in reply.text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream": "maybe"}, "stream"),
        ({"use_beam_search": "true"}, "use_beam_search"),
        ({"vllm_xargs": '{"prism_stamp": "x"}'}, "vllm_xargs.prism_stamp"),
        ({"prism_policy": "x"}, "prism_policy"),
        ({"model": ["a", "b"]}, "model"),
    ],
)
def test_forms_that_are_refused(url: str, fields: Any, param: str) -> None:
    reply = ask(url, **fields)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def test_a_file_has_to_be_one(url: str) -> None:
    for files in ({"file": (None, "zephyr")}, {"prompt": (None, "fine")}):
        reply = http.post(url + PATH, files=files)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "file")


def test_uploads_have_a_limit_of_their_own(url: str, upstream: Upstream) -> None:
    name = upstream.say("a-large", body={"text": "fine"})
    large = ("a.wav", b"\0" * 200_000, "audio/wav")  # over the limit for JSON
    assert ask(url, model=name, file=large).status_code == 200
    huge = ("a.wav", b"\0" * 25_100_000, "audio/wav")
    reply = ask(url, model=name, file=huge)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")
    assert http.post(url + PATH, json={"model": name}).status_code == 415
