"""``prism bench``: what a policy costs, on the user's own machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.bytelevel import byte_level

PLAIN = """\
prism: 1
id: plain
rules:
  - id: names
    category: prv
    stages: [prompt, output]
    phrases: ["zephyr lantern"]
    action: block
"""


@pytest.fixture
def plain(house):
    """A policy of phrases alone."""
    Path("plain.yaml").write_text(PLAIN)
    return "plain.yaml"


@pytest.fixture
def tokenizer(house):
    """A tokenizer of 400 tokens whose end of text its configuration names."""
    made = byte_level(["the zephyr lantern shone on the quay"] * 9, 400, "<done>")
    made.save("tokenizer.json")
    Path("tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<done>"}}))
    return "tokenizer.json"


def names(run):
    return [cost["name"] for cost in run.json["costs"]]


def test_every_part_that_the_policy_has_on_is_measured(prism, house):
    run = prism("bench", "--policy", "house.yaml", "--rounds", "2", "--json", "a fine day")
    assert run.code == 0
    assert names(run) == [
        "patterns", "sketch", "session, patterns only", "session, every tier",
        "prompt check, patterns only", "prompt check, every tier", "encoder",
    ]  # fmt: skip
    assert run.json["policy"]["id"] == "house"
    for cost in run.json["costs"]:
        assert 0 < cost["low"] <= cost["median"] <= cost["high"]
        assert cost["n"] == 2


def test_what_is_off_is_left_out(prism, plain):
    run = prism("bench", "--policy", plain, "--rounds", "1", "--json")
    assert names(run) == ["patterns", "session, patterns only", "prompt check, patterns only"]


def test_a_model_adds_the_token_layer(prism, plain, tokenizer):
    run = prism("bench", "--policy", plain, "--model", tokenizer, "--rows", "3", "--rounds", "1",
                "--json", "-", stdin="the lantern shone")  # fmt: skip
    assert names(run)[-3:] == ["token layer, build", "token layer, 1 row", "token layer, 3 rows"]


def test_as_text(prism, plain):
    run = prism("bench", "--policy", plain, "--rounds", "1", "a fine day")
    head, *lines = run.out.splitlines()
    assert head.startswith("policy plain (")
    assert head.endswith("10 characters, 1 round; CPU time, median (95 % interval)")
    assert [line.split()[0] for line in lines] == ["patterns", "session,", "prompt"]
    assert all("µs per piece" in line or line.endswith(" ms") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((" \n",), "the text has no words"),
        (("a zephyr lantern",), "the policy blocks this text"),
        (("--model", "nowhere.json"), "--model: no such file: nowhere.json"),
        (("--model", "plain.yaml"), "--model: plain.yaml is no tokenizer.json"),
        (("--model", "broken.gguf"), "--model: broken.gguf can't be read"),
        (("--policy", "nowhere.yaml"), "no such file"),
    ],
)
def test_bad_input(prism, plain, arguments, message):
    Path("broken.gguf").write_bytes(b"GGUF of another kind")
    run = prism("bench", "--policy", plain, "--rounds", "1", *arguments)
    assert run.code == 2
    assert message in run.err


def test_bad_input_as_json(prism, plain):
    run = prism("bench", "--policy", plain, "--rounds", "1", "--json", "a zephyr lantern")
    assert run.code == 2
    assert "the policy blocks this text" in run.json["error"]["message"]


def test_help_has_an_example(prism):
    assert "prism bench --policy house.yaml" in prism("bench", "--help").out
