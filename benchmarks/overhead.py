"""What moderation costs, as ratios from one run: text layer, token row, llama.cpp.

    python benchmarks/overhead.py [--rounds 7] [--tokens 96] [--json FILE]

Moderated and unmoderated runs alternate, so that a machine whose speed drifts drifts for both; CPU
time stands beside wall time. Figures depend on the machine: compare ratios, and only within one
run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from prism.moderator import Moderator
from prism.steer.guard import TokenGuard

PROSE = (
    "The market opened early and people walked along the river, some with bread under their arms. "
    "In 1972 the bridge was closed for repairs (see the records of the town); it cost $45,000 and "
    "took a year. Nobody minded: the ferry ran every 20 minutes & was cheap. "
)


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Return wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def spread(values: list[float]) -> dict[str, float]:
    """Return median, least and most."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def text_layer(moderator: Moderator, rounds: int) -> dict[str, Any]:
    """Stream prose through a session in token-sized pieces: microseconds of CPU per piece."""
    words = [f"{word} " for word in (PROSE * 10).split(" ")]

    def stream() -> None:
        session = moderator.session()
        for word in words:
            session.feed(word)
        session.finish()

    stream()
    return spread([timed(stream)[1] / len(words) * 1e6 for _ in range(rounds)])


def llama_cpp(gguf: Path, policy: str, tokens: int, rounds: int) -> dict[str, Any]:
    """Generate with the bare and the guarded model in turn: tokens per second, and their ratio."""
    from llama_cpp import Llama

    from llamacpp_prism import guard

    def load() -> Llama:
        return Llama(str(gguf), n_ctx=512, verbose=False, seed=1)

    bare, guarded = load(), guard(load(), policy=policy)
    rows: dict[str, list[tuple[float, float]]] = {"bare": [], "guarded": []}
    models = [("bare", bare), ("guarded", guarded)]

    def generate(llama: Llama) -> None:
        llama.reset()
        llama(PROSE, max_tokens=tokens, temperature=0.0)

    for _, llama in models:
        generate(llama)
    for number in range(rounds):
        for name, llama in models if number % 2 else reversed(models):
            rows[name].append(timed(partial(generate, llama)))
    pairs = list(zip(rows["bare"], rows["guarded"], strict=True))
    return {
        "tokens": tokens,
        "bare tokens/s": spread([tokens / wall for wall, _ in rows["bare"]]),
        "guarded tokens/s": spread([tokens / wall for wall, _ in rows["guarded"]]),
        "speed ratio (wall)": spread([a[0] / b[0] for a, b in pairs]),
        "speed ratio (CPU)": spread([a[1] / b[1] for a, b in pairs]),
    }


def token_row(gguf: Path, moderator: Moderator, rounds: int) -> dict[str, Any]:
    """Drive one row outside the engine: microseconds of CPU per token, mask included."""
    from llama_cpp import Llama

    from llamacpp_prism.vocabulary import vocabulary_of

    llama = Llama(str(gguf), n_ctx=64, vocab_only=True, verbose=False)
    vocabulary = vocabulary_of(llama)
    guard = TokenGuard.compile(moderator.policy, vocabulary)
    ids = vocabulary.encode(PROSE * 4)

    def drive() -> None:
        row = guard.row([])
        output: list[int] = []
        for token in ids:
            row.step()
            output.append(token)
            row.advance(output)

    drive()
    each = spread([timed(drive)[1] / len(ids) * 1e6 for _ in range(rounds)])
    return {"vocabulary": vocabulary.size, "µs per token": each}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    default = cache / "prism" / "models" / "gemma-3-270m-q4_k_m.gguf"
    parser.add_argument("--model", type=Path, default=default, help="a GGUF file")
    parser.add_argument("--policy", default="default")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    moderator = Moderator.from_policy(options.policy)
    patterns = Moderator(replace(moderator.policy, tiers={}))
    figures = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version()},
        "numpy": np.__version__,
        "policy": options.policy,
        "patterns, µs of CPU per piece": text_layer(patterns, options.rounds),
        "patterns and models, µs of CPU per piece": text_layer(moderator, options.rounds),
        "token row": token_row(options.model, moderator, options.rounds),
        "llama.cpp": llama_cpp(options.model, options.policy, options.tokens, options.rounds),
    }
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
