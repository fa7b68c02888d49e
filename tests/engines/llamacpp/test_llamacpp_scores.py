"""Scores in the token layer of a script: a sketch that has learnt a canary, on the real model."""

from __future__ import annotations

import codecs
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from engine_texts import CANARY, COPY_CANARY, REFUSAL
from llama_cpp import Llama, LlamaGrammar
from tests.scores import canary_sketch

from llamacpp_prism import guard
from prism.classify.sketch import Sketch
from prism.policy import load_policy
from prism.policy.compiled import CompiledPolicy
from prism.steer.guard import TokenGuard
from prism.steer.scores import Scores, ScoreStates
from prism.steer.vocabulary import Vocabulary
from prism.types import Stage

pytestmark = pytest.mark.engine

GREEDY: dict[str, Any] = {"max_tokens": 48, "temperature": 0.0}


@pytest.fixture
def learnt(
    llama: Llama, vocabulary: Vocabulary, policy: CompiledPolicy, monkeypatch: pytest.MonkeyPatch
) -> Llama:
    """The model under the policy, whose score rules are the default one's, with that sketch."""
    monkeypatch.setattr(TokenGuard, "_cache", {})
    monkeypatch.setattr("prism.classify.sketch._shipped", lambda: canary_sketch(CANARY))
    return guard(llama, policy, vocabulary=vocabulary)


def test_where_the_score_is_too_high_the_refusal_is_said(learnt: Llama) -> None:
    answer = learnt(COPY_CANARY, **GREEDY)["choices"][0]
    assert CANARY in answer["text"][:40]  # 32 characters are read before the first look
    assert answer["text"].endswith(f"\n\n{REFUSAL}")
    assert answer["finish_reason"] == "content_filter"


def test_what_the_sketch_has_not_learnt_comes_out_as_it_would(learnt: Llama, plain: Llama) -> None:
    plain.reset()
    expected = plain("One two three four five", **GREEDY)["choices"][0]["text"]
    assert learnt("One two three four five", **GREEDY)["choices"][0]["text"] == expected


def test_under_a_grammar_the_refusal_is_said_instead(learnt: Llama) -> None:
    grammar = LlamaGrammar.from_string(f'root ::= "{CANARY}, {CANARY}, {CANARY}, {CANARY}, end"')
    text = learnt(COPY_CANARY, grammar=grammar, **GREEDY)["choices"][0]["text"]
    assert text.endswith(REFUSAL)
    assert "end" not in text


def test_a_policy_can_leave_scores_to_the_text_layer(
    learnt: Llama, vocabulary: Vocabulary, tmp_path: Any
) -> None:
    path = tmp_path / "text.yaml"
    path.write_text("prism: 1\nid: text\nextends: default\ntoken_scores: off\n")
    text = guard(learnt, load_policy(path), vocabulary=vocabulary)(COPY_CANARY, **GREEDY)
    assert text["choices"][0]["text"].count(CANARY) > 6


def test_the_real_vocabulary_scores_as_the_text_does(
    policy: CompiledPolicy, vocabulary: Vocabulary, pieces: dict[bytes, int]
) -> None:
    sketch = Sketch.shipped()
    scores = Scores.of(policy, vocabulary, sketch)
    assert scores is not None
    states, rng = ScoreStates(scores), random.Random(3)
    spell: Callable[[str], list[int]] = vocabulary.encode
    for _ in range(40):
        ids: list[int] = []
        for word in rng.choices(
            ["the ", "straße", "你好吗", "🙂", "อักษร", " a b", "\n", "zephyrs"], k=60
        ):
            raw = [pieces[bytes((b,))] for b in word.encode()] if rng.random() < 0.3 else []
            ids += rng.sample(raw, rng.randint(0, len(raw))) if rng.random() < 0.2 else raw
            ids += [] if raw else spell(word)
        states.begin(0)
        states.feed_one(0, np.array(ids, np.int64))
        text = codecs.getincrementaldecoder("utf-8")("replace").decode(vocabulary.bytes_of(ids))
        assert len(text) < 1_024
        assert states.scores(0).tobytes() == sketch.score(text, Stage.OUTPUT).tobytes()
