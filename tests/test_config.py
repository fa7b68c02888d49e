"""What a server starts with, and what it is told when that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from prism.config import ConfigError, Limits, Settings
from prism.policy import SELFTEST_PHRASE, load_policy
from prism.types import Action

POLICY = (
    "prism: 1\nid: house\nrules:\n"
    "  - {id: names, category: prv, action: block, phrases: [zephyr lantern]}\n"
)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("house.yaml").write_text(POLICY)
    return tmp_path


def test_nothing_set_means_the_default_policy():
    settings = Settings.from_env({})
    assert settings.policy == load_policy("default")
    assert settings.limits == Limits(max_body_bytes=2_000_000, max_prompt_chars=1_000_000)
    assert settings.limits.max_choices == 16
    assert Settings.from_env({"PRISM_POLICY": "", "PRISM_CONFIG": ""}).policy == settings.policy


def test_a_policy_alone(here):
    assert Settings.from_env({"PRISM_POLICY": "house.yaml"}).policy.id == "house"
    assert Settings.from_env({"PRISM_POLICY": "strict"}).policy.id == "strict"


def test_a_configuration_file(here):
    (here / "etc").mkdir()
    (here / "etc/prism.yaml").write_text(
        "policy: ../house.yaml\nfloor: default\nlimits: {max_choices: 4}\n"
    )
    settings = Settings.from_env({"PRISM_CONFIG": "etc/prism.yaml"})
    assert settings.policy.id == "house"
    assert settings.policy.rule("weapons").action is Action.BLOCK
    assert settings.limits.max_choices == 4
    assert settings.limits.max_body_bytes == 2_000_000


def test_the_environments_policy_is_held_to_the_files_floor(here):
    (here / "prism.yaml").write_text("policy: default\nfloor: strict\n")
    settings = Settings.from_env({"PRISM_CONFIG": "prism.yaml", "PRISM_POLICY": "house.yaml"})
    assert settings.policy.id == "house"
    assert settings.policy.rule("names")
    assert settings.policy.rule("self-harm").action is Action.BLOCK


def test_policies_and_the_strictest(here):
    one, two = load_policy("house.yaml"), load_policy("permissive")
    settings = Settings(one, others=(two,))
    assert settings.policies == {one.digest: one, two.digest: two}
    strictest = settings.strictest
    assert strictest.id == "strictest"
    assert strictest.rule("names").action is Action.BLOCK
    assert strictest.rule("weapons").action is Action.BLOCK
    assert strictest.digest == Settings(two, others=(one,)).strictest.digest
    assert Settings(one).strictest is one


def test_the_self_test_phrase_is_in_every_policy():
    assert SELFTEST_PHRASE in Settings.from_env({}).strictest.rule("prism.selftest").phrases


WRONG = {
    "misspelt key": (
        "polcy: house.yaml\n",
        "prism.yaml:1:1: polcy: is not a known key; did you mean 'policy'?",
    ),
    "missing policy": (
        "policy: hose.yaml\n",
        "prism.yaml:1:9: policy: no such file: hose.yaml; check the path, relative to this file",
    ),
    "missing floor": (
        "policy: house.yaml\nfloor: floors/floor.yaml\n",
        "prism.yaml:2:8: floor: no such file: floors/floor.yaml; "
        "check the path, relative to this file",
    ),
    "unknown shipped floor": (
        "floor: strictest\n",
        "prism.yaml:1:8: floor: 'strictest' is not the name of a shipped policy; "
        "did you mean 'strict'?",
    ),
    "limit of the wrong type": (
        "limits: {max_choices: many}\n",
        "prism.yaml:1:23: limits.max_choices: must be a whole number, not text; "
        "for example `max_choices: 16`",
    ),
    "limit out of range": (
        "limits: {max_choices: 0}\n",
        "prism.yaml:1:23: limits.max_choices: must be greater than or equal to 1; "
        "for example `max_choices: 16`",
    ),
    "tenants": (
        "policy: house.yaml\ntenants: {}\n",
        "prism.yaml:2:10: tenants: must be text, not keys and values; "
        "put text that holds a colon in quotes",
    ),
    "policy that isn't text": (
        "policy: [house.yaml]\n",
        "prism.yaml:1:9: policy: must be text, not a list; for example `policy: policy.yaml`",
    ),
    "models": (
        "models: {workers: 0}\n",
        "prism.yaml:1:19: models.workers: must be greater than or equal to 1; "
        "for example `workers: 2`",
    ),
    "a policy that needs a guard": (
        "policy: plain.yaml\n",
        "policy 'plain': tiers.guard: needs a guard model, and none is set (rule 'advice' is in "
        "plain language); name one under `guard:` in prism.yaml, or write `tiers: {guard: off}`",
    ),
    "empty": ("", "prism.yaml:1:1: is empty; write at least one `key: value`"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_wrong(here, text, message):
    (here / "plain.yaml").write_text(
        "prism: 1\nid: plain\nrules:\n"
        "  - {id: advice, category: spc, action: block, plain_language: Gives advice.}\n"
    )
    (here / "prism.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"PRISM_CONFIG": "prism.yaml"})
    assert str(caught.value) == message


def test_problems_of_the_file_and_of_its_policy_come_together(here):
    (here / "house.yaml").write_text(POLICY.replace("block", "blok"))
    (here / "prism.yaml").write_text("policy: house.yaml\nflor: x\n")
    with pytest.raises(ConfigError) as caught:
        Settings.load("prism.yaml")
    assert [(p.file, p.line, p.key) for p in caught.value.problems] == [
        ("house.yaml", 4, "rules[0].action"),
        ("prism.yaml", 2, "flor"),
    ]


def test_a_configuration_that_isnt_there(here):
    with pytest.raises(ConfigError, match=r"^nowhere\.yaml: no such file; check the path$"):
        Settings.from_env({"PRISM_CONFIG": "nowhere.yaml"})


def test_a_wrong_policy_from_the_environment(here):
    with pytest.raises(ConfigError, match="is not the name of a shipped policy"):
        Settings.from_env({"PRISM_POLICY": "hose"})


def test_how_models_are_run(here):
    (here / "prism.yaml").write_text("models: {workers: 3, waiting: 5, deadline_ms: 250}\n")
    settings = Settings.load("prism.yaml")
    limits = settings.models.limits
    assert (limits.workers, limits.waiting, limits.deadline_ms) == (3, 5, 250)
    assert settings.models is settings.models
    assert settings.models.guard is None
