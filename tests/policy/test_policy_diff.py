"""What two policies do differently, and in which direction."""

from __future__ import annotations

import pytest

from prism.policy import load_policy
from prism.policy.diff import diff

BASE = (
    "prism: 1\nid: a\nrules:\n"
    "  - {id: r, category: prv, action: redact, stages: [output], phrases: [ab cd, ef gh]}\n"
)


def changes(write, old: str, new: str) -> list[tuple[str, str, str]]:
    one, two = load_policy(write(old, "old.yaml")), load_policy(write(new, "new.yaml"))
    return [(c.rule, c.key, c.direction) for c in diff(one, two)]


@pytest.mark.parametrize(
    ("was", "now", "expected"),
    [
        ("id: a\n", "id: b\n# reworded\n", []),
        ("[ab cd, ef gh]", "[ef gh, ab cd]", []),
        ("redact", "block", [("r", "action", "stricter")]),
        ("redact", "flag", [("r", "action", "looser")]),
        ("[ab cd, ef gh]", "[ab cd]", [("r", "phrases", "looser")]),
        ("[ab cd, ef gh]", "[ab cd, ij kl]", [("r", "phrases", "mixed")]),
        ("stages: [output]", "stages: [prompt, output]", [("r", "stages", "stricter")]),
        ("id: r,", "id: r, disguises: none,", [("r", "disguises", "looser")]),
        ("id: r,", "id: r, boundary: none,", [("r", "boundary", "stricter")]),
        ("category: prv", "category: hte", [("r", "category", "mixed")]),
        ("redact", "allow", [("r", "", "looser")]),
        ("id: a\n", "id: a\nmessages: {en: No.}\n", [("", "messages.en", "wording")]),
        ("id: a\n", "id: a\non_tier_failure: open\n", [("", "on_tier_failure", "looser")]),
        ("id: a\n", "id: a\ntiers: {sketch: on}\n", [("", "tiers.sketch", "stricter")]),
        (
            "id: a\n",
            "id: a\nunknown_language: flag\n",
            [("", "unknown_language", "stricter")],
        ),
    ],
)
def test_direction(write, was, now, expected):
    assert was in BASE
    assert changes(write, BASE, BASE.replace(was, now)) == expected


def test_a_new_rule_is_stricter(write):
    more = BASE + "  - {id: s, category: hte, action: flag, phrases: [zephyr lantern]}\n"
    assert changes(write, BASE, more) == [("s", "", "stricter")]


def test_inheritance_alone_is_no_difference(write):
    write(BASE, "base.yaml")
    assert changes(write, BASE, "prism: 1\nid: b\nextends: base.yaml\n") == []
