"""Tests beside a policy: what they can say, and what is said of mistakes in them."""

from __future__ import annotations

import pytest

from prism.policy import PolicyError
from prism.policy.testing import load_suite, run_suite

POLICY = (
    "prism: 1\nid: house\nrules:\n"
    "  - {id: names, category: prv, action: block, phrases: [zephyr lantern]}\n"
    "  - {id: orders, category: prv, action: redact, stages: [output],"
    " regexes: ['order-[0-9]{4}']}\n"
    "  - {id: trial, category: hte, action: block, mode: monitor, phrases: [amber quokka]}\n"
)


def outcomes(write, tests: str) -> list[str]:
    write(POLICY)
    write("tests:\n" + tests, "house.tests.yaml")
    return [outcome.why for outcome in run_suite(load_suite("house.yaml"))]


def test_what_passes(write):
    assert outcomes(
        write,
        "  - {name: a, stage: prompt, text: my zephyr lantern, expect: block, rule: names}\n"
        "  - {name: b, stage: prompt, texts: [a lantern, a zephyr], expect: allow}\n"
        "  - {name: c, stage: output, text: it is order-1234., expect: redact,"
        " redacted: 'it is [redacted].'}\n"
        "  - {name: d, stage: prompt, text: amber quokka, expect: allow, would: block}\n",
    ) == ["", "", "", "", ""]


def test_what_fails_and_why(write):
    assert outcomes(
        write,
        "  - {name: a, stage: prompt, text: my zephyr lantern, expect: flag}\n"
        "  - {name: b, stage: prompt, text: zephyr lantern, expect: block, rule: trial}\n"
        "  - {name: c, stage: output, text: order-1234, expect: redact, redacted: gone}\n"
        "  - {name: d, stage: prompt, text: amber, expect: allow, would: block}\n"
        "  - {name: e, stage: prompt, text: zephyr lantern, expect: [allow, flag]}\n"
        "  - {name: f, stage: prompt, text: zephyr lantern, expect: [flag, block]}\n",
    ) == [
        "expected flag, got block",
        "the rule trial did not fire",
        "expected 'gone', got '[redacted]'",
        "expected that it would block, got allow",
        "expected allow or flag, got block",
        "",
    ]


def test_a_failure_names_its_line(write):
    write(POLICY)
    write(
        "tests:\n  - name: two texts\n    stage: prompt\n    texts:\n      - fine\n"
        "      - zephyr lantern\n    expect: allow\n",
        "house.tests.yaml",
    )
    failed = [o for o in run_suite(load_suite("house.yaml")) if not o.passed]
    assert [(o.file, o.line, o.rules) for o in failed] == [("house.tests.yaml", 6, ("names",))]


def test_tests_above_a_floor(write):
    write(POLICY, "floor.yaml")
    write("prism: 1\nid: house\n")
    write(
        "floor: floor.yaml\ntests:\n"
        "  - {name: a, stage: prompt, text: zephyr lantern, expect: block}\n",
        "house.tests.yaml",
    )
    assert all(o.passed for o in run_suite(load_suite("house.yaml")))


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (
            "{name: a, stage: prompt, text: x, expect: block, rule: nams}",
            "house.tests.yaml:2:60: tests[0].rule: 'nams' is not a rule in effect of the policy; "
            "did you mean 'names'?",
        ),
        (
            "{name: a, stage: prompt, expect: block}",
            "house.tests.yaml:2:5: tests[0]: a test has either `text` or `texts`; "
            "give exactly one of them",
        ),
        (
            "{name: a, stage: prompt, text: x, expect: block, redacted: y}",
            "house.tests.yaml:2:64: tests[0].redacted: `redacted` goes with one `text` at stage "
            "`output`; remove it, or split the test",
        ),
        (
            "{name: a, stage: prompt, text: x, expects: block}",
            "house.tests.yaml:2:5: tests[0].expect: is missing; add it, for example "
            "`expect: block`\n"
            "house.tests.yaml:2:39: tests[0].expects: is not a known key; did you mean 'expect'?",
        ),
    ],
)
def test_mistakes(write, test, message):
    write(POLICY)
    write(f"tests:\n  - {test}\n", "house.tests.yaml")
    with pytest.raises(PolicyError) as caught:
        load_suite("house.yaml")
    assert str(caught.value) == message


def test_a_policy_without_tests(write):
    write(POLICY)
    with pytest.raises(PolicyError) as caught:
        load_suite("house.yaml")
    assert str(caught.value) == ("house.yaml: has no tests; write its tests into house.tests.yaml")
