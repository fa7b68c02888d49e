"""Scores in the token layer: what no phrase names is refused offline, too, in the engine itself.

Here the engine runs in the script's own process, which is another way to start it.
"""

from __future__ import annotations

import os

import pytest
from vllm_runs import HERE, result_of
from vllm_texts import CANARY, REFUSAL, says

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def found(vllm_model, vllm_env):
    paths = [str(HERE.parents[2]), vllm_env["PYTHONPATH"]]
    env = vllm_env | {
        "PYTHONPATH": os.pathsep.join(paths),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    return result_of("scores_run.py", vllm_model, env=env)


def test_where_the_score_is_too_high_the_refusal_is_said(found):
    text = found[0]["text"]
    assert says(text[:40], CANARY)  # 32 characters are read before the first look
    assert text.endswith(f"\n\n{REFUSAL}")
    assert found[0]["reason"] == "stop"


def test_others_in_the_batch_go_on(found):
    for answer in (found[1], found[3]):
        assert REFUSAL not in answer["text"]
        assert answer["reason"] == "length"


def test_under_a_grammar_the_request_is_ended(found):
    assert found[2]["reason"] == "error"
    assert found[2]["text"].count(CANARY) < 6
