"""What is legal in a policy but hardly meant; and the other data files."""

from __future__ import annotations

import pytest

from prism.policy.lint import lint

HEAD = "prism: 1\nid: house\n"
RULE = "rules:\n  - id: names\n    category: prv\n    action: block\n"

WARNINGS = {
    "no rules at all": (
        HEAD,
        "house.yaml:2:5: id: looks for nothing, so every text passes; "
        "add `rules`, or `extends: default`",
    ),
    "every rule switched off": (
        HEAD + RULE.replace("block", "allow") + "    phrases: [zephyr lantern]\n",
        "house.yaml:2:5: id: looks for nothing, so every text passes; "
        "add `rules`, or `extends: default`",
    ),
    "thresholds where every score tier is off": (
        HEAD + "tiers: {sketch: off, encoder: off}\n" + RULE + "    thresholds: 0.8\n",
        "house.yaml:8:17: rules[0].thresholds: no score tier is on in this policy, so this key "
        "does nothing; write `tiers: {sketch: on}`, or remove the key",
    ),
    "plain language where the guard is off": (
        HEAD + "tiers: {guard: off}\n" + RULE + "    plain_language: Gives legal advice.\n",
        "house.yaml:8:21: rules[0].plain_language: the guard tier is off in this policy, so this "
        "key does nothing; write `tiers: {guard: on}`, or remove the key",
    ),
    "thresholds for another stage": (
        HEAD + RULE + "    stages: [output]\n    thresholds: {prompt: 0.8}\n",
        "house.yaml:8:17: rules[0].thresholds: names no stage at which the rule looks, so it does "
        "nothing; give one for output",
    ),
    "a category that nothing scores": (
        HEAD + RULE.replace("prv", "cia") + "    thresholds: 0.8\n",
        "house.yaml:7:17: rules[0].thresholds: no score model of this version knows the category "
        "'cia'; add phrases or regexes, or a guard model that knows it",
    ),
    "redacting a score": (
        HEAD + RULE.replace("block", "redact") + "    stages: [output]\n    thresholds: 0.8\n",
        "house.yaml:8:17: rules[0].thresholds: a score has no place in the text to redact: where "
        "it fires, the output ends; use `action: block`, or `flag`",
    ),
    "steering personal data": (
        HEAD + RULE.replace("block", "steer") + "    stages: [output]\n    pii: [email]\n",
        "house.yaml:8:10: rules[0].pii: only phrases can be steered: where personal data is, the "
        "output is blocked; write `action: redact` or `action: block`",
    ),
    "the same phrase twice": (
        HEAD + RULE + "    phrases: [zephyr lantern, Zephyr-Lantern!]\n",
        "house.yaml:7:31: rules[0].phrases[1]: 'Zephyr-Lantern!' is the same as 'zephyr lantern' "
        "to the matcher; remove one of them",
    ),
    "a phrase that matches by chance": (
        HEAD + RULE + "    phrases: [ok]\n",
        "house.yaml:7:15: rules[0].phrases[0]: 'ok' is so short that it will match by chance; "
        "add words that tell it apart",
    ),
    "a loosened rule without a reason": (
        HEAD + "extends: default\nrules:\n  - {id: weapons, action: flag}\n",
        "house.yaml:5:5: rules[0]: changes the inherited rule 'weapons' so that it catches or does "
        "less; add `rationale: …` that says why",
    ),
    "redacting prompts": (
        HEAD + RULE.replace("block", "redact") + "    phrases: [zephyr lantern]\n",
        "house.yaml:6:13: rules[0].action: `redact` changes outputs only: at the prompt stage it "
        "is recorded, no more; write `stages: [output]`, or `block` prompts",
    ),
    "steering regexes": (
        HEAD + RULE.replace("block", "steer") + "    stages: [output]\n    regexes: ['ab[0-9]']\n",
        "house.yaml:8:14: rules[0].regexes: only phrases can be steered: where a regex matches, "
        "the output is blocked; use phrases, or `action: block`",
    ),
}


@pytest.mark.parametrize(("text", "message"), WARNINGS.values(), ids=WARNINGS)
def test_warning(write, text, message):
    write(text)
    problems = lint("house.yaml")
    assert [str(p) for p in problems] == [f"warning: {message}"]
    assert problems[0].severity == "warning"


QUIET = {
    "a loosened rule with a reason": "rules:\n"
    "  - {id: weapons, action: flag, rationale: Historians.}\n",
    "a stricter rule": "rules:\n  - {id: self-harm, action: block}\n",
    "inherited thresholds where the tiers are off": "tiers: {sketch: off, encoder: off}\n",
    "plain language, for a guard that the server has": "rules:\n"
    "  - {id: x, category: spc, action: block, plain_language: Gives legal advice.}\n",
    "a rule of its own": 'rules:\n  - {id: x, category: prv, action: flag, phrases: ["ab cd"]}\n',
}


@pytest.mark.parametrize("rules", QUIET.values(), ids=QUIET)
def test_nothing_to_say(write, rules):
    write(HEAD + "extends: default\n" + rules)
    assert lint("house.yaml") == ()


def test_a_refusal_that_the_policy_would_block(write):
    write(
        HEAD + 'messages: {en: "No zephyr lantern."}\n' + RULE + "    phrases: [zephyr lantern]\n"
    )
    (problem,) = lint("house.yaml")
    assert str(problem) == (
        "house.yaml:3:16: messages.en: the message in 'en' is caught by the policy's own rule "
        "names; word the message without what the rule looks for"
    )
    assert problem.severity == "error"


def test_a_refusal_that_the_floor_would_block(write):
    own = RULE.replace("names", "own") + "    phrases: [amber quokka]\n"
    write(HEAD + 'messages: {en: "No zephyr lantern."}\n' + own)
    write(HEAD.replace("house", "floor") + RULE + "    phrases: [zephyr lantern]\n", "floor.yaml")
    assert lint("house.yaml") == ()
    (problem,) = lint("house.yaml", floor="floor.yaml")
    assert "house.yaml:3:16: messages.en" in str(problem)


def test_a_floor_that_holds_nobody(write):
    write(HEAD + RULE + "    phrases: [amber quokka]\n")
    write("prism: 1\nid: floor\nmode: monitor\n", "floor.yaml")
    (problem,) = lint("house.yaml", floor="floor.yaml")
    assert "a policy in monitor mode holds nobody to anything" in problem.message


def test_errors_are_what_loading_refuses(write):
    write(HEAD + "rulez: []\n")
    (problem,) = lint("house.yaml")
    assert str(problem) == "house.yaml:3:1: rulez: is not a known key; did you mean 'rules'?"


def test_a_configuration_is_checked_as_the_server_would(write):
    write(HEAD + RULE + "    phrases: [zephyr lantern]\n")
    write("policy: house.yaml\nfloor: stricct\n", "prism.yaml")
    assert [str(p) for p in lint("prism.yaml")] == [
        "prism.yaml:2:8: floor: 'stricct' is not the name of a shipped policy; "
        "did you mean 'strict'?"
    ]
    write("policy: house.yaml\nfloor: strict\ntenants: tenants/\n", "prism.yaml")
    path = write("prism: 1\ntenant: acme\npolcy: house.yaml\nkeys: []\n", "tenants/acme.yaml")
    path.chmod(0o600)
    assert [str(p) for p in lint("prism.yaml")] == [
        "tenants/acme.yaml:3:1: polcy: is not a known key; did you mean 'policy'?"
    ]
    path.write_text(path.read_text().replace("polcy", "policy").replace("house", "../house"))
    assert lint("prism.yaml") == ()


def test_a_tenants_file_is_no_policy(write):
    write("prism: 1\ntenant: acme\nkeys: []\n", "acme.yaml")
    assert [str(p) for p in lint("acme.yaml")] == [
        "acme.yaml: is a tenant's file, not a policy; lint the configuration that names its "
        "folder, as in `prism policy lint prism.yaml`"
    ]


def test_a_policy_whose_version_was_forgotten_is_still_one(write):
    write("id: house\nfloor: strict\n")
    assert [p.key for p in lint("house.yaml")] == ["prism", "floor"]


RISK = "risk_register: 1\nmarginal_risk:\n  cyb:\n    baseline: web search\n    threat: unknown\n"
REST = "    existing_defences: unknown\n    ease_of_defending: unknown\n    uncertainty: unknown\n"


def test_an_empty_field_of_the_risk_register(write):
    write(RISK + '    existing_risk: ""\n    evidence:\n' + REST, "risk.yaml")
    assert [str(p) for p in lint("risk.yaml")] == [
        "risk.yaml:6:20: marginal_risk.cyb.existing_risk: must not be empty; "
        "for example `existing_risk: unknown`",
        "risk.yaml:7:5: marginal_risk.cyb.evidence: is empty; "
        "for example `evidence: unknown`, or remove it",
    ]


def test_a_category_without_a_risk_block(write):
    write(RISK + "    existing_risk: unknown\n    evidence: unknown\n" + REST, "risk.yaml")
    problems = [str(p) for p in lint("risk.yaml")]
    assert len(problems) == 20
    assert (
        "risk.yaml:3:3: marginal_risk: the category 'vcr' has no block; "
        'add `vcr:`; "unknown" is legal in it'
    ) in problems


def test_a_policy_may_bring_its_own_risk_block(write):
    block = RISK.split("\n", 1)[1] + "    existing_risk: unknown\n    evidence: unknown\n" + REST
    write(HEAD + "extends: default\n" + block)
    assert lint("house.yaml") == ()
    write(HEAD + block.replace("evidence: unknown", "evidence:"))
    (problem,) = lint("house.yaml")
    assert problem.key == "marginal_risk.cyb.evidence"


def test_a_taxonomy_that_maps_to_nothing(write):
    write(
        "taxonomy: 1\ncategories:\n"
        "  abc: {title: A, description: B, hub: extension}\n"
        "frameworks:\n  other:\n    title: Other\n    version: '1'\n"
        "    source_url: https://example.org/\n    retrieved: '2026-11-21'\n    headings:\n"
        "      - {heading: H, categories: [abd], detectable: text, relation: exact}\n"
        "      - {heading: I, categories: [], detectable: text, relation: exact}\n",
        "t.yaml",
    )
    assert [str(p) for p in lint("t.yaml")] == [
        "t.yaml:11:35: frameworks.other.headings[0].categories[0]: 'abd' is not a category; "
        "did you mean 'abc'?",
        "t.yaml:12:34: frameworks.other.headings[1].categories: relation `none` and an empty list "
        "of categories belong together; correct either",
    ]
