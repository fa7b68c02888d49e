"""No tenant's file loosens the floor; equal policies are one policy, however many tenants."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prism.config import Settings
from prism.match import Matcher
from prism.moderator import Moderator
from prism.policy import load_policy, missing_from
from prism.tenants import Pepper
from prism.types import Mode, Stage

TEXTS = ["zephyr lantern", "z3phyr l4ntern", "an amber quokka", "violet teapot", "order-1234", "."]
RULE = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["one", "two", "three"]),
        "category": st.sampled_from(["prv", "hte"]),
        "action": st.sampled_from(["allow", "flag", "redact", "steer", "block"]),
        "phrases": st.lists(
            st.sampled_from(["zephyr lantern", "amber quokka", "violet teapot"]),
            min_size=1,
            max_size=2,
            unique=True,
        ),
    },
    optional={
        "stages": st.sampled_from([["prompt"], ["output"], ["prompt", "output"]]),
        "mode": st.sampled_from(["enforce", "monitor"]),
        "boundary": st.sampled_from(["word", "none"]),
        "disguises": st.sampled_from(["all", "none", ["leet"]]),
        "regexes": st.just(["order-[0-9]{4}"]),
    },
)
RULES = st.lists(RULE, max_size=3, unique_by=lambda rule: rule["id"])
POLICY = st.fixed_dictionaries(
    {"rules": RULES}, optional={"mode": st.sampled_from(["enforce", "monitor"])}
)
MESSAGES = st.sampled_from([{"en": "No."}, {"en": "Nope.", "de": "Nein."}])
TENANT = st.fixed_dictionaries(
    {},
    optional={
        "mode": st.sampled_from(["enforce", "monitor"]),
        "policy": st.just("../own.yaml"),
        "overrides": st.fixed_dictionaries(
            {"rules": RULES},
            optional={
                "on_tier_failure": st.sampled_from(["close", "open"]),
                "messages": MESSAGES,
            },
        ),
        "canary": st.just({"policy": "../own.yaml", "share": 0.5}),
    },
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("server")
    (made / "tenants").mkdir(mode=0o700)
    (made / "prism.yaml").write_text("policy: house.yaml\nfloor: floor.yaml\ntenants: tenants/\n")
    return made


def put(path: Path, data: dict[str, Any]) -> None:
    path.touch(0o600)
    path.write_text(json.dumps(data))


@settings(deadline=None, max_examples=60)
@given(floor=POLICY, house=POLICY, own=POLICY, inherits=st.booleans(), tenant=TENANT)
def test_no_tenants_file_loosens_the_floor(folder, floor, house, own, inherits, tenant):
    more = {"extends": "floor.yaml"} if inherits else {}
    put(folder / "floor.yaml", {"prism": 1, "id": "floor", **floor})
    put(folder / "house.yaml", {"prism": 1, "id": "house", **house})
    put(folder / "own.yaml", {"prism": 1, "id": "own", **own, **more})
    put(folder / "tenants" / "acme.yaml", {"prism": 1, "tenant": "acme", **tenant})
    held = load_policy(folder / "floor.yaml")
    loaded = Settings.load(folder / "prism.yaml")
    assert loaded.tenants is not None
    lowest = Moderator(held)
    for policy in loaded.tenants.directory.tenants["acme"].policies:
        assert missing_from(policy, held) == ()
        assert missing_from(loaded.strictest, policy) == ()
        if held.mode is Mode.ENFORCE:
            assert policy.mode is Mode.ENFORCE
        assert policy.on_tier_failure == "close"
        effective = Moderator(policy)
        for text in TEXTS:
            assert effective.check_prompt(text).action >= lowest.check_prompt(text).action
            assert effective.check_output(text).action >= lowest.check_output(text).action


def test_a_thousand_tenants_share_what_is_compiled(tmp_path: Path):
    (tmp_path / "tenants").mkdir(mode=0o700)
    put(tmp_path / "prism.yaml", {"policy": "default", "floor": "strict", "tenants": "tenants/"})
    pepper = Pepper.random()
    (tmp_path / "tenants/.pepper").touch(0o600)
    (tmp_path / "tenants/.pepper").write_bytes(pepper.secret)
    rule = {"id": "own", "category": "prv", "action": "block", "phrases": ["zephyr lantern"]}
    kinds: list[dict[str, Any]] = [
        {},
        {"policy": "family"},
        {"overrides": {"rules": [rule]}},
        {"overrides": {"rules": [{**rule, "phrases": ["zephyr lantern", "zephyr lantern"]}]}},
    ]
    texts: dict[str, str] = {}
    for number in range(1000):
        key = pepper.new_key()
        texts[f"t{number}"] = key.text
        entry = {"id": key.id, "hash": key.hash, "created": "2026-11-01T00:00:00Z"}
        data = {"prism": 1, "tenant": f"t{number}", "keys": [entry], **kinds[number % 4]}
        put(tmp_path / "tenants" / f"t{number}.yaml", data)
    loaded = Settings.load(tmp_path / "prism.yaml")
    assert loaded.tenants is not None
    tenants = loaded.tenants.directory
    for number in range(1000):
        tenant = tenants.find(texts[f"t{number}"], 0).tenant
        assert tenant is not None
        assert tenant.id == f"t{number}"
        # By digest: what is written differently and means the same is the same.
        alike = tenants.tenants[f"t{min(number % 4, 2)}"]
        assert tenant.policy is alike.policy
        for stage in Stage:
            assert Matcher.compile(tenant.policy, stage) is Matcher.compile(alike.policy, stage)
    assert len(tenants.policies) == 3
    assert tenants.tenants["t0"].policy is loaded.policies[loaded.policy.digest]
