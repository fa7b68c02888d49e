"""The examples of docs/policies.md work as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

from prism.config import Settings
from prism.policy import load_policy
from prism.policy.lint import lint
from prism.policy.model import PolicyFile, RuleEntry
from prism.policy.testing import TestEntry, load_suite, run_suite
from prism.taxonomy import SELFTEST_CATEGORY, RiskEntry, taxonomy
from prism.types import Stage

DOCS = Path(__file__).parents[2] / "docs" / "policies.md"
TEXT = DOCS.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


def test_the_example_policy_and_its_tests(write):
    write(BLOCKS[0], "house.yaml")
    write(BLOCKS[1], "house.tests.yaml")
    assert lint("house.yaml") == ()
    outcomes = run_suite(load_suite("house.yaml"))
    assert [o.why for o in outcomes] == [""] * 4


def test_the_policy_with_scores(write):
    write(BLOCKS[2], "workshop.yaml")
    assert lint("workshop.yaml") == ()
    policy = load_policy("workshop.yaml")
    assert policy.rule("fraud-scored").thresholds == {Stage.PROMPT: 0.8}
    assert policy.tiers == {"sketch": "on", "encoder": "on", "guard": "off"}


def test_the_inheriting_policy(write):
    write(BLOCKS[3], "newsroom.yaml")
    assert lint("newsroom.yaml") == ()
    assert load_policy("newsroom.yaml").id == "newsroom"


def test_the_configuration_file(write):
    write(BLOCKS[0], "house.yaml")
    write(BLOCKS[4], "prism.yaml")
    assert Settings.load("prism.yaml").policy.rule("more-cyber")


def test_every_key_is_described():
    for model in (PolicyFile, RuleEntry, TestEntry, RiskEntry):
        for key in model.model_fields:
            assert f"`{key}`" in TEXT, f"{model.__name__}.{key}"


def test_every_category_is_named():
    for key in taxonomy().categories.keys() - {SELFTEST_CATEGORY}:
        assert f"`{key}`" in TEXT
