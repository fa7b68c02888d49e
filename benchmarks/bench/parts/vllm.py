"""vLLM's own server on the CPU: everything on against the bare engine, side by side.

Both servers are up at once, so that rounds can alternate; an idle one waits without work. The bare
one is the same process without the middleware and without the plugins that vLLM would find
(``bench/bare``). Answers have a fixed length, greedily; each prompt is a text of its own, and no
prefix is cached.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.inputs import words
from bench.rows import CPU, NONE, WALL, Row
from bench.servers import Server, environment, free_port, serving
from bench.settings import Case, Settings

TITLE = "vLLM on the CPU: everything on against bare"
ENGINE = True
_ARMS = ("bare", "everything")
_HERE = Path(__file__).parents[1]
_ROOT = _HERE.parents[1]
_START = 600
_CANDIDATES = 48


@dataclass(frozen=True, slots=True)
class Round:
    """Requests that ran together: seconds in all, seconds of CPU, seconds to each first token."""

    seconds: float
    cpu: float
    firsts: list[float]


def cases(settings: Settings) -> list[Case]:
    """One: the servers start once."""
    return [{}]


def measure(settings: Settings, case: Case) -> Iterator[Row]:
    """Yield tokens per second, time to the first token, CPU time and memory of both arms."""
    tokens = settings.pick(64, 8)
    batches = settings.counts((1, 8, 16), (2,))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        arms = {name: stack.enter_context(_server(name, settings, folder)) for name in _ARMS}
        prompts = _fitting(arms, tokens, settings.pick(_CANDIDATES, 6), max(batches))
        for batch in batches:
            taken: dict[str, list[Round]] = {name: [] for name in _ARMS}
            for number in range(settings.times(5 if batch > 1 else 7) + 1):
                for name in _ARMS if number % 2 else reversed(_ARMS):
                    some = [prompts[(number + i) % len(prompts)] for i in range(batch)]
                    done = _round(arms[name], some, tokens)
                    if number:
                        taken[name].append(done)
            yield from _rows(taken, batch, tokens)
        for name, server in arms.items():
            yield Row.of("memory of the server", "MiB", [server.memory()], clock=NONE, arm=name)


def _rows(taken: dict[str, list[Round]], batch: int, tokens: int) -> Iterator[Row]:
    at, said = {"batch": batch, "tokens": tokens}, batch * tokens
    for name, rounds in taken.items():
        yield Row.of(
            "speed", "tokens/s", [said / r.seconds for r in rounds], clock=WALL, arm=name, at=at
        )
        yield Row.of("CPU of a token", "ms", [r.cpu / said * 1e3 for r in rounds], arm=name, at=at)
        firsts = [first * 1e3 for r in rounds for first in r.firsts]
        yield Row.of("first token", "ms", firsts, clock=WALL, arm=name, at=at)
    pairs = list(zip(taken["bare"], taken["everything"], strict=True))
    for clock, ratios in (
        (WALL, [bare.seconds / full.seconds for bare, full in pairs]),
        (CPU, [bare.cpu / full.cpu for bare, full in pairs]),
    ):
        yield Row.of("speed against bare", "ratio", ratios, clock=clock, arm="everything", at=at)


def _server(name: str, settings: Settings, folder: Path) -> Any:
    converted = subprocess.run(
        [sys.executable, str(_ROOT / "scripts" / "convert_gemma.py")],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    port = free_port()
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", converted.stdout.strip(), "--served-model-name", "gemma",
        "--dtype", "bfloat16", "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "16",
        "--no-enable-prefix-caching", "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    environ = environment(
        VLLM_CPU_KVCACHE_SPACE="1", VLLM_LOGGING_LEVEL="WARNING", VLLM_NO_USAGE_STATS="1",
        HF_HUB_OFFLINE="1", TORCH_COMPILE_DISABLE="1",
    )  # fmt: skip
    ready = "/health"
    if name == "bare":
        environ["PYTHONPATH"] = str(_HERE / "bare")
        # Whatever of PRISM were loaded after all would not start with such a policy.
        environ["PRISM_POLICY"] = str(folder / "no-policy.yaml")
    else:
        command += ["--middleware", "vllm_prism.PrismMiddleware"]
        environ["PRISM_POLICY"] = settings.policy
        ready = "/prism/health"
    return serving(command, environ, port, ready, folder / f"{name}.log", _START)


def _fitting(arms: dict[str, Server], tokens: int, candidates: int, least: int) -> list[str]:
    """Return prompts whose answers no arm ends early; asking them warms the servers up, too."""
    texts = [words(40, skip=1000 + 97 * number) for number in range(candidates)]
    for server in arms.values():
        fitting = []
        for start in range(0, len(texts), least):
            some = texts[start : start + least]
            results = asyncio.run(_asked(server.url, some, tokens))
            fitting += [text for text, (_, n) in zip(some, results, strict=True) if n == tokens]
        texts = fitting
    if len(texts) < least:
        raise SystemExit(f"only {len(texts)} of {candidates} prompts are answered in full")
    return texts


def _round(server: Server, prompts: list[str], tokens: int) -> Round:
    """Ask all prompts at once."""
    cpu, begun = server.cpu(), time.perf_counter()
    results = asyncio.run(_asked(server.url, prompts, tokens))
    seconds, used = time.perf_counter() - begun, server.cpu() - cpu
    said = [count for _, count in results]
    if said != [tokens] * len(prompts):
        raise SystemExit(f"answers of {said} tokens, not {tokens}")
    return Round(seconds, used, [first - begun for first, _ in results])


async def _asked(url: str, prompts: list[str], tokens: int) -> list[tuple[float, int]]:
    limits = httpx.Limits(max_connections=len(prompts))
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        return await asyncio.gather(*(_ask(client, prompt, tokens) for prompt in prompts))


async def _ask(client: httpx.AsyncClient, prompt: str, tokens: int) -> tuple[float, int]:
    """Return when the first text came, and how many tokens; 0 where the policy ended it."""
    # The moderated engine clears ignore_eos, so that a refusal can end; min_tokens works for both.
    asked = {
        "model": "gemma", "prompt": prompt, "stream": True, "temperature": 0,
        "max_tokens": tokens, "min_tokens": tokens, "stream_options": {"include_usage": True},
    }  # fmt: skip
    first, said, reason = 0.0, 0, None
    async with client.stream("POST", "/v1/completions", json=asked) as reply:
        if reply.status_code != 200:
            return time.perf_counter(), 0
        async for line in reply.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            for choice in event.get("choices", ()):
                if choice.get("text") and not first:
                    first = time.perf_counter()
                reason = choice.get("finish_reason") or reason
            if event.get("usage"):
                said = event["usage"]["completion_tokens"]
    return first or time.perf_counter(), said if reason == "length" else 0
