"""Thresholds, tiers and plain language in policy files: what they come to, and their tests."""

from __future__ import annotations

import pytest
from tests.scores import FakeGuard, models

from prism.classify.models import ModelsError
from prism.policy import load_policy
from prism.policy.canonical import canonical
from prism.policy.compiler import compose_policy
from prism.policy.compose import apply_floor
from prism.policy.diff import diff
from prism.policy.show import explain
from prism.policy.testing import load_suite, run_suite
from prism.types import Stage

HEAD = "prism: 1\nid: house\n"
RULE = "rules:\n  - {{id: a, category: prv, action: block, {}}}\n"


@pytest.mark.parametrize(
    ("keys", "tiers", "on"),
    [
        ("phrases: [zephyr lantern]", "", ""),
        ("thresholds: 0.8", "", "sketch encoder"),
        ("plain_language: Gives advice.", "", "guard"),
        ("thresholds: 0.8, plain_language: Gives advice.", "", "guard"),
        ("thresholds: 0.8", "tiers: {encoder: off}\n", "sketch"),
        ("thresholds: 0.8", "tiers: {sketch: off, encoder: off}\n", ""),
        ("phrases: [zephyr lantern]", "tiers: {sketch: on, guard: on}\n", "sketch guard"),
        ("plain_language: Gives advice.", "tiers: {guard: off}\n", ""),
    ],
)
def test_a_tier_that_nobody_mentions_is_on_where_a_rule_needs_it(write, keys, tiers, on):
    policy = load_policy(write(HEAD + tiers + RULE.format(keys)))
    assert " ".join(tier for tier, state in policy.tiers.items() if state == "on") == on


@pytest.mark.parametrize(
    ("keys", "thresholds"),
    [
        ("thresholds: 0.8", {Stage.PROMPT: 0.8, Stage.OUTPUT: 0.8}),
        ("thresholds: 0.8, stages: [prompt]", {Stage.PROMPT: 0.8}),
        ("thresholds: {output: 0.7}", {Stage.OUTPUT: 0.7}),
        ("plain_language: Gives advice.", {Stage.PROMPT: 0.5, Stage.OUTPUT: 0.5}),
        (
            "plain_language: Gives advice., thresholds: {output: 0.7}",
            {Stage.PROMPT: 0.5, Stage.OUTPUT: 0.7},
        ),
        ("phrases: [zephyr lantern]", None),
    ],
)
def test_thresholds_in_effect(write, keys, thresholds):
    rule = load_policy(write(HEAD + RULE.format(keys))).rule("a")
    assert rule.thresholds == thresholds


def test_overall_harm_is_a_category_of_thresholds(write):
    path = write(HEAD + RULE.format("thresholds: 0.8").replace("prv", "harm"))
    assert load_policy(path).rule("a").category == "harm"


def test_everything_of_it_is_in_the_digest_and_in_what_is_shown(write):
    one = load_policy(write(HEAD + RULE.format("thresholds: 0.8")))
    more = "unknown_language: flag\n"
    path = write(HEAD + more + RULE.format("thresholds: {prompt: 0.7, output: 0.8}"))
    two = load_policy(path)
    assert one.digest != two.digest
    assert canonical(two)["unknown_language"] == "flag"
    assert [(c.rule, c.key, c.direction) for c in diff(one, two)] == [
        ("", "unknown_language", "stricter"),
        ("a", "thresholds", "stricter"),
    ]
    rows = {(row.rule, row.key): row for row in explain(two, (compose_policy(path),))}
    assert rows["", "unknown_language"].origins == ("house.yaml:3",)
    assert rows["", "tiers.sketch"].value == "on"
    assert rows["a", "thresholds"].origins == ("house.yaml:5",)


def test_a_floor_that_acts_on_scores_in_the_sampler_does_so_in_whatever_is_above(write):
    on = load_policy(write(HEAD + RULE.format("thresholds: 0.8")))
    path = write(HEAD + "token_scores: off\n" + RULE.format("thresholds: 0.8"))
    off = load_policy(path)
    assert (on.token_scores, off.token_scores) == ("on", "off")
    assert on.digest != off.digest
    assert [(c.key, c.direction) for c in diff(on, off)] == [("token_scores", "looser")]
    assert [(c.key, c.direction) for c in diff(off, on)] == [("token_scores", "stricter")]
    rows = {row.key: row for row in explain(off, (compose_policy(path),))}
    assert rows["token_scores"].origins == ("house.yaml:3",)
    assert apply_floor(off, on).token_scores == "on"
    assert apply_floor(on, off).token_scores == "on"
    assert apply_floor(off, off).token_scores == "off"


TESTS = """\
tests:
  - name: as told
    stage: prompt
    text: "[s9] [e9:prv] [e7]"
    expect: block
    categories: [prv]
    scores: {prv: {at_least: 0.9}, harm: {at_least: 0.5, below: 0.8}}
  - name: category
    stage: prompt
    text: a mild text
    expect: allow
    categories: [prv]
  - name: too low
    stage: output
    text: "[s3] [e3:prv]"
    expect: allow
    scores: {prv: {at_least: 0.5}}
  - name: too high
    stage: output
    text: "[s3] [e3:prv]"
    expect: allow
    scores: {prv: {below: 0.2}}
  - name: not scored
    stage: output
    text: a mild text
    expect: allow
    scores: {ele: {below: 0.2}}
"""


def test_tests_can_say_what_is_scored(write):
    write(HEAD + RULE.format("thresholds: 0.8"))
    write(TESTS, "house.tests.yaml")
    assert [outcome.why for outcome in run_suite(load_suite("house.yaml"), models())] == [
        "",
        "nothing of the category prv fired",
        "expected prv of at least 0.5, got 0.300",
        "expected prv below 0.2, got 0.300",
        "no tier scored ele",
    ]


def test_tests_of_plain_language_need_a_guard(write):
    write(HEAD + RULE.format("plain_language: zephyr lantern"))
    write(
        "tests:\n  - {name: a, stage: prompt, text: my zephyr lantern, expect: block, rule: a}\n",
        "house.tests.yaml",
    )
    (outcome,) = run_suite(load_suite("house.yaml"), models(guard=FakeGuard()))
    assert outcome.passed
    with pytest.raises(ModelsError, match="needs a guard model"):
        run_suite(load_suite("house.yaml"), models())
