"""Policies as code: load, combine, check, compare and test them."""

from prism.policy.compiled import (
    SELFTEST_PHRASE,
    SELFTEST_RULE,
    CompiledPolicy,
    CompiledRegex,
    CompiledRule,
)
from prism.policy.compiler import load_policy
from prism.policy.compose import apply_floor, dominates, missing_from, stricter
from prism.policy.errors import PolicyError, Problem
from prism.policy.store import shipped_names

__all__ = [
    "SELFTEST_PHRASE",
    "SELFTEST_RULE",
    "CompiledPolicy",
    "CompiledRegex",
    "CompiledRule",
    "PolicyError",
    "Problem",
    "apply_floor",
    "dominates",
    "load_policy",
    "missing_from",
    "shipped_names",
    "stricter",
]
