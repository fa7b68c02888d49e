"""Whatever a file holds, the answer is a policy or a ``PolicyError`` with a place and a message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prism.documents import shipped_dir
from prism.policy import PolicyError, Problem, load_policy
from prism.policy.model import PolicyFile, RuleEntry

SEED = (shipped_dir() / "permissive.yaml").read_text()
PIECES = [*"\t\n :-[]{}'\"#&*!|>%@`,?\\", "\n  - ", ": ", "- {", "\ud800", "\x85", "…", "~", "off"]
KEYS = [*PolicyFile.model_fields, *RuleEntry.model_fields, "zephyr"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("all"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "house.yaml"


def load(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    problems: list[Problem | None] = []
    try:
        assert load_policy(path).digest
    except PolicyError as error:
        problems.extend(error.problems or [None])
    assert all(p is not None and p.message and p.file for p in problems)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200))
def test_any_bytes(path, content):
    load(path, content)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, len(SEED)), st.integers(0, 12), st.sampled_from(PIECES))
def test_a_policy_with_an_accident(path, at, cut, piece):
    load(path, (SEED[:at] + piece + SEED[at + cut :]).encode("utf-8", "surrogatepass"))


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=6))
def test_any_structure(path, data):
    load(path, json.dumps({"prism": 1, "id": "a", **data}).encode())
