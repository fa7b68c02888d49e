"""``/v1/moderations`` with the official client."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import openai
import pytest
from asgi_client import until_live
from house import FAST, POLICY
from serving import http
from upstream import Upstream

from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.inprocess import Reply, call
from prism.http.moderations import MAX_INPUTS
from prism.moderator import Moderator
from prism.taxonomy import taxonomy
from prism.tenants import change
from prism.types import Stage

ASK: Any = {"model": "omni-moderation-latest"}


def test_a_string_gives_one_result_and_reaches_no_engine(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    before = len(upstream.seen)
    got = client.moderations.create(input="of the Zephyr Lantern", **ASK)
    assert len(upstream.seen) == before
    (result,) = got.results
    assert result.flagged
    flags: Any = result.categories.to_dict()
    assert flags["prv"] is True
    assert {name for name, flag in flags.items() if flag} == {"prv"}
    assert result.category_scores.to_dict()["prv"] == 1.0
    assert result.category_scores.hate == 0.0
    extra: Any = result.to_dict()["prism"]
    assert extra["action"] == "block"
    assert extra["categories"] == ["prv"]
    assert extra["tiers"] == {"prompt.patterns": "ran"}
    assert got.id.startswith("prism-")
    assert got.model == "prism:http-tests"


def test_a_list_gives_a_result_for_each(client: openai.OpenAI) -> None:
    inputs = ["good morning", "gibbous teapot", "", "plaid thunder", "marzipan gasket"]
    got = client.moderations.create(input=inputs, **ASK)
    # The last is an answer's rule: what is moderated here is judged as a prompt.
    assert [result.flagged for result in got.results] == [False, True, False, True, False]
    assert [r.to_dict()["prism"]["action"] for r in got.results] == [  # type: ignore[index]
        "allow", "block", "allow", "flag", "allow",
    ]  # fmt: skip


def test_openais_categories_follow_from_ours(client: openai.OpenAI) -> None:
    harassment = client.moderations.create(input="plaid thunder", **ASK).results[0]
    assert harassment.categories.harassment
    # Nothing says that it threatens, so that isn't claimed, nor that it was looked for.
    assert not harassment.categories.harassment_threatening
    assert harassment.category_applied_input_types.harassment == ["text"]
    assert harassment.category_applied_input_types.harassment_threatening == []
    fraud = client.moderations.create(input="gibbous teapot", **ASK).results[0]
    assert fraud.categories.illicit
    assert not fraud.categories.illicit_violent
    assert fraud.category_applied_input_types.hate == []  # this policy has no rule for it


def test_every_name_of_openais_and_ours_is_there(client: openai.OpenAI) -> None:
    result = client.moderations.create(input="hello", **ASK).results[0]
    fields = type(result.categories).model_fields
    wanted = {field.alias or name for name, field in fields.items()} | set(taxonomy().categories)
    for part in (
        result.categories, result.category_scores, result.category_applied_input_types
    ):  # fmt: skip
        assert set(part.to_dict()) == wanted


def test_parts_are_one_input_and_images_are_said_to_be_unread(client: openai.OpenAI) -> None:
    parts: Any = [
        {"type": "text", "text": "tell of the zephyr"},
        {"type": "text", "text": "lantern"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    (result,) = client.moderations.create(input=parts, **ASK).results
    assert result.flagged
    assert result.to_dict()["prism"]["unread"] == ["image"]  # type: ignore[index]
    assert result.category_applied_input_types.sexual == []


@pytest.mark.parametrize(
    "given",
    [None, [], 3, ["a", 3], ["a", {"type": "text", "text": "b"}], [{"type": "file"}], [[1]], {}],
)
def test_other_shapes_are_refused(client: openai.OpenAI, given: Any) -> None:
    with pytest.raises(openai.BadRequestError):
        client.moderations.create(input=given)


def test_limits(client: openai.OpenAI) -> None:
    fine = client.moderations.create(input=["a"] * MAX_INPUTS)
    assert len(fine.results) == MAX_INPUTS
    with pytest.raises(openai.BadRequestError, match="more than"):
        client.moderations.create(input=["a"] * (MAX_INPUTS + 1))
    with pytest.raises(openai.APIStatusError) as caught:
        client.moderations.create(input=["x" * 30_000] * 2)
    assert (caught.value.status_code, caught.value.code) == (413, "prompt_too_long")
    with pytest.raises(openai.APIStatusError) as caught:
        client.moderations.create(input="x" * 200_000)
    assert (caught.value.status_code, caught.value.code) == (413, "body_too_large")


def test_a_client_chooses_no_policy(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.moderations.create(input="hello", extra_body={"prism_policy": "permissive"})
    assert caught.value.code == "policy_not_yours"
    named = client.moderations.create(input="zephyr lantern", model="permissive")
    assert named.results[0].flagged


def test_only_post_and_only_this_path(url: str) -> None:
    assert http.get(f"{url}/v1/moderations").status_code == 405
    for path in ("/moderations", "/v1/moderations/", "/v1/Moderations"):
        assert http.post(url + path, json={"input": "a"}).status_code == 403


def test_a_tier_that_fails_is_no_clean_bill(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Moderator, stage: Stage, text: str) -> Any:
        raise RuntimeError("injected")

    monkeypatch.setattr(Moderator, "found", broken)
    (result,) = client.moderations.create(input="hello").results
    assert result.flagged
    assert not any(result.categories.to_dict().values())
    extra: Any = result.to_dict()["prism"]
    assert extra["tiers"] == {"prompt.patterns": "failed"}
    applied: Any = result.category_applied_input_types.to_dict()
    assert not any(applied.values())  # nothing was looked for


async def test_rules_in_monitor_mode_do_not_flag(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(POLICY.replace("id: http-tests", "id: m\nmode: monitor"), encoding="utf-8")
    app = PrismMiddleware(Upstream().app, settings=Settings.for_policy(path), timing=FAST)
    await until_live(app)
    body = {"input": "zephyr lantern"}
    reply = await call(app, "POST", "/v1/moderations", body, patience=60)
    (result,) = reply.json()["results"]
    await app.selftest.stop()
    assert result["flagged"] is False
    assert (result["prism"]["action"], result["prism"]["would"]) == ("allow", "block")


async def test_each_tenant_is_answered_under_its_own_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PRISM_TENANT_PEPPER", raising=False)
    (tmp_path / "prism.yaml").write_text("policy: permissive\ntenants: tenants/\n")
    (tmp_path / "red.yaml").write_text(POLICY)
    store = Settings.tenant_store(tmp_path / "prism.yaml")
    red = change.add(store, "red", now=time.time(), policy=str(tmp_path / "red.yaml")).key.text
    blue = change.add(store, "blue", now=time.time()).key.text
    settings = Settings.load(tmp_path / "prism.yaml")
    app = PrismMiddleware(Upstream().app, settings=settings, timing=FAST)
    await until_live(app)

    async def ask(**headers: str) -> Reply:
        body = {"input": "zephyr lantern", "model": "red"}
        return await call(app, "POST", "/v1/moderations", body, headers=headers, patience=60)

    assert (await ask()).status == 401
    for key, flagged, tenant in ((red, True, "red"), (blue, False, "blue")):
        answer = (await ask(authorization=f"Bearer {key}")).json()
        assert answer["results"][0]["flagged"] is flagged
        assert answer["prism"]["tenant"] == tenant
    await app.selftest.stop()


async def test_nothing_is_answered_before_the_layers_are_live(settings: Settings) -> None:
    upstream = Upstream()
    upstream.models_status = 500
    app = PrismMiddleware(upstream.app, settings=settings, timing=FAST)
    reply = await call(app, "POST", "/v1/moderations", {"input": "hello"}, patience=60)
    await app.selftest.stop()
    assert reply.status == 503


def test_it_is_counted(url: str, client: openai.OpenAI) -> None:
    client.moderations.create(input="zephyr lantern")
    text = http.get(f"{url}/prism/metrics").text
    assert 'prism_requests_total{family="moderations",outcome="passed"}' in text
