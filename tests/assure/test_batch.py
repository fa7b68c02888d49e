"""Rows judged together get what each would get alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from prism.assure.batch import Judge, Row, RowError, judge_lines
from prism.classify.models import Models
from prism.moderator import Moderator
from prism.policy import load_policy

GOOD = {
    b'{"id": 7, "prompt": "hello"}': Row(1, 7, "hello"),
    b'{"prompt": "hello", "response": "world", "label": 1}': Row(1, None, "hello", "world"),
    b'{"id": "a", "response": ""}': Row(1, "a", None, ""),
    b'{"id": "a", "prompt": [{"role": "user", "content": "hi"}]}': Row(
        1, "a", [{"role": "user", "content": "hi"}]
    ),
}
BAD = {
    b"{": "not JSON",
    b"[" * 100_000: "not JSON",
    b"\xff": "not JSON",
    b"[]": "not an object",
    b'{"id": 1, "prompt": null}': "neither",
    b'{"id": 1, "prompt": 5}': "neither a text nor a list",
    b'{"id": 1, "prompt": ["hi"]}': "neither a text nor a list",
    b'{"id": 1, "response": ["hi"]}': "not a text",
    b'{"id": 1, "prompt": "\\ud800"}': "surrogate",
    b'{"id": 1e400, "prompt": "hi"}': "no word for",
    b'{"id": {"a": NaN}, "prompt": "hi"}': "no word for",
}


@pytest.mark.parametrize(("raw", "row"), GOOD.items())
def test_rows(raw, row):
    assert Row.parse(1, raw) == row


@pytest.mark.parametrize(("raw", "message"), BAD.items())
def test_bad_rows(raw, message):
    with pytest.raises(RowError, match=message):
        Row.parse(1, raw)


class Counting:
    """An encoder whose scores follow from the text alone, and that counts its calls."""

    categories = ("harm", "inj", "cyb")

    def __init__(self):
        self.calls = []

    def prompts(self, texts):
        self.calls.append(len(texts))
        return np.array([[len(t) % 10 / 10, 0.25, 0.5] for t in texts], np.float32)

    def responses(self, pairs):
        self.calls.append(len(pairs))
        return np.array([[len(r) % 7 / 7, 0.5, len(p or "") % 3 / 3] for p, r in pairs], np.float32)


@pytest.fixture
def encoded(house, monkeypatch):
    text = (house / "house.yaml").read_text().replace("sketch: on, encoder: off", "encoder: on")
    text = text.replace("sketch", "sketch: off, sketch").replace("action: flag", "action: block")
    (house / "encoded.yaml").write_text(text)
    encoder = Counting()
    models = Models(encoder=encoder)
    monkeypatch.setattr(Models, "shared", lambda: models)
    return load_policy("encoded.yaml"), encoder, models


ROWS = [
    Row(
        i,
        i,
        f"tell me {'more ' * (i % 9)}" if i % 3 else None,
        "well, " * (i % 50 + 1) if i % 2 else None,
    )
    for i in range(1, 120)
    if i % 3 or i % 2
]


def test_a_batch_is_encoded_in_few_calls_and_means_what_single_texts_mean(encoded):
    policy, encoder, models = encoded
    results = list(Judge(policy).judge(ROWS))
    together = len(encoder.calls)
    moderator = Moderator(policy, models)
    for row, result in zip(ROWS, results, strict=True):
        decisions = []
        if row.prompt is not None:
            decisions.append(moderator.check_prompt(row.prompt))
        if row.response is not None:
            decisions.append(moderator.check_output(row.response, row.prompt))
        assert result["action"] == str(max(d.action for d in decisions))
        assert result["categories"]["inj"] == max(d.scores["inj"] for d in decisions)
        assert result["categories"]["cyb"] == decisions[-1].scores["cyb"]
        if row.response is not None and decisions[-1].blocked:  # read on to its end
            windows = {min(i, 384) % 7 / 7 for i in (*range(128, len(row.response), 128),)}
            whole = max(windows | {min(384, len(row.response)) % 7 / 7})
            assert result["score"] == round(float(np.float32(whole)), 6)
        else:
            assert result["score"] == decisions[-1].scores["harm"]
        assert "harm" not in result["categories"]
    assert together < len(encoder.calls[together:]) / 4
    assert max(encoder.calls) > 1


def test_the_judge_remembers_no_text_of_an_earlier_batch(encoded):
    policy, encoder, _ = encoded
    judge = Judge(policy)
    first = list(judge.judge(ROWS[:5]))
    calls = len(encoder.calls)
    assert list(judge.judge(ROWS[:5])) == first
    assert len(encoder.calls) > calls


def test_the_score_is_the_responses_where_there_is_one(house):
    judge = Judge(load_policy("house.yaml"))
    lines = [
        (1, b'{"id": "p", "prompt": "tell me about lanterns"}'),
        (2, b'{"id": "r", "response": "they are lamps"}'),
        (3, b'{"id": "b", "prompt": "tell me about lanterns", "response": "they are lamps"}'),
    ]
    prompt, response, both = judge_lines(judge, lines)
    assert both["score"] == response["score"] != prompt["score"]
    assert both["categories"]["inj"] == max(r["categories"]["inj"] for r in (prompt, response))
    assert both["tiers"] == {**prompt["tiers"], **response["tiers"]}
    assert both["tiers"]["prompt.sketch"] == both["tiers"]["output.patterns"] == "ran"


def test_a_response_that_patterns_end_is_scored_to_its_end(house):
    judge = Judge(load_policy("house.yaml"))
    tail = "you worthless idiot, I hate you and everybody like you"
    lines = [
        (1, json.dumps({"response": tail}).encode()),
        (2, json.dumps({"response": f"a zephyr lantern. {tail}"}).encode()),
        (3, json.dumps({"response": "a zephyr lantern", "prompt": "what is this?"}).encode()),
    ]
    plain, stopped, brief = judge_lines(judge, lines)
    assert (plain["decision"], stopped["decision"], brief["decision"]) == (
        "allow", "block", "block",
    )  # fmt: skip
    assert plain["score"] > 0.5
    assert stopped["score"] > 0.5
    assert 0 <= brief["score"] < 0.5
    assert stopped["tiers"] == {"output.patterns": "ran", "output.sketch": "ran"}
    assert stopped["policy"] == load_policy("house.yaml").digest


def test_a_response_that_a_score_ends_is_scored_to_its_end(house):
    text = (house / "house.yaml").read_text().replace("action: flag", "action: block")
    (house / "strict.yaml").write_text(text)
    words = "I hate you, you stupid worthless idiot. " * 2 + "The weather was mild. " * 40
    lines = [(1, json.dumps({"response": words + "you worthless idiot " * 5}).encode())]
    (flagged,) = judge_lines(Judge(load_policy("house.yaml")), lines)
    (blocked,) = judge_lines(Judge(load_policy("strict.yaml")), lines)
    assert (flagged["action"], blocked["action"]) == ("flag", "block")
    assert (blocked["score"], blocked["categories"]) == (flagged["score"], flagged["categories"])


def test_there_is_no_harm_in_nothing(house):
    judge = Judge(load_policy("house.yaml"))
    rows = [Row(1, 1, ""), Row(2, 2, "tell me more", ""), Row(3, 3, [{"role": "user"}])]
    assert [result["score"] for result in judge.judge(rows)] == [0.0, 0.0, 0.0]
    text = (house / "house.yaml").read_text().replace("sketch: on", "sketch: off")
    (house / "patterns.yaml").write_text(text)
    unscored = Judge(load_policy("patterns.yaml")).judge(rows)
    assert [result["score"] for result in unscored] == [None, None, None]


def test_results_say_where_and_what(house):
    judge = Judge(load_policy("house.yaml"))
    raw = b'{"id": 1, "prompt": "a zephyr lantern", "response": "ask ann@example.com"}'
    (result,) = judge_lines(judge, [(1, raw)])
    assert (result["decision"], result["action"]) == ("block", "block")
    assert result["spans"] == [
        {"rule": "names", "category": "prv", "stage": "prompt", "action": "block",
         "start": 2, "end": 16},
        {"rule": "data", "category": "pii", "stage": "output", "action": "redact",
         "start": 4, "end": 19},
    ]  # fmt: skip
    assert result["policy"] == load_policy("house.yaml").digest


def test_bad_rows_are_named_by_id_or_line_and_stop_nothing(house):
    judge = Judge(load_policy("house.yaml"))
    lines = [(1, b"{"), (2, b'{"id": 9}'), (5, b'{"prompt": "hi"}')]
    lines.append((6, b'{"id": 3, "prompt": [{"content": {"text": "no list"}}]}'))
    syntax, empty, good, shape = judge_lines(judge, lines)
    assert syntax.keys() == {"line", "error"}
    assert (empty["id"], empty.keys()) == (9, {"id", "error"})
    assert good["line"] == 5
    assert shape["id"] == 3
    assert "content is a dict" in shape["error"]
