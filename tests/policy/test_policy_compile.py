"""What a policy file comes to: inheritance, defaults, and the digest."""

from __future__ import annotations

import pytest

from prism.policy import SELFTEST_PHRASE, SELFTEST_RULE, load_policy
from prism.types import Action, Boundary, Disguise, Mode, Stage

SMALLEST = """\
prism: 1
id: example
extends: default
rules:
  - id: code-names
    category: prv
    stages: [prompt, output]
    phrases: ["zephyr lantern"]
    action: block
"""


def test_the_smallest_policy_is_valid_as_it_stands(write):
    policy = load_policy(write(SMALLEST))
    rule = policy.rule("code-names")
    assert policy.id == "example"
    assert rule.phrases == ("zephyr lantern",)
    assert rule.action is Action.BLOCK
    assert rule.stages == {Stage.PROMPT, Stage.OUTPUT}
    assert {r.id for r in load_policy("default").rules} < {r.id for r in policy.rules}


def test_what_nobody_wrote(write):
    policy = load_policy(
        write(
            "prism: 1\nid: a\nrules:\n  - {id: r, category: prv, action: flag, phrases: [ab cd]}\n"
        )
    )
    rule = policy.rule("r")
    assert (rule.stages, rule.mode) == (frozenset(Stage), Mode.ENFORCE)
    assert (rule.boundary, rule.disguises) == (Boundary.WORD, frozenset(Disguise))
    assert (policy.mode, policy.locale, policy.on_tier_failure) == (Mode.ENFORCE, "en", "close")
    assert policy.message("xx") == "I can't help with that."
    assert set(policy.tiers.values()) == {"off"}


def test_every_policy_carries_the_self_test_rule(write):
    for mode in ("enforce", "monitor"):
        rule = load_policy(write(f"prism: 1\nid: a\nmode: {mode}\n")).rule(SELFTEST_RULE)
        assert rule.phrases == (SELFTEST_PHRASE,)
        assert (rule.action, rule.mode, rule.category) == (Action.BLOCK, Mode.ENFORCE, "tst")


def test_a_child_changes_only_the_keys_it_names(write):
    write(
        "prism: 1\nid: base\nlocale: de\nmessages: {de: Nein., en: No.}\nrules:\n"
        "  - {id: r, category: prv, action: block, stages: [output], phrases: [ab cd]}\n",
        "base.yaml",
    )
    child = load_policy(
        write(
            "prism: 1\nid: a\nextends: base.yaml\nmessages: {en: Nope.}\nrules:\n"
            "  - {id: r, action: flag}\n"
        )
    )
    rule = child.rule("r")
    assert (rule.action, rule.category, rule.phrases) == (Action.FLAG, "prv", ("ab cd",))
    assert rule.stages == {Stage.OUTPUT}
    assert (child.message(), child.message("en"), child.message("en-GB")) == (
        "Nein.",
        "Nope.",
        "Nope.",
    )


def test_extends_is_relative_to_the_file_that_says_it(write):
    write("prism: 1\nid: base\nlocale: de\nmessages: {de: Nein.}\n", "common/base.yaml")
    write("prism: 1\nid: mid\nextends: ../common/base.yaml\n", "teams/mid.yaml")
    write("prism: 1\nid: house\nextends: teams/mid.yaml\n")
    assert load_policy("house.yaml").message() == "Nein."


def test_allow_switches_an_inherited_rule_off(write):
    policy = load_policy(
        write("prism: 1\nid: a\nextends: default\nrules:\n  - {id: injection, action: allow}\n")
    )
    assert "injection" not in {rule.id for rule in policy.rules}


def test_a_policy_in_monitor_mode_monitors_every_rule(write):
    policy = load_policy(write("prism: 1\nid: a\nextends: default\nmode: monitor\n"))
    modes = {rule.mode for rule in policy.rules if rule.id != SELFTEST_RULE}
    assert modes == {Mode.MONITOR}


def test_short_forms(write):
    policy = load_policy(
        write(
            "prism: 1\nid: a\nrules:\n"
            "  - id: r\n    category: prv\n    action: block\n    disguises: none\n"
            "    regexes: ['AB[0-9]{2}', {pattern: 'cd', ignore_case: false}]\n"
            "    thresholds: 0.5\n"
        )
    )
    rule = policy.rule("r")
    assert rule.disguises == frozenset()
    assert [(r.pattern, r.ignore_case, r.max_width) for r in rule.regexes] == [
        ("AB[0-9]{2}", True, 4),
        ("cd", False, 2),
    ]
    assert rule.thresholds == {Stage.PROMPT: 0.5, Stage.OUTPUT: 0.5}


def test_keys_are_text_whatever_they_look_like(write):
    policy = load_policy(write('prism: 1\nid: a\nlocale: no\nmessages: {no: "Nei."}\n'))
    assert policy.message() == "Nei."


RULES = (
    "  - {id: one, category: prv, action: block, phrases: [ab cd, ef gh]}\n",
    "  - {id: two, category: hte, action: flag, stages: [output], regexes: [xy, zz]}\n",
)


def test_order_names_and_comments_do_not_change_the_digest(write):
    a = load_policy(write("prism: 1\nid: a\nrules:\n" + "".join(RULES)))
    b = load_policy(
        write(
            "# house rules\nid: b\nprism: 1\nrationale: None needed.\nrules:\n"
            "  - {regexes: [zz, xy, xy], id: two, category: hte, action: flag, stages: [output]}\n"
            "  - {id: one, phrases: [ef gh, ab cd, ab cd], category: prv, action: block}\n"
        )
    )
    assert a.digest == b.digest
    assert a.rules == b.rules
    assert len(a.digest) == 64


@pytest.mark.parametrize(
    "change",
    [
        ("action: block", "action: flag"),
        ("ab cd", "ab cde"),
        ("category: hte", "category: tox"),
        ("stages: [output]", "stages: [prompt]"),
        ("id: one", "id: uno"),
        ("[xy, zz]", "[xy]"),
        ("id: one,", "id: one, mode: monitor,"),
        ("id: one,", "id: one, boundary: none,"),
        ("id: one,", "id: one, disguises: none,"),
        ("id: one,", "id: one, thresholds: 0.5,"),
        ("id: a\n", "id: a\nmessages: {en: Nope.}\n"),
        ("id: a\n", "id: a\non_tier_failure: open\n"),
        ("id: a\n", "id: a\nmode: monitor\n"),
    ],
)
def test_whatever_changes_behaviour_changes_the_digest(write, change):
    text = "prism: 1\nid: a\nrules:\n" + "".join(RULES)
    assert change[0] in text
    before = load_policy(write(text)).digest
    assert load_policy(write(text.replace(*change))).digest != before


def test_the_flat_form_of_a_policy_does_the_same(write):
    from prism.policy.compiler import compose_policy
    from prism.policy.show import explain, to_yaml

    for name in ("default", "strict", "family", "permissive"):
        policy = load_policy(name)
        flat = to_yaml(policy, explain(policy, (compose_policy(name),)))
        assert load_policy(write(flat, "flat.yaml")).digest == policy.digest
