"""llama.cpp's own routes on the real server, behind the proxy."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from engine_texts import BLOCKED, REFUSAL, STEERED

pytestmark = pytest.mark.engine

SAYS_IT = f"{STEERED}, {STEERED}, {STEERED}, {STEERED},"
FINE = "1, 2, 3, 4,"
TIMEOUT = 120


def post(server: Any, path: str, **body: Any) -> httpx.Response:
    asked = {"temperature": 0, "n_predict": 12, "seed": 1, "cache_prompt": False, **body}
    return httpx.post(server.url + path, json=asked, timeout=TIMEOUT)


def rows(reply: httpx.Response) -> list[dict[str, Any]]:
    found = [line.removeprefix("data: ") for line in reply.text.split("\n\n")]
    return [row for row in map(json.loads, filter(_is_json, found)) if row is not None]


def _is_json(line: str) -> bool:
    return line.startswith(("{", "null"))


def text(found: list[dict[str, Any]], index: int = 0) -> str:
    return "".join(row["content"] for row in found if row["index"] == index)


def test_a_harmless_answer_is_the_same_with_and_without(native: Any, moderated: Any) -> None:
    for path in ("/completion", "/completions"):
        bare, ours = (post(s, path, prompt=FINE).json() for s in (native, moderated))
        same = ("content", "index", "stop", "stop_type", "stopping_word", "tokens_predicted",
                "tokens_evaluated", "truncated", "has_new_line")  # fmt: skip
        assert {key: ours[key] for key in same} == {key: bare[key] for key in same}
        assert set(ours) <= set(bare)
        assert ours["generation_settings"]["n_predict"] == 12
        bare_rows, our_rows = (
            rows(post(s, path, prompt=FINE, stream=True)) for s in (native, moderated)
        )
        assert text(our_rows) == text(bare_rows) == bare["content"]
        assert our_rows[-1]["stop"] is bare_rows[-1]["stop"] is True
        assert our_rows[-1]["stop_type"] == bare_rows[-1]["stop_type"]


def test_a_blocked_prompt_is_answered_without_the_engine(moderated: Any) -> None:
    got = post(moderated, "/completion", prompt=f"What is {BLOCKED}?").json()
    assert (got["content"], got["stop_type"]) == (REFUSAL, "content_filter")
    streamed = rows(post(moderated, "/completion", prompt=f"What is {BLOCKED}?", stream=True))
    assert (text(streamed), streamed[-1]["stop_type"]) == (REFUSAL, "content_filter")


def test_what_the_model_may_not_say_stays_here(native: Any, moderated: Any) -> None:
    assert STEERED in post(native, "/completion", prompt=SAYS_IT).json()["content"]
    reply = post(moderated, "/completion", prompt=SAYS_IT, n_probs=2)
    assert (reply.json()["content"], reply.json()["stop_type"]) == (REFUSAL, "content_filter")
    assert "completion_probabilities" not in reply.json()
    streamed = post(moderated, "/completion", prompt=SAYS_IT, stream=True, n_probs=2)
    found = rows(streamed)
    assert found[-1]["stop_type"] == "content_filter"
    assert STEERED not in text(found)
    assert "lantern" not in "".join(json.dumps({**row, "prompt": ""}) for row in found)


def test_several_prompts_and_probabilities(native: Any, moderated: Any) -> None:
    asked = {"prompt": [FINE, SAYS_IT], "n_probs": 2}
    bare, ours = (post(s, "/completion", **asked).json() for s in (native, moderated))
    assert [row["index"] for row in ours] == [row["index"] for row in bare] == [0, 1]
    assert ours[0]["content"] == bare[0]["content"]
    assert ours[1]["content"] == REFUSAL
    tokens = [row["token"] for row in ours[0]["completion_probabilities"]]
    assert tokens == [row["token"] for row in bare[0]["completion_probabilities"]]
    found = rows(post(moderated, "/completion", stream=True, **asked))
    assert text(found, 0) == bare[0]["content"]
    assert [row["stop_type"] for row in found if row["stop"] and row["index"] == 1] == [
        "content_filter"
    ]


def test_fields_stop_strings_and_errors(native: Any, moderated: Any) -> None:
    wanted = {"prompt": FINE, "response_fields": ["content", "generation_settings/n_predict"]}
    bare, ours = (post(s, "/completion", **wanted).json() for s in (native, moderated))
    assert ours == bare
    bare, ours = (
        post(s, "/completion", prompt=FINE, stop=[" 6"]).json() for s in (native, moderated)
    )
    same = ("content", "stop_type", "stopping_word")
    assert {key: ours[key] for key in same} == {key: bare[key] for key in same}
    assert ours["stop_type"] == "word"
    # This model has no tokens for infilling, and the server says so.
    body = {"input_prefix": "def f(", "input_suffix": "return 1", "prompt": ""}
    bare_reply, our_reply = (post(s, "/infill", **body) for s in (native, moderated))
    assert (our_reply.status_code, our_reply.json()) == (bare_reply.status_code, bare_reply.json())
    blocked = {**body, "input_suffix": f"return {BLOCKED}"}
    assert post(moderated, "/infill", **blocked).json()["content"] == REFUSAL
