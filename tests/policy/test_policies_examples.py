"""The example policies: clean, and doing what their tests say."""

from __future__ import annotations

import pytest

from prism.documents import shipped_dir
from prism.policy.lint import lint
from prism.policy.testing import SUFFIX, load_suite, run_suite

TESTED = sorted((shipped_dir() / "examples").glob(f"*{SUFFIX}"))


@pytest.mark.parametrize("path", TESTED, ids=lambda p: p.name)
def test_examples_are_clean_and_pass(path):
    policy = path.with_name(path.name.removesuffix(SUFFIX) + ".yaml")
    assert lint(policy) == lint(path) == ()
    assert [str(o) for o in run_suite(load_suite(policy)) if not o.passed] == []
