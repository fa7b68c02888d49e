"""Tenants over HTTP: who gets in, under whose policy, and how much of it."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from asgi_client import said, until_live
from serving import healthy, served
from upstream import Upstream, chat_body, chat_stream, text_body

from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.inprocess import Reply, call
from prism.http.pool import INLINE
from prism.http.selftest import Timing
from prism.http.tenancy import LOOK, PAUSE, Tenancy
from prism.session import Session
from prism.tenants import change

FAST = Timing(first_retry=0.02, last_retry=0.2, probe=10.0, recheck=5.0)
NOW = 1_800_000_000.0
RED, BLUE = "zephyr lantern", "amber quokka"
RULE = "rules:\n  - {{id: {0}, category: prv, action: block, phrases: [{1}]}}\n"
MESSAGES = "messages: {{en: Not in the {0} house.}}\n"


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class House:
    """A server's folder, two tenants in it, and the scripted engine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.upstream = Upstream()
        self.clock = Clock()
        self.config("")
        for name, phrase in (("red", RED), ("blue", BLUE)):
            text = f"prism: 1\nid: {name}\n" + MESSAGES.format(name) + RULE.format(name, phrase)
            (folder / f"{name}.yaml").write_text(text)
        store = Settings.tenant_store(folder / "prism.yaml")
        self.keys = {
            name: change.add(store, name, now=NOW, policy=str(folder / f"{name}.yaml")).key.text
            for name in ("red", "blue")
        }

    def config(self, more: str) -> None:
        text = "policy: permissive\ntenants: tenants/\n" + more
        (self.folder / "prism.yaml").write_text(text)

    def limit(self, name: str, **limits: int) -> None:
        path = self.folder / "tenants" / f"{name}.yaml"
        path.write_text(path.read_text() + f"limits: {json.dumps(limits)}\n")

    @property
    def store(self) -> Any:
        return Settings.tenant_store(self.folder / "prism.yaml")

    def build(self, **options: Any) -> PrismMiddleware:
        settings = Settings.load(self.folder / "prism.yaml")
        app = PrismMiddleware(self.upstream.app, settings=settings, timing=FAST, **options)
        built = app._server.tenancy._house
        app._server.tenancy = Tenancy(
            settings,
            reading=built.reading,
            metrics=app.metrics,
            engine_key=built.engine_key.decode() if built.engine_key else None,
            token_layer=built.token_layer,
            clock=self.clock,
            now=self.clock,
        )
        return app

    @asynccontextmanager
    async def open(self, **options: Any) -> AsyncIterator[PrismMiddleware]:
        app = self.build(**options)
        await until_live(app)
        self.upstream.seen.clear()
        self.upstream.headers.clear()
        self.upstream.stamps.clear()
        try:
            yield app
        finally:
            await app.selftest.stop()


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.delenv("PRISM_TENANT_PEPPER", raising=False)
    return House(tmp_path)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def ask(
    app: Any, key: str | None, text: str = "hello", headers: Any = None, **more: Any
) -> Reply:
    body = {"model": "small", "messages": [{"role": "user", "content": text}], **more}
    sent = {**(bearer(key) if key is not None else {}), **(headers or {})}
    return await call(app, "POST", "/v1/chat/completions", body, headers=sent, patience=60)


def reason(reply: Reply) -> str:
    return str(reply.json()["choices"][0]["finish_reason"])


def text_of(reply: Reply) -> str:
    return str(reply.json()["choices"][0]["message"]["content"])


def refused(reply: Reply, status: int, code: str) -> dict[str, Any]:
    error = reply.json()["error"]
    assert (reply.status, error["code"]) == (status, code), reply.body
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


async def test_each_tenant_is_under_its_own_policy(house: House) -> None:
    async with house.open() as app:
        for name, own, others in (("red", RED, BLUE), ("blue", BLUE, RED)):
            key = house.keys[name]
            blocked = await ask(app, key, f"tell me of the {own}")
            assert (text_of(blocked), reason(blocked)) == (
                f"Not in the {name} house.",
                "content_filter",
            )
            assert house.upstream.seen == []
            free = await ask(app, key, f"tell me of the {others}")
            assert (text_of(free), reason(free)) == ("fine", "stop")
            house.upstream.say("says", body=chat_body(f"behold: {own}"))
            withheld = await ask(app, key, model="says")
            assert reason(withheld) == "content_filter"
            assert own not in withheld.body.decode()
            receipt = json.loads(free.headers["x-prism-receipt"])
            policy = app._server.settings.tenants.directory.tenants[name].policy
            assert (receipt["tenant"], receipt["policy"]) == (name, policy.digest)
            marks = {(mark.tenant, mark.digest) for mark in house.upstream.stamps}
            assert marks == {(name, policy.digest)}
            house.upstream.seen.clear()
            house.upstream.stamps.clear()
        metrics = (await call(app, "GET", "/prism/metrics", patience=60)).body
        assert b'="red"' not in metrics
        assert b"blue" not in metrics


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key"])
async def test_a_key_may_come_in_any_of_the_apis_headers(house: House, header: str) -> None:
    key = house.keys["red"]
    value = f"bearer {key}" if header == "authorization" else key
    async with house.open() as app:
        reply = await ask(app, None, RED, headers={header: value})
        assert text_of(reply) == "Not in the red house."


BAD_CREDENTIALS: dict[str, tuple[dict[str, str], str]] = {
    "none": ({}, "missing_api_key"),
    "empty": ({"authorization": "Bearer "}, "missing_api_key"),
    "scheme alone": ({"authorization": "Bearer"}, "missing_api_key"),
    "another scheme": ({"authorization": "Basic {red}"}, "invalid_api_key"),
    "no scheme": ({"authorization": "{red}"}, "invalid_api_key"),
    "unknown": ({"authorization": "Bearer EMPTY"}, "invalid_api_key"),
    "the engine's": ({"authorization": "Bearer engine-key"}, "invalid_api_key"),
    "cut": ({"authorization": "Bearer {red_cut}"}, "invalid_api_key"),
    "another secret": ({"authorization": "Bearer {mixed}"}, "invalid_api_key"),
    "a hash": ({"authorization": "Bearer hmac-sha256:0"}, "invalid_api_key"),
    "two": ({"authorization": "Bearer {red}", "x-api-key": "{blue}"}, "several_api_keys"),
    "one good, one bad": ({"api-key": "x", "x-api-key": "{blue}"}, "several_api_keys"),
    "a name": ({"x-prism-tenant": "red"}, "missing_api_key"),
    "in a cookie": ({"cookie": "api_key={red}"}, "missing_api_key"),
    "not ASCII": ({"authorization": "Bearer \xe9\xff"}, "invalid_api_key"),
}


@pytest.mark.parametrize(("sent", "code"), BAD_CREDENTIALS.values(), ids=BAD_CREDENTIALS)
async def test_nobody_gets_in_without_a_key_that_is_known(
    house: House, sent: dict[str, str], code: str
) -> None:
    red, blue = house.keys["red"], house.keys["blue"]
    mixed = "_".join([*red.split("_")[:2], blue.split("_")[2]])
    values = {"red": red, "blue": blue, "red_cut": red[:-1], "mixed": mixed}
    headers = {name: value.format(**values) for name, value in sent.items()}
    async with house.open(api_keys=["engine-key"]) as app:
        error = refused(await ask(app, None, headers=headers), 401, code)
        assert error["type"] == "authentication_error"
        # … whatever the body is: nothing of it is read before.
        broken = await call(app, "POST", "/v1/completions", "{", headers=headers, patience=60)
        refused(broken, 401, code)
        assert broken.headers["www-authenticate"] == "Bearer"
        assert house.upstream.seen == []


async def test_the_same_key_twice_is_one_key(house: House) -> None:
    async with house.open() as app:
        key = house.keys["red"]
        reply = await ask(app, key, RED, headers={"x-api-key": key})
        assert text_of(reply) == "Not in the red house."


async def test_strangers_get_the_policy_that_the_operator_chose(house: House) -> None:
    house.config("anonymous: blue.yaml\nanonymous_limits: {requests_per_minute: 3}\n")
    store = house.store
    old = change.add(store, "old", now=NOW - 100, lifetime=50).key.text
    change.disable(store, "red")
    async with house.open() as app:
        for key in (None, "EMPTY"):
            reply = await ask(app, key, BLUE)
            assert text_of(reply) == "Not in the blue house."
            assert json.loads(reply.headers["x-prism-receipt"])["tenant"] == "anonymous"
        # Who is known and kept out doesn't become a stranger.
        refused(await ask(app, old), 401, "expired_api_key")
        refused(await ask(app, house.keys["red"]), 403, "tenant_disabled")
        assert (await ask(app, None)).status == 200
        refused(await ask(app, "some other"), 429, "rate_limit_exceeded")
        assert (await ask(app, house.keys["blue"])).status == 200


async def test_rotated_expired_and_disabled_keys(house: House) -> None:
    new = change.rotate(house.store, "red", now=NOW, overlap=60).key.text
    async with house.open() as app:
        assert (await ask(app, house.keys["red"])).status == 200
        assert (await ask(app, new)).status == 200
        house.clock.now += 60
        refused(await ask(app, house.keys["red"]), 401, "expired_api_key")
        assert (await ask(app, new)).status == 200


FORGERIES: dict[str, tuple[dict[str, str], dict[str, Any], int]] = {
    "header: tenant": ({"x-prism-tenant": "blue"}, {}, 200),
    "header: policy": ({"x-prism-policy": "blue"}, {}, 200),
    "header: stamp": ({"x-prism-stamp": "{stamp}"}, {}, 200),
    "header: selftest": ({"x-prism-selftest": "1", "prism.selftest": "1"}, {}, 200),
    "header: organisation": ({"openai-organization": "blue", "openai-project": "blue"}, {}, 200),
    "body: stamp": ({}, {"prism_stamp": "{stamp}"}, 400),
    "body: policy": ({}, {"prism_policy": "blue"}, 400),
    "body: tenant": ({}, {"Prism-Tenant": "blue"}, 400),
    "body: stamp for vLLM": ({}, {"vllm_xargs": {"prism_stamp": "{stamp}"}}, 400),
    "body: engine arguments": ({}, {"extra_args": {"prism_stamp": "{stamp}"}}, 400),
    "body: user": ({}, {"user": "blue", "safety_identifier": "blue"}, 200),
    "body: metadata": ({}, {"metadata": {"tenant": "blue", "policy": "blue"}}, 200),
    "body: tenant by another name": ({}, {"tenant": "blue", "policy": "blue.yaml"}, 200),
    "body: salt": ({}, {"cache_salt": "blue"}, 200),
    "model: a tenant": ({}, {"model": "blue"}, 200),
    "model: a policy": ({}, {"model": "small@blue.yaml"}, 200),
}  # fmt: skip


@pytest.mark.parametrize(("headers", "more", "status"), FORGERIES.values(), ids=FORGERIES)
async def test_nothing_but_the_key_selects_a_policy(
    house: House, headers: dict[str, str], more: dict[str, Any], status: int
) -> None:
    from prism.steer import stamp

    async with house.open(engine="vllm") as app:
        digests = {
            name: tenant.policy.digest
            for name, tenant in app._server.settings.tenants.directory.tenants.items()
        }
        good = stamp.sign(stamp.Stamp(digests["blue"], "blue"))
        headers = {name: value.replace("{stamp}", good) for name, value in headers.items()}
        more = json.loads(json.dumps(more).replace("{stamp}", good))
        blocked = await ask(app, house.keys["red"], RED, headers=headers, **more)
        assert blocked.status == status
        if status == 200:
            assert text_of(blocked) == "Not in the red house."
        assert house.upstream.seen == []
        free = await ask(app, house.keys["red"], BLUE, headers=headers, **more)
        assert free.status == status
        if status == 200:
            assert [m.digest for m in house.upstream.stamps] == [digests["red"]]
            assert [m.tenant for m in house.upstream.stamps] == ["red"]
            assert not [name for name in house.upstream.headers[0] if name.startswith("x-prism")]
        else:
            assert house.upstream.seen == []


@pytest.mark.parametrize("key", ["messages", "model", "user", "cache_salt"])
async def test_a_key_twice_is_an_error_and_not_a_choice(house: House, key: str) -> None:
    first, second = ('[{"role": "user", "content": "' + t + '"}]' for t in (RED, BLUE))
    if key != "messages":
        first, second = '"red"', '"blue"'
    more = "" if key == "messages" else f', "messages": [{{"role": "user", "content": "{RED}"}}]'
    raw = f'{{"{key}": {first}, "{key}": {second}{more}}}'
    async with house.open() as app:
        reply = await raw_call(app, raw.encode(), house.keys["red"])
        error = refused(reply, 400, "invalid_json")
        assert f"'{key}' appears twice" in error["message"]
        assert house.upstream.seen == []


async def raw_call(app: Any, payload: bytes, key: str) -> Reply:
    reply = Reply()
    sent = [(b"content-type", b"application/json"), (b"authorization", f"Bearer {key}".encode())]
    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": sent,
        "http_version": "1.1", "query_string": b"api_key=x", "root_path": "",
    }  # fmt: skip
    waiting = [{"type": "http.request", "body": payload, "more_body": False}]

    async def receive() -> Any:
        return waiting.pop() if waiting else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        reply.status = message.get("status", reply.status)
        reply.body += message.get("body", b"")

    await app(scope, receive, send)
    return reply


async def test_requests_per_minute(house: House) -> None:
    house.limit("red", requests_per_minute=2)
    async with house.open() as app:
        red, blue = house.keys["red"], house.keys["blue"]
        assert [(await ask(app, red)).status for _ in range(2)] == [200, 200]
        late = await ask(app, red)
        error = refused(late, 429, "rate_limit_exceeded")
        assert error["type"] == "rate_limit_error"
        assert "2 requests a minute" in error["message"]
        assert late.headers["retry-after"] == "30"
        assert (await ask(app, blue)).status == 200
        house.clock.now += 29
        assert (await ask(app, red)).headers["retry-after"] == "1"
        house.clock.now += 1
        assert (await ask(app, red)).status == 200
        # Other routes that need the key are counted, too.
        listed = await call(app, "GET", "/v1/models", headers=bearer(red), patience=60)
        refused(listed, 429, "rate_limit_exceeded")
        assert len(house.upstream.seen) == 4


async def test_characters_per_minute_count_what_comes_in_and_what_goes_out(house: House) -> None:
    house.limit("red", chars_per_minute=600)
    house.upstream.say("long", body=chat_body("a" * 1000))
    async with house.open() as app:
        red = house.keys["red"]
        assert (await ask(app, red, "b" * 300)).status == 200
        refused(await ask(app, red, "b" * 300), 429, "rate_limit_exceeded")  # "fine" counted
        assert (await ask(app, red, "b" * 290, model="long")).status == 200
        late = await ask(app, red, "b")
        refused(late, 429, "rate_limit_exceeded")
        assert 98 <= int(late.headers["retry-after"]) <= 101
        house.clock.now += 101
        assert (await ask(app, red, "b")).status == 200


async def test_concurrent_streams(house: House) -> None:
    house.limit("red", concurrent_streams=2)
    house.upstream.say("slow", stream=chat_stream(["a", "b"]), body=chat_body("c"), pause=0.5)
    house.upstream.say("broken", stream=chat_stream(["a", "b"]), fail_after=1)
    async with house.open() as app:
        red, blue = house.keys["red"], house.keys["blue"]
        running = [asyncio.create_task(ask(app, red, model="slow", stream=True)) for _ in "ab"]
        while len(house.upstream.seen) < 2:
            assert not any(task.done() for task in running)
            await asyncio.sleep(0.01)
        late = await ask(app, red)
        refused(late, 429, "rate_limit_exceeded")
        assert late.headers["retry-after"] == "1"
        assert (await ask(app, blue)).status == 200
        assert [said(reply)[0] for reply in await asyncio.gather(*running)] == ["ab", "ab"]
        # Each choice is an answer, and everything is given back however a request ends.
        error = refused(await ask(app, red, n=3), 400, "out_of_range")
        assert error["param"] == "n"
        for more in (
            {"n": 2}, {"model": "broken", "stream": True}, {"text": RED}, {"n": 1000}, {"n": "x"},
            {"prism_stamp": "x"},
        ):  # fmt: skip
            await ask(app, red, **more)
        assert (await ask(app, red, n=2)).status == 200


async def test_a_client_that_hangs_up_gives_its_place_back(house: House) -> None:
    house.limit("red", concurrent_streams=1)
    house.upstream.say("hangs", hang=True)
    async with house.open() as app:
        red = house.keys["red"]
        task = asyncio.create_task(ask(app, red, model="hangs"))
        while not house.upstream.seen:
            assert not task.done()
            await asyncio.sleep(0.01)
        refused(await ask(app, red), 429, "rate_limit_exceeded")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await ask(app, red)).status == 200


async def test_a_prompt_judged_beside_the_engine_takes_and_gives_back_one_place(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.limit("red", concurrent_streams=1)
    go = threading.Event()
    inner = Session.check_prompt

    def held(session: Session, prompt: Any) -> Any:
        assert len(str(prompt)) < INLINE or go.wait(60)
        return inner(session, prompt)

    monkeypatch.setattr(Session, "check_prompt", held)
    async with house.open() as app:
        red, long = house.keys["red"], "lorem ipsum " * (INLINE // 10)
        for text in (long, f"{long} {RED}"):
            go.clear()
            house.upstream.seen.clear()
            running = asyncio.create_task(ask(app, red, text))
            while not house.upstream.seen:
                assert not running.done()
                await asyncio.sleep(0.01)
            refused(await ask(app, red), 429, "rate_limit_exceeded")
            go.set()
            assert (await running).status == 200
            assert ("Not in the red house" in (await running).body.decode()) == (text != long)
            assert (await ask(app, red)).status == 200


async def test_sizes(house: House) -> None:
    house.limit("red", max_body_bytes=2000, max_prompt_chars=100, max_choices=2)
    house.config("limits: {max_prompt_chars: 50000, max_choices: 4}\n")
    house.limit("blue", max_prompt_chars=1_000_000, max_choices=100)
    async with house.open() as app:
        red, blue = house.keys["red"], house.keys["blue"]
        refused(await ask(app, red, "a" * 3000), 413, "body_too_large")
        refused(await ask(app, red, "a" * 101), 413, "prompt_too_long")
        refused(await ask(app, red, n=3), 400, "out_of_range")
        assert (await ask(app, red, "a" * 100, n=2)).status == 200
        assert (await ask(app, blue, "a" * 3000, n=4)).status == 200
        refused(await ask(app, blue, "a" * 50_001), 413, "prompt_too_long")
        refused(await ask(app, blue, n=5), 400, "out_of_range")
        sent = {"prompt": "a" * 3000}
        tokens = await call(app, "POST", "/tokenize", sent, headers=bearer(red), patience=60)
        refused(tokens, 413, "body_too_large")


@pytest.mark.parametrize("engine_key", [None, "engine-key"])
async def test_the_tenants_key_ends_here_and_the_engines_goes_on(
    house: House, engine_key: str | None
) -> None:
    async with house.open(api_keys=[engine_key] if engine_key else []) as app:
        red = house.keys["red"]
        await ask(app, red)
        await ask(app, None, headers={"x-api-key": red, "api-key": red})
        for sent in house.upstream.headers:
            assert sent.get("authorization") == (f"Bearer {engine_key}" if engine_key else None)
            assert "x-api-key" not in sent
            assert "api-key" not in sent
            assert red not in str(sent)
        assert len(house.upstream.headers) == 2


async def test_what_tenants_and_strangers_see_of_other_routes(house: House) -> None:
    async with house.open(api_keys=["engine-key"]) as app:
        for path in ("/prism/health", "/prism/metrics", "/health", "/version"):
            reply = await call(app, "GET", path, patience=60)
            assert reply.status == 200
            for hidden in ('"red"', "blue", *house.keys["red"].split("_")[1:]):
                assert hidden not in reply.body.decode()
        for method, path in (("GET", "/v1/models"), ("POST", "/tokenize")):
            reply = await call(app, method, path, {}, patience=60)
            refused(reply, 401, "missing_api_key")
            reply = await call(
                app, method, path, {}, headers=bearer(house.keys["red"]), patience=60
            )
            assert reply.status == 200
        preflight = {"origin": "https://x.example", "access-control-request-method": "POST"}
        reply = await call(app, "OPTIONS", "/v1/models", headers=preflight, patience=60)
        assert reply.status != 401  # a browser sends no key with it


async def test_no_two_tenants_share_a_cache(house: House) -> None:
    async with house.open(engine="vllm") as app:

        async def salt(name: str, **more: Any) -> str:
            assert (await ask(app, house.keys[name], **more)).status == 200
            return str(house.upstream.seen[-1]["cache_salt"])

        red, blue = await salt("red"), await salt("blue")
        assert red != blue
        assert red == await salt("red") == await salt("red", user="blue")
        assert len(red) == 64
        assert set(red) <= set("0123456789abcdef")  # vLLM: at most 128, no "@", "/", "\"
        # A client's own divides its tenant's part, and leads to nobody else's.
        own = await salt("red", cache_salt="mine")
        assert own == await salt("red", cache_salt="mine")
        assert (
            len(
                {
                    red,
                    blue,
                    own,
                    await salt("blue", cache_salt="mine"),
                    await salt("blue", cache_salt=red),
                    await salt("red", cache_salt="x"),
                }
            )
            == 6
        )
        for bad in ("", 5, ["x"], "x" * 129):
            error = refused(await ask(app, house.keys["red"], cache_salt=bad), 400, "invalid_type")
            assert error["param"] == "cache_salt"
    for engine in ("llamacpp", "proxy"):
        async with house.open(engine=engine) as app:
            await ask(app, house.keys["red"])
            assert "cache_salt" not in house.upstream.seen[-1]


async def test_a_share_of_requests_tries_the_canary(house: House) -> None:
    path = house.folder / "tenants/red.yaml"
    path.write_text(path.read_text() + "canary: {policy: ../blue.yaml, share: 0.25}\n")
    async with house.open() as app:
        drawn: list[float] = [0.0, 0.2499, 0.25, 0.99]
        app._server.tenancy._chance = lambda: drawn.pop(0)
        texts = [text_of(await ask(app, house.keys["red"], f"{RED} {BLUE}")) for _ in range(4)]
        assert texts == ["Not in the blue house."] * 2 + ["Not in the red house."] * 2


async def test_the_token_layers_refusal_is_known_in_the_tenants_words(house: House) -> None:
    settings = Settings.load(house.folder / "prism.yaml")
    house.upstream.token_layer = settings.policy.message()
    async with house.open(layers=("text", "token")) as app:
        for name in ("red", "blue"):
            house.upstream.say("refuses", body=text_body(f"Well. Not in the {name} house."))
            sent = {"model": "refuses", "prompt": "hello"}
            headers = bearer(house.keys[name])
            reply = await call(app, "POST", "/v1/completions", sent, headers=headers, patience=60)
            assert reason(reply) == "content_filter"
        strictest = settings.strictest.message()
        house.upstream.say("strictest", body=chat_body(strictest))
        assert reason(await ask(app, house.keys["red"], model="strictest")) == "content_filter"


async def test_a_running_server_follows_the_folder(house: House) -> None:
    async with house.open() as app:

        async def status(key: str, text: str = "hello") -> int:
            house.clock.now += LOOK
            return (await ask(app, key, text)).status

        red = house.keys["red"]
        assert await status(red) == 200
        store = house.store
        new = change.rotate(store, "red", now=NOW, overlap=0).key.text
        assert [await status(new), await status(red)] == [200, 401]
        extra = change.add(store, "extra", now=NOW, policy=str(house.folder / "blue.yaml")).key.text
        assert await status(extra) == 200
        assert text_of(await ask(app, extra, BLUE)) == "Not in the blue house."
        change.disable(store, "red")
        assert await status(new) == 403
        # A mistake in one file leaves that tenant as it was, and everybody else alone.
        path = house.folder / "tenants/extra.yaml"
        path.write_text(path.read_text().replace("policy:", "polcy:"))
        change.enable(store, "red")
        assert [await status(new), await status(extra)] == [200, 200]
        assert text_of(await ask(app, extra, BLUE)) == "Not in the blue house."


async def test_a_running_server_follows_its_tenants_policies(house: House) -> None:
    async with house.open() as app:
        path, red = house.folder / "red.yaml", house.keys["red"]

        async def health() -> Any:
            return (await call(app, "GET", "/prism/health", patience=60)).json()

        async def rewritten(text: str) -> None:
            path.write_text(text)
            past = path.stat().st_mtime_ns - 10**9
            os.utime(path, ns=(past, past))
            house.clock.now += LOOK
            assert (await ask(app, red)).status == 200

        good = path.read_text()
        assert (await health())["tenants"] == {"problems": 0}
        await rewritten(good.replace(RED, "copper walrus"))
        assert text_of(await ask(app, red, "copper walrus")) == "Not in the red house."
        assert text_of(await ask(app, red, RED)) != "Not in the red house."
        # A mistake: what held before holds, others go on, and the server says so.
        await rewritten("prism: 1\nid: red\nrules: [{id: red}]\n")
        report = await health()
        assert (report["status"], report["tenants"]["problems"] > 0) == ("ok", True)
        assert b'prism_failures_total{kind="tenants"} 1.0' in app.metrics.render()
        assert text_of(await ask(app, red, "copper walrus")) == "Not in the red house."
        await rewritten(good)
        assert (await health())["tenants"] == {"problems": 0}
        assert text_of(await ask(app, red, RED)) == "Not in the red house."


@pytest.mark.parametrize("line", ["watermark: required\n", "tiers: {guard: on}\n"])
async def test_a_policy_that_this_server_cannot_serve_holds_nobody_up(
    house: House, line: str
) -> None:
    async with house.open() as app:
        path = house.folder / "red.yaml"
        path.write_text(path.read_text() + line)
        past = path.stat().st_mtime_ns - 10**9
        os.utime(path, ns=(past, past))
        change.disable(house.store, "blue")
        house.clock.now += LOOK
        refused(await ask(app, house.keys["blue"]), 403, "tenant_disabled")
        assert text_of(await ask(app, house.keys["red"], RED)) == "Not in the red house."
        report = (await call(app, "GET", "/prism/health", patience=60)).json()
        assert report["tenants"] == {"problems": 1}


async def test_a_folder_that_cannot_be_read_locks_nobody_out(house: House) -> None:
    async with house.open() as app:
        pepper = house.folder / "tenants/.pepper"
        good = pepper.read_bytes()
        pepper.write_text("short")
        house.clock.now += LOOK
        assert (await ask(app, house.keys["red"])).status == 200
        assert b'prism_failures_total{kind="tenants"} 1.0' in app.metrics.render()
        house.clock.now += LOOK
        assert (await ask(app, house.keys["blue"])).status == 200
        assert b'prism_failures_total{kind="tenants"} 1.0' in app.metrics.render()  # not yet again
        pepper.write_bytes(good)
        change.disable(house.store, "red")
        house.clock.now += PAUSE
        refused(await ask(app, house.keys["red"]), 403, "tenant_disabled")


async def test_a_slow_disk_holds_a_request_up_for_a_while_only(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prism.http.tenancy.PATIENCE", 0.05)
    go_on = threading.Event()
    async with house.open() as app:
        store = app._server.settings.tenants.store
        reload = store.reload

        def slow(accept: Any) -> Any:
            go_on.wait(60)
            return reload(accept)

        monkeypatch.setattr(store, "reload", slow)
        change.disable(house.store, "red")
        house.clock.now += LOOK
        assert (await ask(app, house.keys["red"])).status == 200
        go_on.set()
        await asyncio.wait({app._server.tenancy._task})
        refused(await ask(app, house.keys["red"]), 403, "tenant_disabled")


async def test_streams_of_many_tenants_at_once_each_under_its_own(house: House) -> None:
    """Both phrases in every stream, cut in the middle: each tenant sees the other's only."""
    pieces = [
        "first ", "the am", "ber quo", "kka, ", "then ", "the zep", "hyr lan", "tern", " end",
    ]  # fmt: skip
    house.upstream.say("both", stream=chat_stream(pieces), pause=0.001)
    async with house.open(engine="vllm") as app:
        names = ["red", "blue"] * 25
        replies = await asyncio.gather(
            *(ask(app, house.keys[name], model="both", stream=True) for name in names)
        )
        for name, reply in zip(names, replies, strict=True):
            text, why = said(reply)
            assert why == "content_filter"
            expected = {"red": "first the amber quokka, then the ", "blue": "first the "}
            assert text == expected[name]
            receipt = reply.body.decode().split(": prism-receipt ")[1].split("\n")[0]
            assert json.loads(receipt)["tenant"] == name
        salts = {body["cache_salt"] for body in house.upstream.seen}
        assert len(salts) == 2
        assert sorted(mark.tenant for mark in house.upstream.stamps) == sorted(names)


def test_the_official_client_raises_its_own_errors(house: House) -> None:
    house.limit("blue", requests_per_minute=1)
    off = change.add(house.store, "off", now=NOW).key.text
    change.disable(house.store, "off")
    ask_for: Any = {"model": "small", "messages": [{"role": "user", "content": RED}]}
    settings = Settings.load(house.folder / "prism.yaml")
    app = PrismMiddleware(house.upstream.app, settings=settings, timing=FAST)
    with served(app) as url:
        healthy(url)

        def client(key: str) -> openai.OpenAI:
            return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)

        with client(house.keys["red"]) as red:
            got = red.chat.completions.create(**ask_for)
            assert got.choices[0].message.content == "Not in the red house."
            assert red.models.list().data[0].id == "small"
        with client(house.keys["blue"]) as blue:
            got = blue.chat.completions.create(**ask_for)
            assert got.choices[0].message.content == "fine"
            with pytest.raises(openai.RateLimitError) as slow:
                blue.chat.completions.create(**ask_for)
            assert 0 < int(slow.value.response.headers["retry-after"]) <= 60
        with client("EMPTY") as nobody, pytest.raises(openai.AuthenticationError):
            nobody.chat.completions.create(**ask_for)
        with client(off) as gone, pytest.raises(openai.PermissionDeniedError):
            gone.chat.completions.create(**ask_for)
