"""The taxonomy: the twelve hazards, what is added, and how others name the same."""

from __future__ import annotations

import re

import pytest

from prism.taxonomy import marginal_risk, taxonomy

AILUMINATE = ["vcr", "ncr", "src", "cse", "dfm", "spc", "prv", "ipv", "iwp", "hte", "ssh", "sxc"]
EXTENSIONS = ["cyb", "fra", "dis", "inj", "ele", "cia", "pii", "tox", "tst"]


def test_the_categories():
    categories = taxonomy().categories
    assert [k for k, c in categories.items() if c.hub == "ailuminate"] == AILUMINATE
    assert [k for k, c in categories.items() if c.hub == "extension"] == EXTENSIONS
    assert all(c.title and c.description for c in categories.values())


@pytest.mark.parametrize(
    ("code", "category"),
    zip([f"S{n}" for n in range(1, 15)], [*AILUMINATE, "ele", "cia"], strict=True),
)
def test_llama_guard(code, category):
    assert taxonomy().from_llama_guard(code) == category


def test_an_unknown_llama_guard_code():
    with pytest.raises(KeyError):
        taxonomy().from_llama_guard("S15")


def test_every_mapping_names_its_source():
    frameworks = taxonomy().frameworks
    assert set(frameworks) == {
        "llama_guard", "openai", "openai_moderation", "anthropic", "mistral", "llama", "gemma",
        "rail",
    }  # fmt: skip
    for framework in frameworks.values():
        assert framework.source_url.startswith("https://")
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", framework.retrieved)
        assert len({h.heading for h in framework.headings}) == len(framework.headings)


def test_every_category_but_the_self_test_is_named_by_somebody():
    mapped = {
        key
        for framework in taxonomy().frameworks.values()
        for heading in framework.headings
        for key in heading.categories
    }
    assert set(taxonomy().categories) - mapped == {"tst"}


def test_every_category_has_its_six_steps_and_a_baseline():
    register = marginal_risk()
    assert set(register) == set(taxonomy().categories)
    for entry in register.values():
        assert len(entry.model_dump()) == 7
        assert all(value.strip() for value in entry.model_dump().values())


def test_the_taxonomy_is_read_only():
    with pytest.raises(TypeError):
        taxonomy().categories["new"] = None  # type: ignore[index]
