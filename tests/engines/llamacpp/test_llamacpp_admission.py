"""Prompts judged while llama.cpp is at work in the same process: a block gives the engine back."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from engine_texts import BLOCKED, REFUSAL

pytestmark = pytest.mark.engine

SLOW = """
import time
from prism.session import Session
inner = Session.check_prompt
def slow(session, prompt):
    time.sleep(1.0 if "linger" in str(prompt) else 0.0)
    return inner(session, prompt)
Session.check_prompt = slow
Session.waits = lambda session, chars, ends=True: True
"""
MANY = 300


def ask(url: str, prompt: str, tokens: int, *, stream: bool = True) -> tuple[str, float]:
    body = {
        "prompt": prompt, "stream": stream, "max_tokens": tokens, "temperature": 0,
        "logit_bias": {"1": -100},
    }  # fmt: skip
    begun = time.monotonic()
    reply = httpx.post(f"{url}/v1/completions", json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    return reply.text, time.monotonic() - begun


def test_a_block_gives_the_engine_back(serving: Any) -> None:
    with serving(fault=SLOW) as server:
        whole, took = ask(server.url, "Count: one, two, three,", MANY)
        assert whole.count("data: {") > MANY // 2
        refused, _ = ask(server.url, f"linger with the {BLOCKED}", MANY)
        assert REFUSAL in refused
        assert refused.count("data: {") < 5
        _, next_one = ask(server.url, "Count: one, two, three,", 1)
        assert next_one < took / 2  # the engine was not busy with what was refused

        # An answer in one piece can't be stopped in llama.cpp, so it is not begun.
        refused, _ = ask(server.url, f"linger with the {BLOCKED}", MANY, stream=False)
        assert REFUSAL in refused
        _, next_one = ask(server.url, "Count: one, two, three,", 1)
        assert next_one < took / 2
