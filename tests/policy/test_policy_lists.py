"""Phrases in text files beside a policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from prism.moderator import Moderator
from prism.policy import PolicyError, load_policy
from prism.policy.diff import diff
from prism.policy.lint import lint

HEAD = "prism: 1\nid: house\n"
RULE = "rules:\n  - id: names\n    category: prv\n    action: block\n"
FROM = HEAD + RULE + "    phrases_from: names.txt\n"
LIST = "\ufeff# made up\n\n  zephyr lantern \r\nvelvet cartographer\n"


def test_a_list_is_read_like_phrases_that_are_written_here(write):
    write(LIST, "names.txt")
    write("amber orrery", "more/names.txt")
    both = (
        HEAD
        + RULE
        + "    phrases: [copper kettle]\n    phrases_from: [names.txt, more/names.txt]\n"
    )
    policy = load_policy(write(both))
    said = ["amber orrery", "copper kettle", "velvet cartographer", "zephyr lantern"]
    assert list(policy.rules[0].phrases) == said
    inline = load_policy(write(HEAD + RULE + f"    phrases: {said}\n", "inline.yaml"))
    assert policy.digest == inline.digest
    assert diff(policy, inline) == ()
    moderator = Moderator(policy)
    assert all(moderator.check_prompt(f"the {phrase}, please").blocked for phrase in said)
    assert not moderator.check_prompt("made up").blocked


def test_a_changed_list_changes_the_digest(write):
    write(LIST, "names.txt")
    path = write(FROM)
    before = load_policy(path)
    write(LIST + "amber orrery", "names.txt")
    after = load_policy(path)
    assert before.digest != after.digest
    change = diff(before, after)[0]
    assert (change.key, change.direction) == ("phrases", "stricter")


def test_an_heir_replaces_both(write):
    write(LIST, "base/names.txt")
    write(FROM.replace("house", "base"), "base/base.yaml")
    extends = "extends: base/base.yaml\nrules:\n  - id: names\n"
    kept = load_policy(write(HEAD + extends + "    mode: monitor\n"))
    assert list(kept.rules[0].phrases) == ["velvet cartographer", "zephyr lantern"]
    own = load_policy(write(HEAD + extends + "    phrases: [amber orrery]\n"))
    assert list(own.rules[0].phrases) == ["amber orrery"]
    write("paper comet", "own.txt")
    listed = load_policy(write(HEAD + extends + "    phrases_from: own.txt\n"))
    assert list(listed.rules[0].phrases) == ["paper comet"]


MALFORMED = {
    "missing": (
        None,
        "house.yaml:7:19: rules[0].phrases_from: names.txt no such file; check the path",
    ),
    "empty": (
        "# nothing\n",
        "names.txt:1:1: holds no phrase; write one phrase a line",
    ),
    "a line without letters": (
        "zephyr lantern\n\u200b - !\n",
        "names.txt:2:1: nothing of '\\u200b - !' is left after normalisation; use letters or "
        "digits: punctuation, spaces and invisible characters don't count",
    ),
    "a line that is no phrase": (
        "zephyr\n" + "z" * 501,
        "names.txt:2:1: is longer than 500 characters; write one phrase a line",
    ),
    "another encoding": (
        "zephyr\ncaf\xe9".encode("latin-1"),
        "names.txt:2:4: byte 0xe9 is not valid UTF-8; save the file as UTF-8",
    ),
    "binary": (
        b"zephyr\x00",
        "house.yaml:7:19: rules[0].phrases_from: names.txt is a binary file, not text; name a "
        "text file saved as UTF-8",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_wrong_with_a_list_is_said_with_its_line(write, case):
    text, message = MALFORMED[case]
    if text is not None:
        write(text, "names.txt")
    with pytest.raises(PolicyError) as caught:
        load_policy(write(FROM))
    assert [str(problem) for problem in caught.value.problems] == [message]


def test_a_file_that_is_no_list_gets_a_few_problems_not_thousands(write):
    write("!\n" * 5000, "names.txt")
    with pytest.raises(PolicyError) as caught:
        load_policy(write(FROM))
    assert len(caught.value.problems) == 20


@pytest.mark.parametrize(
    "name", ["../names.txt", "/etc/hostname", "linked.txt", "in/../../names.txt"]
)
def test_a_list_lies_where_the_policy_does(write, tmp_path: Path, name):
    """A policy from elsewhere must not be able to show what is in another file."""
    write("zephyr lantern", "names.txt")
    house = write(FROM.replace("names.txt", name), "house/house.yaml")
    (house.parent / "linked.txt").symlink_to(tmp_path / "names.txt")
    with pytest.raises(PolicyError, match="is not inside the policy's folder"):
        load_policy(house)


def test_lint_looks_at_listed_phrases_too(write):
    write("zephyr lantern\nZephyr-Lantern\nok", "names.txt")
    found = [str(finding) for finding in lint(write(FROM))]
    assert any("'Zephyr-Lantern' is the same as 'zephyr lantern'" in line for line in found)
    assert any("'ok' is so short" in line for line in found)
    assert all("rules[0].phrases_from:" in line for line in found if "phrase" in line)


def test_a_hundred_thousand_phrases_are_a_policy(write):
    phrases = [f"zephyr{number:05} lantern" for number in range(100_000)]
    write("\n".join(phrases), "names.txt")
    before = load_policy(write(FROM))
    assert len(before.rules[0].phrases) == 100_000
    write("\n".join(phrases[1:]), "names.txt")
    after = load_policy(write(FROM))
    assert [change.direction for change in diff(before, after)] == ["looser"]
