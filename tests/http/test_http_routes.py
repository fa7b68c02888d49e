"""Deny by default: every way in that is not on the list, tried from outside."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import websockets.sync.client
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import http
from starlette._utils import get_route_path
from upstream import Upstream

from prism.http.asgi import route_path

CHAT = {"model": "small", "messages": [{"role": "user", "content": "hello"}]}


def raw_request(url: str, target: str, method: str = "POST", body: bytes = b"{}") -> bytes:
    """Send a request line as it is: HTTP clients tidy paths up."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = f"{method} {target} HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode("latin-1") + body)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    "path",
    [
        "/", "/v1", "/anything", "/v1/responses/", "/v1/responses/resp_1/other",
        "/v1/responses/resp.1", "/v1/messages/", "/v1/messages/batches",
        "/cohere/v2/chat/render", "/v1/messages/render", "/v1/responses/render",
        "/v1/systemone",
        "/v1/embeddings/", "/collective_rpc", "/update_weights", "/slots/0", "/adapters",
        "/chat/completions", "/v1/chat/completions/control", "/v1/audio/speech",
        "/v1/images/generations", "/api/blobs/sha256:0", "/tools", "/v1/stream", "/v1/streams/1",
        "/prism", "/prism/admin",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_not_listed_is_denied_and_named(url: str, path: str, method: str) -> None:
    reply = http.request(method, url + path, json=CHAT)
    assert reply.status_code == 403
    error = reply.json()["error"]
    assert path in error["message"]
    assert method in error["message"]
    assert error["type"] == "permission_error"
    assert error["code"] == "route_not_moderated"


@pytest.mark.parametrize(
    "target",
    [
        "//v1/chat/completions", "/v1//chat/completions", "/v1/chat/completions/",
        "/v1/chat/completions//", "/V1/chat/completions", "/v1/Chat/Completions",
        "/v1/./chat/completions", "/v1/%2e/chat/completions", "/x/../v1/chat/completions",
        "/x/%2e%2e/v1/chat/completions", "/v1/chat%2Fcompletions/x", "/v1/chat/completions%0a",
        "/v1/chat/completions%00", "/v1/chat/completions;x=1", "/v1/chat/completions%20",
        "/%2fv1/chat/completions", "/v1/invocations/../chat/completions", "/v1/completions/..",
        "/anything?path=/health", "/health/../anything", "/health%2f..%2fanything",
        "/health;/anything", "/metrics/../anything", "/docs/../anything",
        "http://t/anything", "*",
    ],
)  # fmt: skip
def test_spelling_a_path_otherwise_gets_nobody_in(
    url: str, upstream: Upstream, target: str
) -> None:
    before = len(upstream.seen)
    reply = raw_request(url, target)
    status = int(reply.split(b" ")[1])
    assert status in (400, 403)
    assert b"zephyr" not in reply
    assert len(upstream.seen) == before


def test_an_escaped_spelling_of_a_moderated_route_is_moderated(url: str) -> None:
    body = b'{"model": "m", "messages": [{"role": "user", "content": "zephyr lantern"}]}'
    for target in ("/v1/ch%61t/completions", "/v1%2Fchat/completions", "/v1/chat/completions?a=b"):
        reply = raw_request(url, target, body=body)
        assert b"content_filter" in reply


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "OPTIONS"]
)
def test_moderated_routes_take_post_alone(url: str, method: str) -> None:
    reply = http.request(method, f"{url}/v1/chat/completions")
    assert reply.status_code == 405
    assert reply.headers["allow"] == "POST"


@pytest.mark.parametrize("header", ["x-http-method-override", "x-original-url", "x-rewrite-url"])
def test_headers_that_other_software_takes_for_a_path_change_nothing(url: str, header: str) -> None:
    reply = http.post(f"{url}/anything", headers={header: "/health"})
    assert reply.status_code == 403
    assert http.get(f"{url}/version", headers={header: "/anything"}).json() == {"version": "1"}


def test_routes_without_generated_text_are_open(url: str) -> None:
    assert http.get(f"{url}/health").status_code == 200
    assert http.get(f"{url}/version").json() == {"version": "1"}
    assert http.get(f"{url}/v1/models").json()["data"][0]["id"] == "small"
    assert http.head(f"{url}/v1/models").status_code == 200
    assert http.post(f"{url}/tokenize", content=b"zephyr").json() == {"tokens": [6]}
    assert http.post(f"{url}/version").status_code == 405
    assert http.get(f"{url}/tokenize").status_code == 405


def test_the_size_limit_holds_on_open_routes_too(url: str) -> None:
    assert http.post(f"{url}/tokenize", content=b"x" * 200_000).status_code == 413


def test_websockets_are_denied_with_a_reason(url: str) -> None:
    for path in ("/v1/realtime", "/v1/chat/completions", "/health"):
        with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
            websockets.sync.client.connect(url.replace("http", "ws") + path)
        assert caught.value.response.status_code == 403
        assert b"route_not_moderated" in (caught.value.response.body or b"")


async def test_a_websocket_is_closed_where_no_reason_can_be_given(middleware: Any) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/v1/realtime", "headers": []}
    await middleware(scope, receive, send)
    assert [m["type"] for m in sent] == ["websocket.close"]
    assert sent[0]["code"] == 1008


@settings(deadline=None)
@given(
    path=st.text("/v1ab", max_size=8).map(lambda text: "/" + text),
    root=st.sampled_from(["", "/v1", "/a", "/a/b", "/"]),
)
def test_the_route_is_what_the_engines_router_sees(path: str, root: str) -> None:
    scope = {"type": "http", "path": path, "root_path": root}
    assert route_path(scope) == get_route_path(scope)
