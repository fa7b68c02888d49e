"""The proxy as a proxy: what it passes on, what it leaves out, and where it connects to."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import pytest
import trustme
from asgi_client import completion, until_live
from raw import Connection, Raw
from serving import http, served, serving

from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.inprocess import call
from prism.http.proxy import Proxy
from prism.http.selftest import Timing
from prism.http.upstream import AddressError, Upstream, parse_address

FAST = Timing(first_retry=0.02, last_retry=0.2, probe=10.0, recheck=0.2)
CHAT = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("127.0.0.1:8080", "is not the URL of a server; write http://HOST:PORT"),
        ("localhost:8080", "is not the URL of a server; write http://HOST:PORT"),
        ("", "is not the URL of a server; write http://HOST:PORT"),
        ("http://", "is not the URL of a server; write http://HOST:PORT"),
        ("ftp://host", "is not the URL of a server; write http://HOST:PORT"),
        ("http://host:eighty", "is not a URL: Invalid port: 'eighty'"),
        ("http://me:secret@host", "leave user and password out of the URL"),
        ("http://host/?a=b", "leave out everything from the ? or # on"),
        ("http://host/#there", "leave out everything from the ? or # on"),
        ("http://host/v1", "leave out the /v1 at its end"),
        ("http://host/llm/v1/", "leave out the /v1 at its end"),
    ],
)
def test_what_is_no_address_is_said_so(text: str, message: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_address(text)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["none.pem", "empty.pem"])
def test_a_file_of_certificates_that_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(AddressError, match="file of PEM certificates"):
        Upstream("https://host", ca=tmp_path / name)


async def test_a_request_is_passed_on(raw: Raw) -> None:
    upstream = Upstream(raw.url)
    reply = await call(
        Proxy(upstream), "POST", "/tokenize", {"content": "grüße"}, headers={"x-mine": "1"},
        extra={"query_string": b"a=1&b=%20&c=\xc3"}, patience=60,
    )  # fmt: skip
    await upstream.aclose()
    request = raw.requests[0]
    assert reply.status == 200
    assert (request.method, request.target) == ("POST", "/tokenize?a=1&b=%20&c=%C3")
    assert request.json == {"content": "grüße"}
    assert request.header("x-mine") == ["1"]
    assert request.header("host") == [raw.url.removeprefix("http://")]
    assert request.header("content-length") == [str(len(request.body))]


async def test_what_is_for_this_connection_or_this_server_stays_here(raw: Raw) -> None:
    upstream = Upstream(raw.url)
    sent = {
        "connection": "keep-alive, X-Once", "x-once": "1", "keep-alive": "timeout=9",
        "te": "trailers", "trailer": "x", "upgrade": "h2c", "proxy-authorization": "Basic eA==",
        "expect": "100-continue", "x-prism-policy": "permissive", "authorization": "Bearer k",
        # llama-server would go on without its client, and keep what it says for others to fetch.
        "x-conversation-id": "abc", "last-event-id": "7",
        "x-http-method-override": "POST", "x-original-url": "/v1/completions",
        "x-rewrite-url": "/v1/completions", "x-http-method": "PUT", "x-method-override": "PUT",
    }  # fmt: skip
    await call(Proxy(upstream), "POST", "/tokenize", {}, headers=sent, patience=60)
    await upstream.aclose()
    names = {name for name, _ in raw.requests[0].headers}
    assert names == {"host", "content-length", "content-type", "authorization"}


async def test_an_answer_is_passed_on_without_what_was_for_its_connection(raw: Raw) -> None:
    @raw.script
    async def cookies(connection: Connection) -> None:
        await connection.answer(
            b"{}", "set-cookie: a=1", "set-cookie: b=2", "keep-alive: timeout=5", "x-once: 1",
            "connection: keep-alive, x-once", "date: Thu, 01 Jan 1970 00:00:00 GMT",
            "x-kept: 1", status="418 I'm a teapot",
        )  # fmt: skip

    async with serving(Proxy(Upstream(raw.url)), moderated=False) as url:
        async with httpx.AsyncClient(timeout=60) as client:
            reply = await client.post(f"{url}/tokenize", json={"model": "cookies"})
        async with httpx.AsyncClient(timeout=60) as client:
            again = await client.post(f"{url}/tokenize", json={"model": "cookies"})
    assert reply.status_code == 418
    assert reply.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert reply.headers["x-kept"] == "1"
    assert "1970" not in reply.headers["date"]
    assert not {"keep-alive", "x-once"} & set(reply.headers)
    assert again.status_code == 418
    assert not any(
        request.header("cookie") for request in raw.requests
    )  # one client's are no other's


async def test_a_path_in_front_of_the_routes(raw: Raw) -> None:
    for url in (f"{raw.url}/api/llm", f"{raw.url}/api/llm/"):
        upstream = Upstream(url)
        await call(Proxy(upstream), "GET", "/v1/models", patience=60)
        await upstream.aclose()
    assert [request.target for request in raw.requests] == ["/api/llm/v1/models"] * 2


async def test_a_redirect_is_not_followed(raw: Raw) -> None:
    @raw.script
    async def moved(connection: Connection) -> None:
        await connection.answer(b"", "location: http://elsewhere.invalid/", status="307 Moved")

    upstream = Upstream(raw.url)
    reply = await call(Proxy(upstream), "POST", "/tokenize", {"model": "moved"}, patience=60)
    await upstream.aclose()
    assert reply.status == 502
    assert reply.json()["error"]["code"] == "upstream_redirect"
    assert b"elsewhere" not in reply.body
    assert len(raw.requests) == 1


async def test_the_environments_proxies_are_none_of_its_business(
    raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    upstream = Upstream(raw.url)
    reply = await call(Proxy(upstream), "GET", "/v1/models", patience=60)
    await upstream.aclose()
    assert reply.status == 200


async def test_https_is_verified(tmp_path: Path) -> None:
    authority = trustme.CA()
    known = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(known))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    server = Raw()
    await server.start(context)
    trusting, strict = Upstream(server.url, ca=known), Upstream(server.url)
    fine = await call(Proxy(trusting), "GET", "/v1/models", patience=60)
    refused = await call(Proxy(strict), "GET", "/v1/models", patience=60)
    for upstream in (trusting, strict):
        await upstream.aclose()
    await server.stop()
    assert fine.status == 200
    assert refused.status == 502
    assert refused.json()["error"]["code"] == "upstream_unreachable"
    assert len(server.requests) == 1


async def test_connections_are_used_again_after_streams_too(raw: Raw, settings: Settings) -> None:
    @raw.script
    async def talk(connection: Connection) -> None:
        await connection.stream("one ", "two ", "three")

    upstream = Upstream(raw.url)
    app = PrismMiddleware(Proxy(upstream), settings=settings, timing=FAST)
    async with serving(app) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        before = raw.connections
        for stream in (False, True) * 5:
            name = "talk" if stream else "fine"
            body = {**CHAT, "model": name, "stream": stream}
            reply = await client.post("/v1/chat/completions", json=body)
            assert reply.status_code == 200
            assert ("three" if stream else "fine") in reply.text
    assert raw.connections == before  # the self-test's, which was kept


async def test_the_self_test_says_which_probe_it_ran(raw: Raw, settings: Settings) -> None:
    upstream = Upstream(raw.url)
    app = PrismMiddleware(Proxy(upstream), settings=settings, timing=FAST)
    await until_live(app)
    health = (await call(app, "GET", "/prism/health", patience=60)).json()
    await app.selftest.stop()
    await upstream.aclose()
    assert health["layers"]["text.output"] == {
        "live": True,
        "detail": "withholds the self-test's phrase in answers "
        "(tried on its own: the engine does not echo prompts)",
    }
    asked = [request for request in raw.requests if b"vorquelle" in request.body]
    assert asked  # the upstream was tried
    assert all(request.json["echo"] for request in asked)


async def test_until_the_upstream_is_there_nothing_is_served(settings: Settings) -> None:
    server = Raw()
    await server.start()
    await server.stop()  # a port where nobody listens
    upstream = Upstream(server.url)
    app = PrismMiddleware(Proxy(upstream), settings=settings, timing=FAST)
    assert (await completion(app, stream=False)).status == 503
    health = await call(app, "GET", "/prism/health", patience=60)
    assert health.status == 503
    assert "502" in health.json()["layers"]["text.prompt"]["detail"]
    assert (await call(app, "GET", "/health", patience=60)).status == 503
    await server.start(port=int(server.url.rpartition(":")[2]))
    await until_live(app)
    await app.selftest.stop()
    await upstream.aclose()
    await server.stop()


def test_a_websocket_is_denied(settings: Settings) -> None:
    app = PrismMiddleware(Proxy(Upstream("http://127.0.0.1:9")), settings=settings, timing=FAST)
    with served(app) as url:
        head = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13",
                "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
        assert http.get(f"{url}/v1/realtime", headers=head).status_code == 403
