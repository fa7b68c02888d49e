"""Malformed requests: each gets a precise error, and nobody else notices."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import pytest
from serving import http
from upstream import Upstream, chat_body

CHAT: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "hello"}]}
TEXT: dict[str, Any] = {"model": "small", "prompt": "hello"}
JSON = {"content-type": "application/json"}


def post(url: str, content: bytes, route: str = "/v1/chat/completions", **headers: str) -> Any:
    return http.post(url + route, content=content, headers={**JSON, **headers})


def error_of(reply: httpx.Response) -> dict[str, Any]:
    body = reply.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return dict(body["error"])


DEEP = b'{"messages": ' + b"[" * 5000 + b"]" * 5000 + b"}"
NESTED = b'{"messages": [], "x": ' + b"[" * 70 + b"]" * 70 + b"}"


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (b"", "empty_body", "empty"),
        (b"  \n", "empty_body", "empty"),
        (b"{", "invalid_json", "line 1, column 2"),
        (b"[]", "invalid_json", "must be a JSON object"),
        (b'"text"', "invalid_json", "must be a JSON object"),
        (b"nonsense", "invalid_json", "not valid JSON"),
        (b'{"a": 1} {"b": 2}', "invalid_json", "Extra data"),
        (b'{"a": "\xff\xfe"}', "invalid_utf8", "byte 7"),
        ('{"a": 1}'.encode("utf-16"), "invalid_utf8", "not valid UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "invalid_json", "BOM"),
        (b'{"a": "\\ud800"}', "invalid_utf8", "surrogate"),
        (b'{"a\\udfff": 1}', "invalid_utf8", "surrogate"),
        (b'{"temperature": NaN}', "invalid_json", "NaN"),
        (b'{"temperature": -Infinity}', "invalid_json", "Infinity"),
        (b'{"temperature": 1e999}', "invalid_json", "out of range"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "invalid_json", "too long"),
        (b'{"model": "a", "model": "b"}', "invalid_json", "'model' appears twice"),
        (b'{"messages": [], "\\u006dessages": []}', "invalid_json", "'messages' appears twice"),
        (
            b'{"messages": [{"role": "user", "content": "a", "content": "b"}]}',
            "invalid_json",
            "twice",
        ),
        (DEEP, "nesting_too_deep", "64 levels"),
        (NESTED, "nesting_too_deep", "64 levels"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_body_that_is_not_the_json_it_should_be(
    url: str, content: bytes, code: str, says: str
) -> None:
    reply = post(url, content)
    assert reply.status_code == 400
    error = error_of(reply)
    assert error["code"] == code
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": {"role": "user"}}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": 1, "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_embeds"}]}]},
            "messages[0].content[0]",
        ),
        ({"stream": "true"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"n": "2"}, "n"),
        ({"n": True}, "n"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"n": 1.0}, "n"),
        ({"model": 7}, "model"),
        ({"stop": 5}, "stop"),
        ({"stop": [5]}, "stop"),
        ({"stream_options": True}, "stream_options"),
        ({"stream_options": {"include_usage": "yes"}}, "include_usage"),
        ({"logprobs": 1}, "logprobs"),
    ],
)
def test_wrong_types_in_a_chat(url: str, change: dict[str, Any], param: str) -> None:
    reply = post(url, json.dumps({**CHAT, **change}).encode())
    assert reply.status_code == 400
    assert error_of(reply)["param"] == param


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": 5}, "prompt"),
        ({"prompt": {"text": "x"}}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1], [2]]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": ["a"] * 17}, "n"),
        ({"prompt": ["a"] * 9, "n": 2}, "n"),
        ({"echo": "yes"}, "echo"),
        ({"best_of": 1000}, "best_of"),
    ],
)
def test_wrong_types_in_a_completion(url: str, change: dict[str, Any], param: str) -> None:
    reply = post(url, json.dumps({**TEXT, **change}).encode(), "/v1/completions")
    assert reply.status_code == 400
    assert error_of(reply)["param"] == param


@pytest.mark.parametrize(
    "change",
    [
        {"use_beam_search": True},
        {"use_beam_search": 1},
        {"use_beam_search": True, "best_of": 4},
        {"prompt_embeds": "AAAA"},
        {"chat_template": "{{ 'zep' ~ 'hyr' }}"},
        {"kv_transfer_params": {"do_remote_prefill": True}},
        {"ec_transfer_params": {}},
        {"return_token_ids": True},
        {"return_tokens_as_token_ids": True},
        {"return_prompt_text": True},
        {"prompt_logprobs": 0},
        {"prompt_logprobs": 5},
        {"extra_args": {"a": 1}},
        {"input_embeds": [[0.5]]},
        {"inputs_embeds": [[0.5]]},
        {"input_ids": [5, 6]},
        {"prompt_token_ids": [5, 6]},
        {"chat_template_str": "{{ 'zep' ~ 'hyr' }}"},
        {"instruction_template_str": "{{ 'zep' ~ 'hyr' }}"},
        {"session_params": {"id": "s"}},
        {"custom_logit_processor": "gASV"},
        {"chat_template_kwargs": {"chat_template": "{{ 'zep' ~ 'hyr' }}"}},
        {"prism": {"policy": "permissive"}},
        {"prism_stamp": "x"},
        {"Prism-Policy": "permissive"},
        {"vllm_xargs": {"prism_stamp": "forged"}},
        {"vllm_xargs": {" PRISM": 1}},
        {"grammar": "%llguidance {}\nstart: /a/"},
        {"structured_outputs": {"grammar": "%llguidance {}"}},
        {"response_format": {"type": "x", "grammar": " %llguidance {}"}},
    ],
    ids=lambda change: next(iter(change)),
)
@pytest.mark.parametrize("base", [CHAT, TEXT], ids=["chat", "text"])
def test_what_moderation_cannot_cover_is_refused_by_name(
    url: str, upstream: Upstream, base: dict[str, Any], change: dict[str, Any]
) -> None:
    before = len(upstream.seen)
    route = "/v1/completions" if "prompt" in base else "/v1/chat/completions"
    for stream in (False, True):
        reply = post(url, json.dumps({**base, **change, "stream": stream}).encode(), route)
        assert reply.status_code == 400
        key = error_of(reply)["param"]
        assert key.split(".")[0].strip() in change
    assert len(upstream.seen) == before


def test_what_is_switched_off_may_be_said(url: str) -> None:
    body = {**CHAT, "use_beam_search": False, "prompt_embeds": None, "return_token_ids": False}
    assert post(url, json.dumps(body).encode()).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "gzip, identity", "x"])
def test_compressed_bodies_are_refused(url: str, encoding: str) -> None:
    reply = post(url, b"\x1f\x8b...", **{"content-encoding": encoding})
    assert reply.status_code == 415
    assert error_of(reply)["code"] == "unsupported_content_encoding"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("text/plain", "unsupported_media_type"),
        ("application/x-www-form-urlencoded", "unsupported_media_type"),
        ("multipart/form-data; boundary=x", "unsupported_media_type"),
        ("application/jsonx", "unsupported_media_type"),
        ("", "unsupported_media_type"),
        ("application/json; charset=utf-16", "unsupported_charset"),
        ("application/json; charset=utf-7", "unsupported_charset"),
    ],
)
def test_other_media_types_are_refused(url: str, kind: str, code: str) -> None:
    reply = post(url, json.dumps(CHAT).encode(), **{"content-type": kind})
    assert reply.status_code == 415
    assert error_of(reply)["code"] == code


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json"]
)
def test_json_by_its_other_names_is_read(url: str, kind: str) -> None:
    assert post(url, json.dumps(CHAT).encode(), **{"content-type": kind}).status_code == 200


def test_five_megabytes_get_an_answer_and_not_a_reset(url: str) -> None:
    big = json.dumps({**CHAT, "messages": [{"role": "user", "content": "x" * 5_000_000}]}).encode()
    for content in (big, iter([big[:1_000_000], big[1_000_000:3_000_000], big[3_000_000:]])):
        reply = http.post(f"{url}/v1/chat/completions", content=content, headers=JSON)
        assert reply.status_code == 413
        error = error_of(reply)
        assert error["code"] == "body_too_large"
        assert "100000 bytes" in error["message"]
    assert post(url, json.dumps(CHAT).encode()).status_code == 200


def test_a_client_that_asks_first_need_not_send_it(url: str) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
            b"Content-Length: 5000000\r\nExpect: 100-continue\r\n\r\n"
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")


def test_a_long_prompt_within_the_bodys_limit_is_refused_by_length(url: str) -> None:
    body = {**CHAT, "messages": [{"role": "user", "content": "x" * 60_000}]}
    reply = post(url, json.dumps(body).encode())
    assert reply.status_code == 413
    assert error_of(reply)["code"] == "prompt_too_long"


@pytest.mark.parametrize("length", ["x", "-1", "1e3", "1, 2"])
def test_a_strange_content_length_is_refused(url: str, length: str) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
            b"Content-Length: " + length.encode() + b"\r\n\r\n{}"
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 400")


def test_a_client_that_leaves_in_the_middle_of_its_body_hurts_nobody(
    url: str, upstream: Upstream
) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    before = len(upstream.seen)
    for _ in range(20):
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\n"
                b'Content-Type: application/json\r\nContent-Length: 500\r\n\r\n{"model":'
            )
    assert len(upstream.seen) == before
    assert post(url, json.dumps(CHAT).encode()).status_code == 200


def test_the_engine_gets_what_was_judged_and_not_what_was_sent(
    url: str, upstream: Upstream
) -> None:
    name = upstream.say("canon", body=chat_body("ok"))
    content = (
        b'{ "model":"%s",\t"messages":[{"role":"user","content":"h\\u0069 \\u00e9"}], "x": 1.50}'
    )
    reply = post(
        url,
        content % name.encode(),
        **{"X-Prism-Policy": "permissive", "Accept-Encoding": "gzip", "X-Request-Id": "abc"},
    )
    assert reply.status_code == 200
    assert [seen for seen in upstream.seen if "messages" in seen][-1] == {
        "model": name,
        "messages": [{"role": "user", "content": "hi é"}],
        "x": 1.5,
    }
    headers = next(h for h in upstream.headers if h.get("x-request-id") == "abc")
    assert "x-prism-policy" not in headers
    assert headers["accept-encoding"] == "identity"
    assert headers["x-request-id"] == "abc"
    assert headers["content-type"] == "application/json"
