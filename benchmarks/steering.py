"""What the token layer costs a step: recorded rows, driven outside the engine.

    python benchmarks/steering.py --model MODEL.gguf [--rows 256] [--phrases 0,1000] [--json FILE]

Rows are texts by people (the docstrings of Python's standard library) in the model's own tokens, so
one run needs neither weights nor data. Each step reads one token per row and finds the mask of the
next one, as vLLM's V1 runner has it done; writing the mask into logits is not part of it. Phrases
are two or three made-up words, every disguise seen through, on top of the default policy's.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import random
import resource
import sys
import sysconfig
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from prism.policy import load_policy
from prism.policy.compiled import CompiledPolicy, CompiledRule
from prism.steer.batch import Batch
from prism.steer.guard import TokenGuard
from prism.steer.vocabulary import Vocabulary
from prism.types import Action, Mode, Stage


def spread(values: list[float]) -> dict[str, float]:
    """Return median, least and most."""
    return {"median": float(np.median(values)), "min": min(values), "max": max(values)}


def policy_with(count: int) -> CompiledPolicy:
    """Return the default policy with ``count`` more phrases."""
    policy = load_policy("default")
    if not count:
        return policy
    rng = random.Random(count)
    syllables = [c + v for c in "bcdfghjklmnprstvwz" for v in "aeiou"]
    words = ["".join(rng.choices(syllables, k=rng.randint(2, 4))) for _ in range(20_000)]
    phrases: set[str] = set()
    while len(phrases) < count:
        phrases.add(" ".join(rng.sample(words, rng.randint(2, 3))))
    both, names = frozenset(Stage), tuple(sorted(phrases))
    rule = CompiledRule("many", "prv", both, Action.BLOCK, Mode.ENFORCE, names)
    digest = hashlib.sha256(repr(names).encode()).hexdigest()
    return replace(policy, rules=(*policy.rules, rule), digest=digest)


def recorded(llama: Any, rows: int, length: int) -> list[list[int]]:
    """Return ``rows`` texts of ``length`` tokens."""
    docs: list[str] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                docs.append(ast.get_docstring(node) or "")
    ids = llama.tokenize(" ".join(docs).encode(), add_bos=False, special=False)
    step = len(ids) // rows
    if step < length:
        raise SystemExit(f"only {len(ids)} tokens of text for {rows} rows of {length}")
    return [ids[i * step : i * step + length] for i in range(rows)]


def measure(vocabulary: Vocabulary, count: int, texts: list[list[int]]) -> dict[str, Any]:
    """Build a guard and drive it: seconds to build, microseconds per step and per row."""
    policy = policy_with(count)
    begun, memory = time.process_time(), _megabytes()
    guard = TokenGuard(policy, vocabulary)
    build = time.process_time() - begun
    batch = Batch(guard)
    rows = [batch.row([]) for _ in texts]
    outputs: list[list[int]] = [[] for _ in texts]
    wall, cpu, banned = [], [], 0
    for step in range(len(texts[0])):
        start, used = time.perf_counter(), time.process_time()
        masks = batch.step(rows, outputs)
        wall.append((time.perf_counter() - start) * 1e6)
        cpu.append((time.process_time() - used) * 1e6)
        banned += len(masks.ids)
        for output, text in zip(outputs, texts, strict=True):
            output.append(text[step])
    wall, cpu = wall[4:], cpu[4:]  # the first ones load what numba has compiled
    steps = len(texts) * len(texts[0])
    return {
        "phrases": count,
        "build_cpu_s": build,
        "memory_mib": _megabytes() - memory,
        "step_wall_us": {**spread(wall), "p99": float(np.quantile(wall, 0.99))},
        "step_cpu_us": spread(cpu),
        "row_cpu_us": float(np.mean(cpu)) / len(texts),
        "banned_per_row": banned / steps,
        "refusing": sum(row.refusing for row in rows),
    }


def _megabytes() -> float:
    """Most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file; only its tokens")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--phrases", default="0,100,1000")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from llama_cpp import Llama

    from llamacpp_prism.vocabulary import vocabulary_of

    llama = Llama(str(options.model), vocab_only=True, verbose=False)
    vocabulary = vocabulary_of(llama)
    texts = recorded(llama, options.rows, options.tokens)
    begun = time.process_time()
    _ = vocabulary.lookups
    print(f"vocabulary: {vocabulary.size} tokens, {time.process_time() - begun:.1f} s of CPU")
    results = []
    for count in map(int, options.phrases.split(",")):
        result = measure(vocabulary, count, texts)
        results.append(result)
        step = result["step_cpu_us"]
        print(
            f"{count:>7} phrases: build {result['build_cpu_s']:.1f} s, a step of {options.rows} "
            f"rows {step['median']:.0f} us of CPU ({step['min']:.0f}-{step['max']:.0f}), "
            f"{result['row_cpu_us']:.2f} us a row, {result['banned_per_row']:.2f} banned a row",
            file=sys.stderr if options.json else sys.stdout,
        )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
