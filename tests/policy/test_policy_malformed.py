"""What people get wrong in a policy file, and what they are told: file, line, column, key, fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from prism.documents import MAX_BYTES
from prism.policy import PolicyError, load_policy

HEAD = "prism: 1\nid: house\n"
RULE = "rules:\n  - id: names\n    category: prv\n    action: block\n"

ONE_PROBLEM = {
    "misspelt key of a rule": (
        HEAD + RULE + '    phrase: ["zephyr lantern"]\n',
        "house.yaml:7:5: rules[0].phrase: is not a known key; did you mean 'phrases'?",
    ),
    "misspelt key of the policy": (
        HEAD + "extend: default\n",
        "house.yaml:3:1: extend: is not a known key; did you mean 'extends'?",
    ),
    "misspelt action": (
        HEAD + "rules:\n  - {id: a, category: prv, action: blok, phrases: [zephyr lantern]}\n",
        "house.yaml:4:36: rules[0].action: 'blok' is not a choice here; did you mean 'block'?",
    ),
    "misspelt stage": (
        HEAD + RULE + "    stages: [promt]\n    phrases: [zephyr lantern]\n",
        "house.yaml:7:14: rules[0].stages[0]: 'promt' is not a choice here; did you mean 'prompt'?",
    ),
    "misspelt disguise": (
        HEAD + RULE + "    disguises: [leat]\n    phrases: [zephyr lantern]\n",
        "house.yaml:7:17: rules[0].disguises[0]: 'leat' is not a choice here; did you mean 'leet'?",
    ),
    "text where a list belongs": (
        HEAD + RULE + "    phrases: zephyr lantern\n",
        "house.yaml:7:14: rules[0].phrases: must be a list, not text; "
        "write it as a list: ['zephyr lantern']",
    ),
    "number where text belongs": (
        HEAD + RULE + "    phrases: [zephyr lantern, 42]\n",
        'house.yaml:7:31: rules[0].phrases[1]: must be text, not a number; put it in quotes: "42"',
    ),
    "colon in bare text": (
        HEAD + RULE + "    phrases:\n      - zephyr: lantern\n",
        "house.yaml:8:9: rules[0].phrases[0]: must be text, not keys and values; "
        "put text that holds a colon in quotes",
    ),
    "nothing after a colon": (
        HEAD + RULE + "    phrases: [zephyr lantern]\n    boundary:\n",
        "house.yaml:8:5: rules[0].boundary: is empty; for example `boundary: word`, or remove it",
    ),
    "unknown kind of personal data": (
        HEAD + "rules:\n  - {id: a, category: prv, action: block, pii: [us_ssn]}\n",
        "house.yaml:4:49: rules[0].pii[0]: 'us_ssn' is not a kind of personal data; did you mean "
        "'us-ssn'?",
    ),
    "unknown category": (
        HEAD + "rules:\n  - {id: a, category: prvi, action: block, phrases: [zephyr lantern]}\n",
        "house.yaml:4:23: rules[0].category: 'prvi' is not a category; did you mean 'prv'?",
    ),
    "key given twice": (
        HEAD + "mode: enforce\nlocale: en\nmode: monitor\n",
        "house.yaml:5:1: mode: is already given on line 3; keep one of the two",
    ),
    "rule given twice": (
        HEAD + RULE + "    phrases: [zephyr lantern]\n  - {id: names, action: flag}\n",
        "house.yaml:8:10: rules[1].id: a rule 'names' is already given on line 4; "
        "join the two, or rename one",
    ),
    "regex that isn't one": (
        HEAD + RULE + "    regexes: ['ab(']\n",
        "house.yaml:7:15: rules[0].regexes[0]: not a regular expression: missing ), unterminated "
        "subpattern at position 2; correct the pattern",
    ),
    "regex without a bound": (
        HEAD + RULE + "    regexes: [{pattern: 'ab+'}]\n",
        "house.yaml:7:25: rules[0].regexes[0].pattern: the pattern has no bound on its width, so a "
        "stream could be held back for ever; bound every repeat, as in {0,80} instead of * or +",
    ),
    "phrase of punctuation": (
        HEAD + RULE + '    phrases: ["?!"]\n',
        "house.yaml:7:15: rules[0].phrases[0]: nothing of '?!' is left after normalisation; "
        "use letters or digits: punctuation, spaces and invisible characters don't count",
    ),
    "threshold out of range": (
        HEAD + RULE + "    thresholds: {prompt: 1.5}\n",
        "house.yaml:7:26: rules[0].thresholds.prompt: 1.5 is not a probability, from 0 to 1; "
        "write `0.8`, say",
    ),
    "threshold in per cent for both stages": (
        HEAD + RULE + "    thresholds: 80\n",
        "house.yaml:7:17: rules[0].thresholds: 80 is not a probability, from 0 to 1; "
        "did you mean 0.8?",
    ),
    "threshold in quotes": (
        HEAD + RULE + '    thresholds: "0.8"\n',
        "house.yaml:7:17: rules[0].thresholds: must be a number, or one for each stage, not text; "
        "write `0.8`, or `{prompt: 0.8, output: 0.7}`, without quotes",
    ),
    "threshold that is not a number": (
        HEAD + RULE + "    thresholds: true\n",
        "house.yaml:7:17: rules[0].thresholds: must be a number, or one for each stage, not true "
        "or false; write `0.8`, or `{prompt: 0.8, output: 0.7}`, without quotes",
    ),
    "word boundary in double quotes": (
        HEAD + RULE + '    regexes: ["\\border-[0-9]{6}\\b"]\n',
        "house.yaml:7:15: rules[0].regexes[0]: holds a backspace: in double quotes YAML reads \\b "
        "as one, and no text has any; put the pattern in single quotes: '\\border-[0-9]{6}\\b'",
    ),
    "digit class in double quotes": (
        HEAD + RULE + '    regexes: ["order-\\d{6}"]\n',
        "house.yaml:7:23: is not valid YAML: found unknown escape character 'd'; "
        "in double quotes \\ begins an escape: use single quotes",
    ),
    "no id": (
        "prism: 1\nlocale: en\n",
        "house.yaml:1:1: id: is missing; add it, for example `id: my-policy`",
    ),
    "id with capitals": (
        "prism: 1\nid: My Policy\n",
        "house.yaml:2:5: id: 'My Policy' is not a valid id; use up to 64 lower-case letters, "
        "digits, `-`, `_` and `.`, a letter or digit first",
    ),
    "id of a built-in rule": (
        HEAD + "rules:\n  - {id: prism.selftest, action: allow}\n",
        "house.yaml:4:10: rules[0].id: ids that begin with 'prism.' are built in; "
        "choose another id",
    ),
    "version from the future": (
        "prism: 2\nid: house\n",
        "house.yaml:1:8: prism: version 2 is not one that this release reads; write `prism: 1`",
    ),
    "a rule that looks for nothing": (
        HEAD + RULE,
        "house.yaml:4:5: rules[0]: the rule 'names' looks for nothing; "
        'add `phrases: ["zephyr lantern"]` or `regexes: […]`',
    ),
    "a rule without an action": (
        HEAD + "rules:\n  - {id: a, category: prv, phrases: [zephyr lantern]}\n",
        "house.yaml:4:5: rules[0]: the new rule 'a' has no action; add `action: block`",
    ),
    "parent that isn't there": (
        HEAD + "extends: nowhere.yaml\n",
        "house.yaml:3:10: extends: no such file: nowhere.yaml; "
        "check the path, relative to this file",
    ),
    "misspelt name of a shipped parent": (
        HEAD + "extends: defalt\n",
        "house.yaml:3:10: extends: 'defalt' is not the name of a shipped policy; "
        "did you mean 'default'?",
    ),
    "inherits from itself": (
        HEAD + "extends: house.yaml\n",
        "house.yaml:3:10: extends: a policy can't inherit from itself "
        "(house.yaml -> house.yaml); remove one `extends`",
    ),
    "tier that there isn't": (
        HEAD + "tiers: {encodr: on}\n",
        "house.yaml:3:9: tiers.encodr: is not a known key; did you mean 'encoder'?",
    ),
    "overall harm with phrases": (
        HEAD + "rules:\n  - {id: a, category: harm, action: block, phrases: [zephyr lantern]}\n",
        "house.yaml:4:23: rules[0].category: is for thresholds only: `harm` is what the score "
        "models say of a text; name the category that the phrases belong to",
    ),
    "threshold that is no probability": (
        HEAD + "rules:\n  - {id: a, category: prv, action: block, thresholds: {prompt: 80}}\n",
        "house.yaml:4:64: rules[0].thresholds.prompt: 80 is not a probability, from 0 to 1; "
        "did you mean 0.8?",
    ),
    "no message in the default locale": (
        HEAD + "locale: de\nmessages: {en: No.}\n",
        "house.yaml:3:9: locale: there is no message in the default locale 'de'; "
        "add `messages: {de: …}`, or set `locale` to en",
    ),
    "empty message": (
        HEAD + 'messages: {en: " "}\n',
        "house.yaml:3:16: messages.en: must not be empty; write what the user shall read",
    ),
    "locale that isn't one": (
        HEAD + "locale: English\n",
        "house.yaml:3:9: locale: 'English' is not a language tag; write it like `en` or `pt-BR`",
    ),
    "tab": (
        HEAD + "rules:\n\t- id: a\n",
        "house.yaml:4:1: is not valid YAML: found character '\\t' that cannot start any token; "
        "indent with spaces, not tabs",
    ),
    "wrong indentation": (
        HEAD + "rules:\n  - id: a\n   category: prv\n",
        "house.yaml:5:4: is not valid YAML: expected <block end>, but found "
        "'<block mapping start>'; give this line the same indentation as its siblings",
    ),
    "open quote": (
        HEAD + 'title: "House\nlocale: en\n',
        "house.yaml:3:8: is not valid YAML: found unexpected end of stream; "
        "close the quote that begins here",
    ),
    "alias": (
        HEAD + "title: *name\n",
        "house.yaml:3:8: alias *name is not allowed; write the value out",
    ),
    "tag": (
        HEAD + "title: !secret x\n",
        "house.yaml:3:8: tag !secret is not allowed; remove it",
    ),
    "two documents": (
        HEAD + "---\nid: other\n",
        "house.yaml:3:1: holds more than one document; remove this `---` line",
    ),
    "nested without end": (
        HEAD + "title: " + "[" * 200_000,
        "house.yaml:3:31: is nested deeper than 24 levels; flatten it",
    ),
    "control character": (
        HEAD + "title: a\x07b\n",
        "house.yaml:3:9: control character U+0007 is not allowed in YAML; remove it, or write it "
        'as an escape such as "\\u0007" in double quotes',
    ),
    "half a character": (
        HEAD + 'title: "a\\ud800b"\n',
        "house.yaml:3:8: title: holds half a surrogate pair, which is no character; "
        "remove the escape",
    ),
    "empty file": ("", "house.yaml:1:1: is empty; write at least one `key: value`"),
    "a list": ("- a\n", "house.yaml:1:1: must hold keys and values, not a list; write `key: …`"),
    "Latin-1": (
        b"prism: 1\nid: house\ntitle: caf\xe9\n",
        "house.yaml:3:11: byte 0xe9 is not valid UTF-8; save the file as UTF-8",
    ),
    "UTF-16": (
        "prism: 1".encode("utf-16"),
        "house.yaml:1:1: is UTF-16, not UTF-8; save the file as UTF-8",
    ),
    "binary": (
        bytes(range(256)),
        "house.yaml: is a binary file, not YAML; name a YAML file saved as UTF-8",
    ),
    "huge": (
        b"prism: 1\n" + b"#" * MAX_BYTES,
        "house.yaml: is larger than 2 MiB; split it, with `extends` between",
    ),
}


@pytest.mark.parametrize(("text", "message"), ONE_PROBLEM.values(), ids=ONE_PROBLEM)
def test_one_problem(write, text, message):
    write(text)
    with pytest.raises(PolicyError) as caught:
        load_policy("house.yaml")
    assert str(caught.value) == message


def test_all_problems_at_once(write):
    write(
        "prism: 1\n"
        "id: house\n"
        "mode: enforced\n"
        "mood: good\n"
        "rules:\n"
        "  - id: names\n"
        "    category: privacy\n"
        "    action: block\n"
        "    phrases: ['...', zephyr lantern, '']\n"
        "    regexes: ['(a', '(?=b)c', 'd*']\n"
        "    colour: red\n"
        "  - id: names\n"
        "    action: block\n"
    )
    with pytest.raises(PolicyError) as caught:
        load_policy("house.yaml")
    where = [(p.line, p.column, p.key) for p in caught.value.problems]
    assert where == [
        (3, 7, "mode"),
        (4, 1, "mood"),
        (7, 15, "rules[0].category"),
        (9, 15, "rules[0].phrases[0]"),
        (9, 38, "rules[0].phrases[2]"),
        (10, 15, "rules[0].regexes[0]"),
        (10, 21, "rules[0].regexes[1]"),
        (10, 31, "rules[0].regexes[2]"),
        (11, 5, "rules[0].colour"),
    ]
    assert all(p.fix and p.message and p.file == "house.yaml" for p in caught.value.problems)


def test_problems_of_parent_and_child_come_together(write):
    write("prism: 1\nid: base\nmode: on\n", "base.yaml")
    write("prism: 1\nid: house\nextends: base.yaml\nlocal: en\n")
    with pytest.raises(PolicyError) as caught:
        load_policy("house.yaml")
    assert [(p.file, p.line, p.key) for p in caught.value.problems] == [
        ("base.yaml", 3, "mode"),
        ("house.yaml", 4, "local"),
    ]


def test_a_cycle_names_the_whole_loop(write):
    write("prism: 1\nid: a\nextends: b.yaml\n", "a.yaml")
    write("prism: 1\nid: b\nextends: c.yaml\n", "b.yaml")
    write("prism: 1\nid: c\nextends: a.yaml\n", "c.yaml")
    with pytest.raises(PolicyError) as caught:
        load_policy("a.yaml")
    assert str(caught.value) == (
        "c.yaml:3:10: extends: a policy can't inherit from itself "
        "(a.yaml -> b.yaml -> c.yaml -> a.yaml); remove one `extends`"
    )


def test_a_misspelt_rule_id_is_recognised(write):
    write("prism: 1\nid: house\nextends: default\nrules:\n  - {id: weapon, action: flag}\n")
    with pytest.raises(PolicyError) as caught:
        load_policy("house.yaml")
    assert "house.yaml:5:5: rules[0]: the new rule 'weapon' has no category" in str(caught.value)
    assert "did you mean 'weapons'?" in str(caught.value)


def test_an_alias_bomb_is_refused_at_once(write):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    write("\n".join(lines))
    with pytest.raises(PolicyError) as caught:
        load_policy("house.yaml")
    assert str(caught.value).startswith("house.yaml:1:5: anchor &a0 is not allowed; remove it")


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("nowhere.yaml", "nowhere.yaml: no such file; check the path"),
        ("./", "is a folder, not a file; name a YAML file"),
        ("strickt", "strickt: is not the name of a shipped policy; did you mean 'strict'?"),
        ("/dev/zero", "/dev/zero: is larger than 2 MiB; split it, with `extends` between"),
    ],
)
def test_a_reference_that_leads_nowhere(write, ref, message):
    with pytest.raises(PolicyError) as caught:
        load_policy(ref)
    assert str(caught.value).endswith(message)


def test_a_missing_floor_is_an_error(write):
    write("prism: 1\nid: house\n")
    with pytest.raises(PolicyError, match=r"floor\.yaml: no such file; check the path"):
        load_policy("house.yaml", floor="floor.yaml")


def test_problems_of_policy_and_floor_come_together(write):
    write("prism: 1\nid: house\nmode: on\n")
    with pytest.raises(PolicyError) as caught:
        load_policy("house.yaml", floor=Path("floor.yaml"))
    assert [p.file for p in caught.value.problems] == ["floor.yaml", "house.yaml"]
