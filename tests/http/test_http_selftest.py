"""Nothing is served until every layer was seen to work, and not after one was seen dead."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from asgi_client import Fixed, chat, completion, said, until_live
from house import FAST
from serving import healthy, http, served
from upstream import Upstream, text_stream

from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.asgi import Receive, Scope, Send
from prism.http.inprocess import call
from prism.http.middleware import API_KEY_ENV
from prism.http.selftest import SCOPE_KEY, Timing
from prism.policy.compiled import SELFTEST_PHRASE
from prism.session import Session
from prism.types import Action, Decision

CHAT: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "hello"}]}


def build(settings: Settings, engine: Upstream, **options: Any) -> PrismMiddleware:
    return PrismMiddleware(engine.app, settings=settings, timing=FAST, **options)


async def health(app: PrismMiddleware) -> tuple[int, Any]:
    reply = await call(app, "GET", "/prism/health", patience=60)
    return reply.status, reply.json()


async def settled(app: PrismMiddleware, layer: str, detail: str) -> Any:
    deadline = time.monotonic() + 60
    while True:
        status, report = await health(app)
        if detail in report["layers"][layer]["detail"]:
            assert status == 503
            return report
        assert time.monotonic() < deadline, report
        await asyncio.sleep(0.02)


async def test_health_names_the_policy_and_each_layer(settings: Settings) -> None:
    engine = Upstream()
    engine.token_layer = settings.policy.message()
    app = build(settings, engine, layers=("text", "token"))
    await until_live(app)
    status, report = await health(app)
    await app.selftest.stop()
    assert status == 200
    assert report["status"] == "ok"
    assert report["policy"] == settings.policy.digest
    assert set(report["layers"]) == {"text.prompt", "text.output", "token"}
    assert all(layer["live"] for layer in report["layers"].values())
    assert b'prism_layer_live{layer="token"} 1.0' in app.metrics.render()


async def test_the_token_layers_probe_goes_around_the_text_layer_with_its_stamp(
    settings: Settings,
) -> None:
    engine = Upstream()
    engine.token_layer = settings.policy.message()
    app = build(settings, engine, layers=("text", "token"))
    await until_live(app)
    await app.selftest.stop()
    probes = [
        (body, mark)
        for body, mark in zip(engine.seen, engine.stamps, strict=True)
        if body["prompt"] == SELFTEST_PHRASE and not body.get("echo")
    ]
    assert len(probes) == 1
    assert probes[0][1].digest == settings.policy.digest
    assert probes[0][0]["temperature"] == 0


async def test_a_dead_token_layer_keeps_the_server_closed(settings: Settings) -> None:
    engine = Upstream()  # answers the phrase: its logits processor was never loaded
    app = build(settings, engine, layers=("text", "token"))
    report = await settled(app, "token", "no token layer is at work")
    assert report["status"] == "failed"
    assert report["layers"]["text.output"]["live"] is True
    engine.seen.clear()
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", {"prompt": "hi"})):
        reply = await call(app, "POST", path, body, patience=60)
        assert reply.status == 503
        assert "token" in reply.json()["error"]["message"]
        assert int(reply.headers["retry-after"]) > 0
    assert (await call(app, "GET", "/health", patience=60)).status == 503
    assert (await call(app, "GET", "/v1/models", patience=60)).status == 200
    assert not [body for body in engine.seen if "hello" in str(body)]
    engine.token_layer = settings.policy.message()  # somebody repairs it
    await until_live(app)
    assert (await chat(app)).status == 200
    await app.selftest.stop()


async def test_a_layer_that_dies_later_turns_the_server_red_again(settings: Settings) -> None:
    engine = Upstream()
    engine.token_layer = settings.policy.message()
    app = build(settings, engine, layers=("text", "token"))
    await until_live(app)
    assert (await completion(app)).status == 200
    engine.token_layer = None
    await settled(app, "token", "no token layer is at work")
    assert (await completion(app)).status == 503
    await app.selftest.stop()


async def test_a_blind_prompt_check_is_found(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow = Decision(Action.ALLOW, Action.ALLOW, settings.policy.digest)
    monkeypatch.setattr(Session, "check_prompt", lambda self, prompt: allow)
    engine = Upstream()
    app = build(settings, engine)
    await settled(app, "text.prompt", "let the self-test's phrase through")
    await app.selftest.stop()
    assert not any(b["prompt"] == SELFTEST_PHRASE and not b.get("echo") for b in engine.seen)


async def test_a_blind_output_filter_is_found(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def release(self: Session, text: str, *place: Any, **more: Any) -> str:
        return text

    monkeypatch.setattr(Session, "flow", release)
    app = build(settings, Upstream())
    await settled(app, "text.output", "let the self-test's phrase through")
    assert (await chat(app)).status == 503
    await app.selftest.stop()


async def test_an_engine_that_does_not_echo_has_its_filter_tried_alone(settings: Settings) -> None:
    class Silent(Fixed):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == "/v1/completions":
                await receive()
                head = [(b"content-type", b"application/json")]
                await send({"type": "http.response.start", "status": 404, "headers": head})
                await send({"type": "http.response.body", "body": b'{"error": {}}'})
                return
            await super().__call__(scope, receive, send)

    app = PrismMiddleware(Silent([]), settings=settings, timing=FAST)
    await until_live(app)
    _, report = await health(app)
    await app.selftest.stop()
    assert "does not echo" in report["layers"]["text.output"]["detail"]


async def test_the_engine_is_waited_for(settings: Settings) -> None:
    engine = Upstream()
    engine.models_status = 503
    app = build(settings, engine)
    report = await settled(app, "text.prompt", "/v1/models answers 503")
    assert report["status"] == "starting"
    engine.models_status = 200
    await until_live(app)
    await app.selftest.stop()


async def test_one_unanswered_probe_does_not_close_a_live_server(settings: Settings) -> None:
    engine = Upstream()
    app = build(settings, engine)
    await until_live(app)
    engine.models_status = 500
    app.selftest.checked = time.monotonic() - 100
    assert (await health(app))[0] == 200
    for _ in range(3):
        app.selftest.checked = time.monotonic() - 100
        status, _ = await health(app)
    assert status == 503
    await app.selftest.stop()


async def test_one_round_is_enough_however_many_ask(settings: Settings) -> None:
    engine = Upstream()
    app = PrismMiddleware(engine.app, settings=settings, timing=Timing(recheck=1000))
    await asyncio.gather(*(until_live(app) for _ in range(10)))
    await asyncio.sleep(0.3)
    await app.selftest.stop()
    assert len(engine.seen) == 2  # the phrase echoed, in one piece and streamed


async def test_an_engine_that_serves_one_at_a_time_is_not_tested_while_it_serves(
    settings: Settings,
) -> None:
    """llama.cpp's server breaks off the stream that it is writing when another request comes."""
    engine = Upstream()
    engine.say("slow", stream=text_stream(["word "] * 40), pause=0.02)
    timing = Timing(first_retry=0.02, last_retry=0.1, probe=10.0, recheck=0.0)
    app = PrismMiddleware(engine.app, settings=settings, timing=timing, engine="llamacpp")
    await until_live(app)
    await app.selftest.pause()
    answer = asyncio.create_task(completion(app, model="slow"))
    while not any(body.get("model") == "slow" for body in engine.seen):
        assert not answer.done()
        await asyncio.sleep(0.01)
    before = len(engine.seen)
    while not answer.done():
        assert (await health(app))[0] == 200
        assert answer.done() or len(engine.seen) == before
        await asyncio.sleep(0.02)
    assert said(await answer) == ("word " * 40, "stop")
    deadline = time.monotonic() + 60
    while len(engine.seen) == before:  # now there is room for it
        assert time.monotonic() < deadline
        await health(app)
        await asyncio.sleep(0.02)
    await app.selftest.stop()


async def test_a_missing_api_key_is_said_so(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Locked(Upstream):
        async def _models(self, request: Any) -> Any:
            fine = request.headers.get("authorization") == "Bearer sesame"
            self.models_status = 200 if fine else 401
            return await super()._models(request)

    app = build(settings, Locked())
    await settled(app, "text.prompt", API_KEY_ENV)
    await app.selftest.stop()
    monkeypatch.setenv(API_KEY_ENV, "sesame")
    app = build(settings, Locked())
    await until_live(app)
    await app.selftest.stop()


async def test_strangers_are_not_told_what_is_refused(settings: Settings) -> None:
    app = build(settings, Upstream(), api_keys=["sesame", "second"])
    await until_live(app)
    body = {"prompt": "zephyr lantern"}
    for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic sesame"},
                  {"authorization": "Bearer "}, {"authorization": "Bearer séame"}):  # fmt: skip
        reply = await call(app, "POST", "/v1/completions", body, headers=given, patience=60)
        assert reply.status == 401
        assert reply.json()["error"]["code"] == "invalid_api_key"
    for key in ("sesame", "second"):
        headers = {"authorization": f"Bearer {key}"}
        reply = await call(app, "POST", "/v1/completions", body, headers=headers, patience=60)
        assert reply.status == 200
    await app.selftest.stop()


@pytest.mark.parametrize("forged", [True, {"skip_prompt": True}, "skip", object()])
async def test_nothing_from_outside_is_taken_for_a_probe(settings: Settings, forged: Any) -> None:
    engine = Upstream()
    app = build(settings, engine)
    await until_live(app)
    extra = {SCOPE_KEY: forged}
    headers = {SCOPE_KEY: "1", "x-prism-selftest": "1"}
    reply = await call(
        app, "POST", "/v1/completions", {"prompt": "zephyr lantern"}, extra=extra, headers=headers,
        patience=60,
    )  # fmt: skip
    await app.selftest.stop()
    assert reply.json()["choices"][0]["finish_reason"] == "content_filter"


def test_the_test_begins_with_the_server_and_ends_with_it(settings: Settings) -> None:
    engine = Upstream()
    app = build(settings, engine)
    with served(app) as url:
        deadline = time.monotonic() + 60
        while not app.selftest.ok:  # without a single request
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert healthy(url)["status"] == "ok"


def test_without_lifespan_events_the_first_request_begins_it(settings: Settings) -> None:
    async def no_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await app(scope, receive, send)

    app = build(settings, Upstream())
    with served(no_lifespan) as url:
        first = http.post(f"{url}/v1/chat/completions", json=CHAT)
        assert first.status_code == 503
        healthy(url)
        assert http.post(f"{url}/v1/chat/completions", json=CHAT).status_code == 200


def test_the_applications_own_lifespan_still_runs(settings: Settings) -> None:
    import contextlib
    from collections.abc import AsyncIterator

    happened: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        happened.append("up")
        yield
        happened.append("down")

    engine = Upstream()
    engine.app.router.lifespan_context = lifespan
    with served(build(settings, engine)) as url:
        healthy(url)
        assert happened == ["up"]
    assert happened == ["up", "down"]


def test_as_a_middleware_of_a_framework(
    settings: Settings, monkeypatch: Any, policy_file: Any
) -> None:
    """How vLLM adds it: a class that is called with the application alone."""
    monkeypatch.setenv("PRISM_POLICY", str(policy_file))
    engine = Upstream()
    engine.app.add_middleware(PrismMiddleware)
    with served(engine.app) as url:
        healthy(url)
        body = {"prompt": "zephyr lantern"}
        reply = http.post(f"{url}/v1/completions", json=body)
        assert reply.json()["choices"][0]["text"] == settings.policy.message()
        assert http.get(f"{url}/anything").status_code == 403
