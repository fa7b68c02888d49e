"""Routes that change or show an engine: for whoever has the operator's key, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from house import FAST, POLICY
from serving import healthy, http, served
from upstream import Upstream

from prism.config import ConfigError, Settings
from prism.http import PrismMiddleware
from prism.http.families import FAMILIES
from prism.http.routes import ADMIN, OWN, SAFE

KEY = "an-operators-key-of-32-characters"
CALLS = [("POST", "/sleep"), ("GET", "/slots"), ("POST", "/v1/load_lora_adapter"),
         ("POST", "/props"), ("GET", "/props")]  # fmt: skip
WRONG: list[dict[str, str]] = [
    {},
    {"x-prism-admin-key": ""},
    {"x-prism-admin-key": KEY[:-1]},
    {"x-prism-admin-key": f"{KEY}x"},
    {"x-prism-admin-key": "caf\u00e9"},
    {"authorization": "Bearer other"},
    {"authorization": f"Basic {KEY}"},
    {"x-api-key": KEY},
]


@pytest.fixture(scope="module")
def base(upstream: Upstream, settings: Settings) -> Iterator[str]:
    """A server with an operator's key, whose engine has a key of its own."""
    app = PrismMiddleware(
        upstream.app,
        settings=replace(settings, admin_key=KEY),
        timing=FAST,
        api_keys=["engines-key"],
    )
    with served(app) as made:
        healthy(made)
        yield made


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_nobody_gets_in_without_the_key(
    base: str, url: str, upstream: Upstream, method: str, path: str
) -> None:
    before = len(upstream.seen)
    for headers in WRONG:
        raw = {key: value.encode("latin-1") for key, value in headers.items()}
        reply = http.request(method, base + path, json={"prompt": "hello"}, headers=raw)
        assert reply.status_code == 403
        assert reply.json()["error"]["code"] == "operator_only"
    # Where there is no key at all, nobody has it.
    for headers in ({}, {"x-prism-admin-key": ""}, {"x-prism-admin-key": KEY}):
        assert http.request(method, url + path, json={}, headers=headers).status_code == 403
    assert len(upstream.seen) == before


@pytest.mark.parametrize(
    "headers", [{"x-prism-admin-key": KEY}, {"authorization": f"Bearer {KEY}"}]
)
@pytest.mark.parametrize(("method", "path"), CALLS)
def test_the_operator_does_and_the_key_ends_here(
    base: str, upstream: Upstream, method: str, path: str, headers: dict[str, str]
) -> None:
    name = upstream.say("admin", body={"done": True})
    reply = http.request(method, base + path, json={"model": name}, headers=headers)
    assert (reply.status_code, reply.json()) == (200, {"done": True})
    seen = upstream.headers[-1]
    assert KEY not in str(seen)
    assert seen["authorization"] == "Bearer engines-key"


def test_the_key_opens_nothing_else(base: str) -> None:
    headers = {"x-prism-admin-key": KEY}
    for path in ("/collective_rpc", "/update_weights", "/slots/0", "/anything"):
        reply = http.post(base + path, json={}, headers=headers)
        assert reply.json()["error"]["code"] == "route_not_moderated"
    chat = http.post(f"{base}/v1/completions", json={"prompt": "zephyr lantern"}, headers=headers)
    assert chat.status_code == 401  # the engine's key is wanted there, and then it is judged
    body = {"prompt": "zephyr lantern"}
    engine = {"authorization": "Bearer engines-key", **headers}
    judged = http.post(f"{base}/v1/completions", json=body, headers=engine).json()
    assert judged["choices"][0]["finish_reason"] == "content_filter"
    assert http.request("PUT", f"{base}/sleep", headers=headers).status_code == 405


def test_metrics_can_be_the_operators(upstream: Upstream, settings: Settings) -> None:
    private = replace(settings, admin_key=KEY, private_metrics=True)
    with served(PrismMiddleware(upstream.app, settings=private, timing=FAST)) as base:
        assert http.get(f"{base}/prism/metrics").json()["error"]["code"] == "operator_only"
        for path in ("/prism/metrics", "/prism/health"):
            reply = http.get(base + path, headers={"authorization": f"Bearer {KEY}"})
            assert reply.status_code in (200, 503)
        healthy(base)


def test_no_route_is_two_things() -> None:
    moderated = [path for family in FAMILIES for path in family.paths]
    assert len(moderated) == len(set(moderated))
    assert not set(moderated) & (ADMIN.keys() | SAFE.keys() | OWN.keys())
    assert not ADMIN.keys() & (SAFE.keys() | OWN.keys())
    names = [family.name for family in FAMILIES]
    assert len(names) == len(set(names))


def write(folder: Path, more: str) -> Path:
    (folder / "policy.yaml").write_text(POLICY, encoding="utf-8")
    path = folder / "prism.yaml"
    path.write_text(f"policy: policy.yaml\n{more}", encoding="utf-8")
    return path


def test_the_key_is_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRISM_ADMIN_KEY", raising=False)
    assert Settings.load(write(tmp_path, "")).admin_key is None
    monkeypatch.setenv("PRISM_ADMIN_KEY", f"{KEY}\n")
    assert Settings.load(write(tmp_path, "")).admin_key == KEY
    assert Settings.for_policy("default").admin_key == KEY
    monkeypatch.setenv("MINE", "another-key-of-the-operators")
    settings = Settings.load(write(tmp_path, "admin_key_env: MINE\n"))
    assert settings.admin_key == "another-key-of-the-operators"
    assert KEY not in repr(Settings.for_policy("default"))


@pytest.mark.parametrize(
    ("value", "more", "told"),
    [
        ("short", "", "PRISM_ADMIN_KEY"),
        ("caf\u00e9" * 8, "", "ASCII"),
        (KEY, "admin_key_env: NOT_THERE\n", "NOT_THERE"),
        (KEY, "admin_key_env: 'A B'\n", "admin_key_env"),
    ],
)
def test_a_key_that_is_wrong_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, more: str, told: str
) -> None:
    monkeypatch.setenv("PRISM_ADMIN_KEY", value)
    with pytest.raises(ConfigError, match=told) as caught:
        Settings.load(write(tmp_path, more))
    assert value not in str(caught.value)


def test_preflights_are_asked_of_nobodys_key(base: str) -> None:
    headers: dict[str, Any] = {"origin": "http://a", "access-control-request-method": "POST"}
    assert http.options(f"{base}/sleep", headers=headers).status_code != 403
