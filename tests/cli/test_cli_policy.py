"""``prism policy …``."""

from __future__ import annotations

from pathlib import Path

from prism.policy import load_policy


def test_lint_clean(prism):
    result = prism("policy", "lint", "house.yaml", "default")
    assert (result.code, result.out, result.err) == (0, "2 files: 0 errors, 0 warnings\n", "")


def test_lint_errors(prism):
    Path("bad.yaml").write_text("prism: 1\nid: bad\nextend: default\n")
    result = prism("policy", "lint", "house.yaml", "bad.yaml")
    assert result.code == 2
    assert result.err == "bad.yaml:3:1: extend: is not a known key; did you mean 'extends'?\n"
    assert result.out == "2 files: 1 error, 0 warnings\n"


def test_lint_warnings(prism):
    Path("dull.yaml").write_text(
        "prism: 1\nid: dull\nrules:\n  - {id: a, category: prv, action: flag, phrases: [ok]}\n"
    )
    result = prism("policy", "lint", "dull.yaml")
    assert result.code == 0
    assert result.err.startswith("warning: dull.yaml:4:52: rules[0].phrases[0]: ")
    assert prism("policy", "lint", "--strict", "dull.yaml").code == 1


def test_lint_json_and_folders(prism):
    Path("more").mkdir()
    Path("more/bad.yaml").write_text("prism: 1\n")
    Path("more/good.yaml").write_text("prism: 1\nid: good\nextends: default\n")
    result = prism("policy", "lint", "--json", "more")
    assert result.code == 2
    assert (result.json["errors"], result.json["warnings"]) == (1, 0)
    assert list(result.json["files"]) == ["more/bad.yaml", "more/good.yaml"]
    (problem,) = result.json["files"]["more/bad.yaml"]
    assert problem == {
        "file": "more/bad.yaml",
        "line": 1,
        "column": 1,
        "key": "id",
        "message": "is missing",
        "fix": "add it, for example `id: my-policy`",
        "severity": "error",
    }


TESTS = (
    "tests:\n  - {name: lamps, stage: prompt, text: zephyr lantern, expect: block, rule: names}\n"
)


def test_test_passes(prism):
    Path("house.tests.yaml").write_text(TESTS)
    for ref in ("house.yaml", "house.tests.yaml", "."):
        result = prism("policy", "test", ref)
        assert (result.code, result.out) == (0, "1 passed, 0 failed\n")
    both = prism("policy", "test", "house.yaml", "house.tests.yaml")
    assert both.out == "1 passed, 0 failed\n"


def test_test_fails(prism):
    Path("house.tests.yaml").write_text(TESTS.replace("block, rule: names", "allow"))
    result = prism("policy", "test", "house.yaml")
    assert result.code == 1
    assert result.out == (
        "house.tests.yaml:2: lamps: expected allow, got block (fired: names): 'zephyr lantern'\n"
        "0 passed, 1 failed\n"
    )
    as_json = prism("policy", "test", "--json", "house.yaml")
    assert as_json.code == 1
    assert (as_json.json["passed"], as_json.json["failed"]) == (0, 1)
    assert as_json.json["tests"][0]["why"] == "expected allow, got block"


def test_test_bad_input(prism):
    assert prism("policy", "test", "house.yaml").code == 2
    Path("house.tests.yaml").write_text("tests: []\n")
    result = prism("policy", "test", "house.yaml")
    assert (result.code, result.err) == (
        2,
        "house.tests.yaml:1:8: tests: must not be empty; for example `tests: [{name: …}]`\n",
    )


def test_show_says_where_each_value_came_from(prism):
    result = prism("policy", "show", "house.yaml")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == f"# digest {load_policy('house.yaml').digest}"
    assert "id: house  # house.yaml:2" in lines
    assert "  - id: names  # house.yaml:5" in lines
    assert '    phrases: ["zephyr lantern"]  # house.yaml:8' in lines
    assert "    mode: enforce  # default" in lines
    weapons = lines.index(next(line for line in lines if "- id: weapons" in line))
    assert "policies/default.yaml:" in lines[weapons + 1]


def test_show_is_itself_a_policy_that_does_the_same(prism):
    flat = prism("policy", "show", "house.yaml").out
    Path("flat.yaml").write_text(flat)
    assert prism("policy", "diff", "house.yaml", "flat.yaml").code == 0


def test_show_with_a_floor(prism):
    Path("floor.yaml").write_text(
        "prism: 1\nid: floor\nrules:\n"
        "  - {id: trial, category: hte, action: block, phrases: [amber quokka]}\n"
    )
    result = prism("policy", "show", "--floor", "floor.yaml", "--json", "house.yaml")
    (shown,) = result.json
    values = {(v["rule"], v["key"]): v for v in shown["values"]}
    assert shown["digest"] == load_policy("house.yaml", floor="floor.yaml").digest
    assert values["trial", "mode"] == {
        "rule": "trial",
        "key": "mode",
        "value": "enforce",
        "origins": ["default"],
    }
    assert values["trial", "phrases"]["origins"] == ["house.yaml:18", "floor.yaml:4"]


def test_show_a_policy_in_monitor_mode(prism):
    Path("watch.yaml").write_text("prism: 1\nid: watch\nextends: house.yaml\nmode: monitor\n")
    assert "    mode: monitor  # watch.yaml:4" in prism("policy", "show", "watch.yaml").out


def test_show_with_a_floor_is_itself_a_policy_that_does_the_same(prism):
    """What policy and floor both say of a rule stands once, and both reasons are kept."""
    Path("floor.yaml").write_text(
        "prism: 1\nid: floor\nextends: default\nrules:\n"
        "  - {id: fraud, rationale: The floor's reason., approvers: [ann, bob]}\n"
    )
    Path("own.yaml").write_text(
        "prism: 1\nid: own\nextends: house.yaml\nrules:\n"
        "  - {id: fraud, rationale: Our reason., approvers: [bob, eve]}\n"
    )
    flat = prism("policy", "show", "--floor", "floor.yaml", "own.yaml").out
    Path("flat.yaml").write_text(flat)
    assert prism("policy", "lint", "flat.yaml").err == ""
    assert load_policy("flat.yaml").digest == load_policy("own.yaml", floor="floor.yaml").digest
    assert '    rationale: "Our reason. / The floor\'s reason."  # own.yaml:5, floor.yaml:5' in flat
    assert '    approvers: ["bob", "eve", "ann"]  # own.yaml:5, floor.yaml:5' in flat


def test_folders_without_policies_and_policies_without_files(prism):
    Path("empty").mkdir()
    for command, kind in (("lint", "*.yaml"), ("test", "*.tests.yaml")):
        result = prism("policy", command, "empty")
        assert (result.code, result.err) == (
            2,
            f"empty: has no file {kind} in it; name the folder that they are in; "
            "folders inside it aren't searched\n",
        )
    result = prism("policy", "test", "nowhere.yaml")
    assert (result.code, result.err) == (2, "nowhere.yaml: no such file; check the path\n")
    Path("strict").mkdir()  # a shipped name means the policy
    assert prism("policy", "lint", "strict").code == 0


def test_diff(prism):
    Path("new.yaml").write_text(
        "prism: 1\nid: new\nextends: house.yaml\nmessages: {en: No.}\nrules:\n"
        "  - {id: names, phrases: [zephyr lantern, violet teapot]}\n"
        "  - {id: orders, action: flag}\n"
        "  - {id: trial, action: allow}\n"
    )
    result = prism("policy", "diff", "house.yaml", "new.yaml")
    assert result.code == 1
    assert result.out.splitlines() == [
        'policy: messages.en: "I can\'t help with that." -> No.  [wording]',
        "rule names: phrases: +'violet teapot'  [stricter]",
        "rule orders: action: redact -> flag  [looser]",
        "rule trial: removed (block, hte)  [looser]",
    ]
    data = prism("policy", "diff", "--json", "house.yaml", "new.yaml").json
    assert data["same"] is False
    assert [c["direction"] for c in data["changes"]] == ["wording", "stricter", "looser", "looser"]


def test_diff_of_the_same(prism):
    result = prism("policy", "diff", "--json", "default", "default")
    assert (result.code, result.json["same"], result.json["changes"]) == (0, True, [])


def test_diff_bad_input(prism):
    result = prism("policy", "diff", "default", "nowhere.yaml")
    assert (result.code, result.err) == (2, "nowhere.yaml: no such file; check the path\n")


def test_compile(prism):
    policy = load_policy("house.yaml")
    result = prism("policy", "compile", "house.yaml", "default")
    assert result.out.splitlines()[0] == f"{policy.digest}  house  house.yaml"
    assert len(result.out.splitlines()) == 2
    (data,) = prism("policy", "compile", "--json", "house.yaml").json
    assert data["digest"] == policy.digest
    assert [r["id"] for r in data["rules"]] == [r.id for r in policy.rules]


def test_compile_bad_input(prism):
    result = prism("policy", "compile", "--json", "nowhere.yaml")
    assert result.code == 2
    assert result.json["error"]["problems"][0]["message"] == "no such file"
