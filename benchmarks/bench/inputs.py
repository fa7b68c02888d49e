"""What is measured with: vocabularies, texts by people, policies with made-up phrases."""

from __future__ import annotations

import ast
import hashlib
import json
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from prism.assure.vocabularies import read_vocabulary
from prism.match.scratch import trim
from prism.policy import load_policy
from prism.policy.compiled import CompiledPolicy, CompiledRule
from prism.steer.vocabulary import Vocabulary, VocabularyError
from prism.types import Action, Mode, Stage


@cache
def vocabulary(model: str) -> Vocabulary:
    """Return the vocabulary of a GGUF file, of which only that is read, or of a tokenizer.json."""
    try:
        return read_vocabulary(Path(model))
    except VocabularyError as error:
        fix = "`make setup` fetches the usual one; --model names another"
        raise SystemExit(f"{error} ({fix})") from None


@cache
def prose() -> str:
    """Return texts by people that every Python has: the docstrings of its standard library."""
    docs: list[str] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                docs.append(ast.get_docstring(node) or "")
    return " ".join(docs)


@cache
def _ids(model: str) -> Any:
    return np.array(vocabulary(model).encode(prose()), np.int64)


def recorded(model: str, rows: int, length: int) -> list[list[int]]:
    """Return ``rows`` texts of ``length`` tokens, from different places of :func:`prose`.

    They go on at its beginning where it ends.
    """
    ids = _ids(model)
    starts = np.linspace(0, len(ids), rows, endpoint=False).astype(np.int64)
    return [ids[(start + np.arange(length)) % len(ids)].tolist() for start in starts]


def words(count: int, skip: int = 0) -> str:
    """Return ``count`` words of prose."""
    found = prose().split()
    return " ".join(found[(skip + i) % len(found)] for i in range(count))


def phrases(count: int) -> list[str]:
    """Return ``count`` phrases of two or three made-up words, the same every time."""
    rng = random.Random(count)
    syllables = [c + v for c in "bcdfghjklmnprstvwz" for v in "aeiou"]
    made = ["".join(rng.choices(syllables, k=rng.randint(2, 4))) for _ in range(20_000)]
    found: set[str] = set()
    while len(found) < count:
        found.add(" ".join(rng.sample(made, rng.randint(2, 3))))
    return sorted(found)


def policy_with(ref: str, count: int, *, alone: bool = False) -> CompiledPolicy:
    """Return the policy ``ref`` with ``count`` more phrases, every disguise seen through.

    ``alone``: with nothing but them, no score model either.
    """
    policy = load_policy(ref)
    rules: tuple[CompiledRule, ...] = () if alone else policy.rules
    if count:
        both, names = frozenset(Stage), tuple(phrases(count))
        rules += (CompiledRule("many", "prv", both, Action.BLOCK, Mode.ENFORCE, names),)
    mark = json.dumps([policy.digest, count, alone])
    digest = hashlib.sha256(mark.encode()).hexdigest() if count or alone else policy.digest
    tiers = {} if alone else policy.tiers
    return replace(policy, rules=rules, digest=digest, tiers=tiers)


def memory() -> float:
    """Return MiB that this process keeps in memory now.

    The allocator gives back first what it only keeps for next time: building a large list does so
    too, and would otherwise be credited with what was loaded before it.
    """
    trim()
    rows = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(row.split()[1]) / 1024 for row in rows if row.startswith("Rss:"))


def blocks(values: list[float], size: int) -> Iterator[float]:
    """Yield means of ``size`` values each: single steps are too short to be told apart."""
    for start in range(0, len(values) - size + 1, size):
        yield float(np.mean(values[start : start + size]))
