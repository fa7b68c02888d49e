"""The parts, in the order they run: quick ones first, engines last."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from bench.settings import Part

NAMES = ("layers", "step", "batch", "phrases", "tenants", "length", "memory", "peers",
         "llamacpp", "vllm")  # fmt: skip


def part(name: str) -> Part:
    """Return the part of that name; what it needs is imported only now."""
    return cast(Part, import_module(f"bench.parts.{name}"))
