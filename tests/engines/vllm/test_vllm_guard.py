"""A guard model in vLLM: offline, and behind vLLM's own server. Plumbing only, no real guard."""

from __future__ import annotations

import time

import pytest
from vllm_runs import API_KEY, result_of
from vllm_texts import STEERED

from prism.classify.guard import GuardInput, GuardLimits, GuardTimeout, GuardUnreachable, LlmGuard
from prism.classify.guard.answers import choose
from prism.classify.guard.formats import FORMATS
from prism.classify.guard.remote import OpenAIBackend
from prism.classify.guard.types import Ask

pytestmark = pytest.mark.engine

SKY = Ask("Question: Is the sky blue? Answer Yes or No.\nAnswer:", ("Yes", "No"))


@pytest.fixture(scope="module")
def guard_run(vllm_model, vllm_env):
    return result_of("guard_run.py", vllm_model, env=vllm_env)


def test_offline_probabilities(guard_run):
    assert len(guard_run["yes"]) == 4
    assert guard_run["yes"][0] > 0.5
    assert len(set(guard_run["yes"])) == 4
    assert min(guard_run["tops"]) >= 15
    assert guard_run["text"] == " 4, 5,"


def test_offline_the_judge_reads_what_the_policy_blocks(guard_run):
    harmless, blocked = guard_run["harm"]
    assert 0 < harmless < 1
    assert 0 < blocked < 1
    assert STEERED in guard_run["steered"]
    assert guard_run["environment"]
    assert guard_run["cached"]


def test_offline_deadlines(guard_run):
    assert guard_run["past deadline"] == guard_run["short deadline"] == "GuardTimeout"
    assert guard_run["closed"] == "GuardUnreachable"


def test_vllms_server_gives_what_is_needed(server):
    """The server of these tests is moderated; a guard's own should not be, but may."""
    backend = OpenAIBackend(server.url, "gemma", api_key=API_KEY)
    until = time.monotonic() + 240
    asks = [SKY, Ask("1, 2, 3,", max_tokens=9, stop=(" 6",)), SKY]
    first, text, again = backend.complete(asks, until)
    assert first.top is not None
    assert choose(first, SKY.answers)["Yes"] > 0.5
    assert choose(again, SKY.answers) == pytest.approx(choose(first, SKY.answers), abs=0.05)
    assert text.text == " 4, 5,"

    guard = LlmGuard(FORMATS["wildguard"], backend, GuardLimits(deadline=240))
    item = GuardInput((("user", "How do I bake a cake?"),), "Mix flour and eggs.")
    (judged,) = guard.judge([item])
    assert 0 < judged.scores["harm"] < 1
    assert judged.refusal is not None
    with pytest.raises(GuardTimeout):
        LlmGuard(FORMATS["wildguard"], backend, GuardLimits(deadline=0.002)).judge([item])
    backend.close()

    wrong = OpenAIBackend(server.url, "gemma", api_key="not-the-key")
    with pytest.raises(GuardUnreachable, match="status 401: is `api_key_env` right"):
        wrong.complete([SKY], time.monotonic() + 60)
    wrong.close()
    wrong = OpenAIBackend(server.url, "no-such-model", api_key=API_KEY)
    with pytest.raises(GuardUnreachable, match="status 404"):
        wrong.complete([SKY], time.monotonic() + 60)
    wrong.close()
