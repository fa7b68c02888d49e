"""A floor holds against every tenant file that can be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scores import FakeGuard, models

from prism.moderator import Moderator
from prism.policy import SELFTEST_RULE, load_policy, missing_from, stricter
from prism.types import Action, Mode, Stage

ALL = "sketch encoder guard"
PHRASES = ["zephyr lantern", "amber quokka", "violet teapot", "lantern", "q7 marmalade"]
REGEXES = ["order-[0-9]{4}", r"\bteapot\b", "[xy]{3}"]
TEXTS = [
    "",
    "nothing to see",
    "Zephyr Lantern",
    "a zephyr lantern and an amber quokka",
    "z e p h y r  l a n t e r n",
    "v1olet te4pot",
    "violetteapot",
    "lanterns",
    "order-1234 for q7 marmalade",
    "xyx",
]


def some(items: list[str], least: int = 0) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(items), min_size=least, max_size=3, unique=True)


RULE = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["one", "two", "three"]),
        "category": st.sampled_from(["prv", "hte"]),
        "action": st.sampled_from(["allow", "flag", "redact", "steer", "block"]),
        "phrases": some(PHRASES, 1),
    },
    optional={
        "stages": some(["prompt", "output"], 1),
        "mode": st.sampled_from(["enforce", "monitor"]),
        "boundary": st.sampled_from(["word", "none"]),
        "disguises": some(["spacing", "leet", "repeats", "rot13"]),
        "regexes": some(REGEXES),
        "thresholds": st.sampled_from([0.2, 0.9]),
        "pii": some(["email", "phone"]),
        "plain_language": st.sampled_from(["Gives advice.", "Names names."]),
    },
)
POLICY = st.fixed_dictionaries(
    {"rules": st.lists(RULE, max_size=3, unique_by=lambda rule: rule["id"])},
    optional={
        "mode": st.sampled_from(["enforce", "monitor"]),
        "on_tier_failure": st.sampled_from(["close", "open"]),
        "messages": st.sampled_from([{"en": "No."}, {"en": "Nope.", "de": "Nein."}]),
        "tiers": st.dictionaries(
            st.sampled_from(["sketch", "encoder", "guard"]), st.sampled_from(["on", "off"])
        ),
        "unknown_language": st.sampled_from(["allow", "flag", "block"]),
    },
)
SCORED = [
    "[s1] [e9] nothing but a score",
    "[s9:prv] [e9:prv]",
    "[s5:prv] [e5:prv] [g9]",
    "[s9] [e1:hte] [e3:prv]",
    "[s3:hte] [e3:hte] gives advice.",
    "Das ist ein harmloser Satz, und noch einer ist es auch.",
]
"""What the models of ``tests.scores`` say something of, and a language they weren't measured on."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("floors")


def write(folder: Path, name: str, policy: dict[str, Any], **more: Any) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({"prism": 1, "id": name, **policy, **more}))  # JSON is YAML
    return path


@settings(deadline=None, max_examples=100)
@given(floor=POLICY, tenant=POLICY, inherits=st.booleans())
def test_no_tenant_file_can_loosen_a_floor(folder, floor, tenant, inherits):
    floor_path = write(folder, "floor", floor)
    more = {"extends": "floor.yaml"} if inherits else {}
    tenant_path = write(folder, "tenant", tenant, **more)
    held = load_policy(floor_path)
    effective = load_policy(tenant_path, floor=floor_path)
    assert missing_from(effective, held) == ()
    assert missing_from(effective, load_policy(tenant_path)) == ()  # nor is the tenant's own lost
    assert effective.id == "tenant"
    if held.on_tier_failure == "close":
        assert effective.on_tier_failure == "close"
    order = ["allow", "flag", "block"].index
    assert order(effective.unknown_language) >= order(held.unknown_language)
    assert all(effective.tiers[tier] == "on" for tier, state in held.tiers.items() if state == "on")
    if held.mode is Mode.ENFORCE:
        assert effective.mode is Mode.ENFORCE


@settings(deadline=None, max_examples=40)
@given(floor=POLICY, tenant=POLICY, inherits=st.booleans())
def test_what_the_floor_does_to_a_text_is_done_at_least(folder, floor, tenant, inherits):
    for file in (floor, tenant):
        file.pop("unknown_language", None)  # of the policy, so in monitor mode with it or not
    floor_path = write(folder, "floor", floor)
    more = {"extends": "floor.yaml"} if inherits else {}
    tenant_path = write(folder, "tenant", tenant, **more)
    made = models(guard=FakeGuard())
    each = [
        Moderator(load_policy(floor_path), made),
        Moderator(load_policy(tenant_path), made),
        Moderator(load_policy(tenant_path, floor=floor_path), made),
    ]
    for text in TEXTS:
        for stage in Stage:
            ours, tenants, effective = (
                m.check_prompt(text) if stage is Stage.PROMPT else m.check_output(text)
                for m in each
            )
            # Exactly the stricter of both: no looser than the floor, no harsher than either asked.
            assert effective.action == max(ours.action, tenants.action), (text, stage)
            assert effective.would == max(ours.would, tenants.would), (text, stage)


@settings(deadline=None, max_examples=100)
@given(floor=POLICY, tenant=POLICY, on=st.sampled_from(["sketch", "sketch encoder", "guard", ALL]))
def test_what_scores_make_the_floor_do_is_done_at_least(folder, floor, tenant, on):
    tiers = {tier: "on" if tier in on else "off" for tier in ALL.split()}
    floor_path = write(folder, "floor", {**floor, "tiers": tiers})
    tenant_path = write(folder, "tenant", {**tenant, "tiers": tiers})
    made = models(guard=FakeGuard())
    held = Moderator(load_policy(floor_path), made)
    effective = Moderator(load_policy(tenant_path, floor=floor_path), made)
    for text in SCORED:
        for check in ("check_prompt", "check_output"):
            ours, theirs = getattr(held, check)(text), getattr(effective, check)(text)
            assert theirs.action >= ours.action, (text, check)
            assert theirs.would >= ours.would, (text, check)


@pytest.mark.parametrize(
    ("strict", "loose", "holds"),
    [
        ("thresholds: 0.5", "thresholds: 0.8", True),
        ("thresholds: 0.8", "thresholds: 0.5", False),
        ("thresholds: {prompt: 0.5}", "thresholds: {prompt: 0.5, output: 0.9}", False),
        ("thresholds: 0.5", "thresholds: {output: 0.9}", True),
        # What a guard says of a sentence is another thing than a category's score.
        ("thresholds: 0.1, plain_language: Gives advice.", "thresholds: 0.5", False),
        ("thresholds: 0.4, plain_language: Gives advice.", "plain_language: Gives advice.", True),
        ("thresholds: 0.6, plain_language: Gives advice.", "plain_language: Gives advice.", False),
        ("plain_language: Names names.", "plain_language: Gives advice.", False),
    ],
)
def test_which_threshold_is_stricter_can_be_told_without_running(folder, strict, loose, holds):
    head = "prism: 1\nid: {}\nrules: [{{id: r, category: prv, action: block, {}}}]\n"
    paths = [folder / "strict.yaml", folder / "loose.yaml"]
    for path, keys in zip(paths, (strict, loose), strict=True):
        path.write_text(head.format(path.stem, keys))
    above, below = map(load_policy, paths)
    assert (missing_from(above, below) == ()) is holds
    assert missing_from(load_policy(paths[0], floor=paths[1]), below) == ()


@settings(deadline=None, max_examples=100)
@given(one=POLICY, two=POLICY)
def test_stricter_is_the_same_either_way_round(folder, one, two):
    a, b = load_policy(write(folder, "one", one)), load_policy(write(folder, "two", two))
    assert stricter(a, b).digest == stricter(b, a).digest
    assert stricter(a, a).digest == a.digest
    assert stricter(stricter(a, b), b).digest == stricter(a, b).digest
    ids = [rule.id for rule in stricter(a, b).rules]
    assert len(ids) == len(set(ids))


FLOOR = {
    "messages": {"en": "The floor says no.", "fr": "Non."},
    "rules": [{"id": "r", "category": "prv", "action": "block", "phrases": ["zephyr lantern"]}],
}


@pytest.mark.parametrize(
    "change",
    [
        {"action": "allow"},
        {"action": "flag"},
        {"mode": "monitor"},
        {"phrases": ["amber quokka"]},
        {"phrases": []},
        {"stages": ["output"]},
        {"disguises": "none"},
        {"category": "hte"},
    ],
    ids=str,
)
def test_each_way_to_loosen_a_rule(folder, change):
    floor = write(folder, "floor", FLOOR)
    rule = {"id": "r", "regexes": ["never-[0-9]{4}"], **change}
    tenant = write(folder, "tenant", {"rules": [rule]}, extends="floor.yaml")
    assert Moderator(load_policy(tenant)).check_prompt("z3phyr lantern").action < Action.BLOCK or (
        change == {"category": "hte"}
    )
    effective = load_policy(tenant, floor=floor)
    assert Moderator(effective).check_prompt("z3phyr lantern").blocked
    assert effective.rule("r").action is Action.BLOCK
    assert "zephyr lantern" in effective.rule("r").phrases


def test_a_policy_in_monitor_mode_is_still_held_to_the_floor(folder):
    floor = write(folder, "floor", FLOOR)
    own = {"id": "mine", "category": "hte", "action": "block", "phrases": ["amber quokka"]}
    tenant = write(folder, "tenant", {"mode": "monitor", "rules": [own]}, extends="floor.yaml")
    moderator = Moderator(load_policy(tenant, floor=floor))
    assert moderator.check_prompt("zephyr lantern").blocked
    watched = moderator.check_prompt("amber quokka")  # the tenant's own rule stays a trial
    assert (watched.action, watched.would) == (Action.ALLOW, Action.BLOCK)


def test_the_tenants_own_words_are_kept(folder):
    floor = write(folder, "floor", FLOOR)
    tenant = write(folder, "tenant", {"messages": {"en": "Sorry.", "de": "Leider nein."}})
    effective = load_policy(tenant, floor=floor)
    assert effective.messages == {"en": "Sorry.", "de": "Leider nein.", "fr": "Non."}


def test_rules_of_one_id_that_cannot_be_joined_stand_side_by_side(folder):
    floor = write(folder, "floor", FLOOR)
    rule = {"id": "r", "category": "prv", "action": "flag", "phrases": ["amber quokka"]}
    tenant = write(folder, "tenant", {"rules": [rule]})
    effective = load_policy(tenant, floor=floor)
    assert [(r.id, str(r.action)) for r in effective.rules if r.id != SELFTEST_RULE] == [
        ("r", "block"),
        ("r#2", "flag"),
    ]
