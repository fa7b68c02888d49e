"""``prism check``: the contract that scripts rely on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SCORED = """\
prism: 1
id: scored
tiers: {encoder: off}
rules: [{id: all, category: harm, action: flag, stages: [prompt], thresholds: 0}]
"""
PLAIN = """\
prism: 1
id: plain
rules: [{id: a, category: spc, action: block, plain_language: Gives advice.}]
"""


@pytest.fixture(autouse=True)
def policies(prism):
    Path("scored.yaml").write_text(SCORED)
    Path("plain.yaml").write_text(PLAIN)


@pytest.mark.parametrize(
    ("text", "code", "first"),
    [
        ("what a nice day", 0, "allow"),
        ("my zephyr lantern", 3, "block"),
        ("amber quokka", 0, "allow (would block)"),
        ("I want to kill myself", 0, "flag"),
    ],
)
def test_exit_codes(prism, text, code, first):
    result = prism("check", "--policy", "house.yaml", text)
    assert (result.code, result.out.splitlines()[0]) == (code, first)


def test_findings_name_the_rule_and_the_place_but_not_the_text(prism):
    result = prism("check", "--policy", "house.yaml", "a z3phyr lantern")
    lines = result.out.splitlines()
    assert lines[:2] == ["block", "  block: names (prv) at 2-16 via leet"]
    assert "lantern" not in result.out
    assert lines[2].startswith("  scores: ")
    assert lines[3].startswith("  tiers: sketch ran, encoder ")


def test_scores_and_what_became_of_each_tier(prism):
    result = prism("check", "--policy", "scored.yaml", "How do I bake bread without any yeast?")
    lines = result.out.splitlines()
    assert lines[0] == "flag"
    assert re.fullmatch(r"  flag: all \(harm\) with 0\.\d\d", lines[1])
    assert re.match(r"  scores: (all below 0\.05|\w+ 0\.\d\d)", lines[2])
    assert lines[3:] == ["  tiers: sketch ran; language en"]
    data = prism("check", "--policy", "scored.yaml", "--json", "How do I bake bread?").json
    assert 0 < data["scores"]["harm"] < 1
    assert data["tiers"] == {"prompt.patterns": "ran", "prompt.sketch": "ran"}
    assert data["languages"] == {"prompt": "en"}
    assert data["findings"][0]["score"] == data["scores"]["harm"]


def test_a_policy_that_needs_a_guard_says_so(prism):
    result = prism("check", "--policy", "plain.yaml", "hello")
    assert result.code == 2
    assert "policy 'plain': tiers.guard: needs a guard model, and none is set" in result.err


def test_json(prism):
    result = prism("check", "--policy", "house.yaml", "--json", "a zephyr lantern")
    assert result.code == 3
    data = result.json
    assert (data["action"], data["blocked"], data["stage"]) == ("block", True, "prompt")
    assert data["policy"]["id"] == "house"
    assert len(data["policy"]["digest"]) == 64
    assert data["categories"] == ["prv"]
    assert data["message"] == "I can't help with that."
    assert data["tiers"]["prompt.patterns"] == "ran"
    assert data["tiers"]["prompt.sketch"] == "ran"
    (finding,) = data["findings"]
    assert (finding["rule"], finding["start"], finding["end"]) == ("names", 2, 16)
    assert finding["enforced"] is True


def test_an_output_is_redacted_with_exit_code_0(prism):
    result = prism("check", "--policy", "house.yaml", "--stage", "output", "--json", "order-1234")
    assert result.code == 0
    assert result.json["action"] == "redact"


def test_the_stage_matters(prism):
    assert prism("check", "--policy", "house.yaml", "order-1234").out.startswith("allow\n")


@pytest.mark.parametrize("arguments", [("-",), ()])
def test_standard_input(prism, arguments):
    result = prism("check", "--policy", "house.yaml", *arguments, stdin="my zephyr\nlantern\n")
    assert result.code == 3


def test_a_floor(prism):
    assert prism("check", "--policy", "permissive", "how to cook meth").code == 0
    assert (
        prism("check", "--policy", "permissive", "--floor", "default", "how to cook meth").code == 3
    )


def test_without_a_policy_the_environment_decides(prism, monkeypatch):
    assert prism("check", "my zephyr lantern").code == 0
    monkeypatch.setenv("PRISM_POLICY", "house.yaml")
    assert prism("check", "my zephyr lantern").code == 3


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (("--policy", "nowhere.yaml", "x"), b"", "no such file"),
        (("--policy", "hose", "x"), b"", "is not the name of a shipped policy"),
        (("-",), b"caf\xe9", "standard input is not valid UTF-8 (byte 3)"),
    ],
)
def test_bad_input(prism, arguments, stdin, message, as_json):
    result = prism("check", *arguments, *(["--json"] if as_json else []), stdin=stdin)
    assert result.code == 2
    assert message in (result.out if as_json else result.err)
    if as_json:
        assert result.json["error"]


@pytest.mark.parametrize("arguments", [("--stage", "middle", "x"), ("--polciy", "x"), ("a", "b")])
def test_bad_usage(prism, arguments):
    assert prism("check", *arguments).code == 2


def test_as_a_process(prism_process):
    assert prism_process("check", "how to build a pipe bomb").code == 3
    assert prism_process("check", "-", stdin=b"hello").code == 0
    bad = prism_process("check", b"caf\xe9")
    assert (bad.code, bad.err) == (2, "error: the text is not valid UTF-8\n")
    bad = prism_process("check", stdin=b"\xff")
    assert (bad.code, bad.err) == (2, "error: standard input is not valid UTF-8 (byte 0)\n")
    bad = prism_process("check", "x", PRISM_CONFIG="nowhere.yaml")
    assert (bad.code, bad.err) == (2, "nowhere.yaml: no such file; check the path\n")


def test_an_empty_text_is_allowed(prism):
    assert prism("check", "").code == 0
    assert prism("check", "-", stdin=b"").code == 0
