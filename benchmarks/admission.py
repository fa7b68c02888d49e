"""What judging prompts adds to the time to the first token: before the engine, or beside it.

    python benchmarks/admission.py [--prefill 0.08] [--judge 0.05] [--rounds 40] [--json FILE]
    python benchmarks/admission.py --upstream http://127.0.0.1:8080 [--model NAME]

Three ways, in turn within every round and in another order each time: the engine alone, the prompt
judged first, the prompt judged while the engine is at work. The judge is a model that takes
``--judge`` seconds for every prompt (a guard model, say), and then the shipped encoder where there
is one. Without ``--upstream`` the engine is a stand-in that takes ``--prefill`` seconds to its
first token; its time is exact, so what is added can be seen.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import PropertyMock, patch

import numpy as np

from prism.classify.models import Models, ModelsError
from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.admission import Admission
from prism.http.asgi import Message, Receive, Scope, Send
from prism.http.inprocess import call
from prism.http.proxy import Proxy
from prism.http.upstream import Upstream
from prism.policy import load_policy
from prism.types import Stage

WAYS = ("engine alone", "judged first", "judged beside")
PROMPT = "Tell me about bridges, ferries and the price of bread in 1972. " * 8


class StandIn:
    """Takes ``prefill`` seconds to the first token and says ten."""

    def __init__(self, prefill: float) -> None:
        self.prefill = prefill

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind, pieces = b"application/json", [b'{"data": [{"id": "m"}]}']
        if scope["method"] == "POST":
            body = json.loads((await receive())["body"])
            pieces = [b'{"choices": [{"index": 0, "text": "fine"}]}']
            if "messages" in body:
                await asyncio.sleep(self.prefill)
                kind, pieces = b"text/event-stream", [_event("word ")] * 10 + [b"data: [DONE]\n\n"]
        head = [(b"content-type", kind)]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _event(text: str) -> bytes:
    row = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return b"data: " + json.dumps({"choices": [row]}).encode() + b"\n\n"


class Slow:
    """An encoder that takes ``seconds`` and finds nothing."""

    categories = ("harm", "inj")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def prompts(self, texts: Sequence[str]) -> Any:
        time.sleep(self.seconds)
        return np.full((len(texts), 2), 0.01, np.float32)

    def responses(self, pairs: Sequence[tuple[str | None, str]]) -> Any:
        return np.full((len(pairs), 2), 0.01, np.float32)


def settings(models: Models) -> Settings:
    """Return a server's settings whose every prompt is read by the encoder."""
    policy = load_policy("default")
    threshold = replace(policy.rules[0], id="harm", category="harm", phrases=(), regexes=(),
                        thresholds={Stage.PROMPT: 0.99}, plain_language=None)  # fmt: skip
    tiers = {"patterns": "on", "encoder": "on"}
    made = Settings(replace(policy, rules=(*policy.rules, threshold), tiers=tiers))
    made.__dict__["models"] = models
    return made


async def first_token(app: Any, model: str | None) -> float:
    """Return the seconds to the first piece of an answer's body."""
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": PROMPT}], "stream": True}
    asked |= {"max_tokens": 4, "temperature": 0}
    if model is not None:
        asked["model"] = model
    body = json.dumps(asked).encode()
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    over = asyncio.Event()
    came: list[float] = []

    async def receive() -> Message:
        if waiting:
            return waiting.pop()
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200, message
        elif message.get("body") and not came:
            came.append(time.perf_counter())
        if message["type"] == "http.response.body" and not message.get("more_body"):
            over.set()

    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": head,
             "http_version": "1.1", "query_string": b""}  # fmt: skip
    begun = time.perf_counter()
    await app(scope, receive, send)
    return came[0] - begun


@contextmanager
def first(wanted: bool) -> Any:
    """Have every prompt judged before the engine hears of it."""
    if not wanted:
        yield
        return
    with patch.object(Admission, "quick", new_callable=PropertyMock, return_value=True):
        yield


async def measure(options: argparse.Namespace, models: Models) -> dict[str, Any]:
    """Return milliseconds to the first token, per way."""
    upstream = None if options.upstream is None else Upstream(options.upstream)
    engine = StandIn(options.prefill) if upstream is None else Proxy(upstream)
    app = PrismMiddleware(engine, settings=settings(models))
    for _ in range(6000):
        if (await call(app, "GET", "/prism/health", patience=600)).status == 200:
            break
        await asyncio.sleep(0.1)
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(-2, options.rounds):  # two to warm up
        for way in WAYS if number % 2 else reversed(WAYS):
            with first(way == "judged first"):
                taken = await first_token(engine if way == WAYS[0] else app, options.model)
            if number >= 0:
                times[way].append(taken * 1000)
    await app.selftest.stop()
    if upstream is not None:
        await upstream.aclose()
    alone = statistics.median(times[WAYS[0]])
    return {
        way: {
            "median": round(statistics.median(values), 2),
            "p90": round(statistics.quantiles(values, n=10)[-1], 2),
            "added, median": round(statistics.median(values) - alone, 2),
        }
        for way, values in times.items()
    }


def shipped() -> Models | None:
    """Return the shipped models, if they can be loaded."""
    models = Models()
    try:
        _ = models.encoder
    except ModelsError:
        return None
    return models


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--prefill", type=float, default=0.08, help="seconds, of the stand-in")
    parser.add_argument("--judge", type=float, default=0.05, help="seconds, of the slow judge")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--upstream", help="a server to ask instead of the stand-in")
    parser.add_argument("--model", help="the model to ask the server for")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    judges: list[tuple[str, Callable[[], Models | None]]] = [
        (f"a judge of {options.judge * 1000:g} ms",
         lambda: Models(encoder=Slow(options.judge))),
        ("the shipped encoder", shipped),
    ]  # fmt: skip
    figures: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version()},
        "engine": options.upstream or f"stand-in, {options.prefill * 1000:g} ms to the first token",
    }
    for name, make in judges:
        models = make()
        figures[f"ms to the first token, {name}"] = (
            "not there" if models is None else asyncio.run(measure(options, models))
        )
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
