"""The policies that come with the project: clean, tested, and ordered by strictness."""

from __future__ import annotations

import pytest

from prism.documents import shipped_dir
from prism.policy import SELFTEST_RULE, load_policy, missing_from, shipped_names
from prism.policy.lint import lint
from prism.policy.testing import load_suite, run_suite, suite_path

NAMES = ("default", "family", "permissive", "strict")


def test_what_is_shipped():
    assert shipped_names() == NAMES


@pytest.mark.parametrize("path", sorted(shipped_dir().glob("*.yaml")), ids=lambda p: p.name)
def test_lint_has_nothing_to_say(path):
    assert lint(path) == ()


@pytest.mark.parametrize("name", NAMES)
def test_the_suite_path_it_pass(name):
    failed = [str(o) for o in run_suite(load_suite(name)) if not o.passed]
    assert failed == []


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_is_tested(name):
    """Each rule that the file itself brings or changes has a text that it must fire on."""
    from prism.policy.compiler import compose_policy

    own = {entry.id for entry in compose_policy(name).layers[-1].file.rules}
    fired = {rule for outcome in run_suite(load_suite(name)) for rule in outcome.rules}
    assert own - fired == set()


def test_strict_and_family_loosen_nothing():
    default, strict, family = (load_policy(n) for n in ("default", "strict", "family"))
    assert missing_from(strict, default) == ()
    assert missing_from(family, strict) == ()


def test_permissive_loosens_actions_only():
    default, permissive = load_policy("default"), load_policy("permissive")
    for rule in default.rules:
        assert permissive.rule(rule.id).phrases == rule.phrases
    assert all(permissive.rule(r.id).action <= r.action for r in default.rules)


def test_every_shipped_policy_has_its_tests_and_a_rationale():
    for name in NAMES:
        assert suite_path(name).is_file()
        assert load_suite(name).tests
        text = (shipped_dir() / f"{name}.yaml").read_text()
        assert "\nrationale:" in text
        assert load_policy(name).rule(SELFTEST_RULE)
