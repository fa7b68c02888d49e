"""What each format reads from the tokens that a model gives."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import pytest

from prism.classify.guard.answers import choose
from prism.classify.guard.formats import FORMATS
from prism.classify.guard.formats.qwen3guard import Qwen3Guard
from prism.classify.guard.types import Ask, Completion, GuardUnreadable, Talk, Verdict
from prism.taxonomy import taxonomy

PROMPT = Talk((("user", "What is a zephyr?"),))
ANSWER = Talk((("user", "What is a zephyr?"), ("agent", "A mild wind.")))


def tokens(**probabilities: float) -> Completion:
    """A next-token distribution; ``_`` in a name stands for a blank."""
    top = {name.replace("_", " "): log(p) for name, p in probabilities.items()}
    return Completion(max(top, key=top.__getitem__), top)


def said(text: str) -> Completion:
    return Completion(text)


def judged(steps, *rounds: Sequence[Completion]):
    """Run ``steps`` through ``rounds``; return what was asked last and what came out."""
    asks = next(steps)
    for number, replies in enumerate(rounds):
        assert len(asks) == len(replies), asks
        try:
            asks = steps.send(list(replies))
        except StopIteration as stop:
            assert number == len(rounds) - 1
            return stop.value
    raise AssertionError(f"more is asked: {asks}")


# -- tokens


def test_softmax_over_the_answers_only():
    found = choose(tokens(Yes=0.3, No=0.1, Maybe=0.6), ("Yes", "No"))
    assert found == pytest.approx({"Yes": 0.75, "No": 0.25})


def test_blanks_and_case_dont_count_and_spellings_add_up():
    found = choose(tokens(_Yes=0.2, yes=0.1, YES=0.1, _no=0.1), ("Yes", "No"))
    assert found == pytest.approx({"Yes": 0.8, "No": 0.2})


def test_a_piece_of_an_answer_counts_for_it():
    found = choose(tokens(_Un=0.5, _Safe=0.3, _Contro=0.2), ("Safe", "Unsafe", "Controversial"))
    assert found == pytest.approx({"Unsafe": 0.5, "Safe": 0.3, "Controversial": 0.2})


def test_a_piece_of_two_answers_counts_for_both_in_part():
    found = choose(tokens(P=0.4, Polit=0.2), ("PII", "Politics"))
    assert found == pytest.approx({"PII": 0.2 / 0.6, "Politics": 0.4 / 0.6})


def test_whole_numbers_are_not_pieces_of_longer_ones():
    found = choose(tokens(**{"1": 0.6, "11": 0.2, "2": 0.2}), ("1", "2", "10", "11", "12"))
    assert found == pytest.approx({"1": 0.6, "2": 0.2, "10": 0, "11": 0.2, "12": 0})


def test_words_that_only_begin_like_an_answer_are_none():
    found = choose(tokens(Yes=0.2, Nothing=0.5, **{"No.": 0.2}), ("Yes", "No"))
    assert found == pytest.approx({"Yes": 0.5, "No": 0.5})


def test_without_log_probabilities_the_word_decides():
    assert choose(said(" Yes."), ("Yes", "No")) == {"Yes": 1.0, "No": 0.0}
    with pytest.raises(GuardUnreadable, match=r"^the guard's answer is none of Yes, No$"):
        choose(said("Perhaps"), ("Yes", "No"))
    with pytest.raises(GuardUnreadable):
        choose(said(""), ("Yes", "No"))


def test_a_model_that_does_not_answer_the_question_is_an_error():
    with pytest.raises(GuardUnreadable, match="is it a model of this format"):
        choose(tokens(Yes=0.001, the=0.9), ("Yes", "No"))
    with pytest.raises(GuardUnreadable, match=r"\(a, …, d\)"):
        choose(tokens(zephyr=0.9), ("a", "b", "c", "d"))


# -- formats


@pytest.mark.parametrize("name", ["llama-guard-3", "llama-guard-4"])
def test_llama_guard(name):
    steps = FORMATS[name].scores(PROMPT)
    verdict = judged(
        steps, [tokens(unsafe=0.6, safe=0.2)], [tokens(**{"2": 0.5, "9": 0.25, "14": 0.25})]
    )
    scores = verdict.scores
    assert scores["harm"] == pytest.approx(0.75)
    assert scores["ncr"] == pytest.approx(0.375)
    assert scores["iwp"] == pytest.approx(0.1875)
    assert scores["cia"] == pytest.approx(0.1875)
    assert scores["vcr"] == 0
    assert set(scores) == set(FORMATS[name].categories)


def test_llama_guard_is_asked_for_a_category_only_where_there_may_be_harm():
    steps = FORMATS["llama-guard-3"].scores(PROMPT)
    verdict = judged(steps, [tokens(safe=0.99, unsafe=0.01)])
    assert verdict.scores["harm"] == pytest.approx(0.01)
    steps = FORMATS["llama-guard-3"].scores(PROMPT)
    next(steps)
    (ask,) = steps.send([tokens(unsafe=0.9, safe=0.1)])
    assert ask.prompt.endswith("assistant<|end_header_id|>\n\nunsafe\nS")


def test_llama_guard_harm_counts_even_where_no_category_is_named():
    steps = FORMATS["llama-guard-3"].scores(PROMPT)
    verdict = judged(steps, [tokens(unsafe=0.9, safe=0.1)], [tokens(zephyr=1.0)])
    assert verdict.scores["harm"] == pytest.approx(0.9)
    assert sum(verdict.scores.values()) == pytest.approx(0.9)


def test_qwen3guards_three_verdicts():
    first = tokens(_Safe=0.2, _Unsafe=0.3, _Controversial=0.5)
    second = tokens(_Violent=0.5, _Non=0.5)
    for weight, harm in ((0.0, 0.3), (0.5, 0.55), (1.0, 0.8)):
        verdict = judged(Qwen3Guard(weight).scores(PROMPT), [first], [second])
        assert verdict.scores["harm"] == pytest.approx(harm)
        assert verdict.scores["vcr"] == pytest.approx(harm / 2)
        assert verdict.scores["ncr"] == pytest.approx(harm / 2)
        assert verdict.refusal is None


def test_qwen3guard_asks_under_the_likelier_verdict():
    steps = Qwen3Guard().scores(PROMPT)
    next(steps)
    (ask,) = steps.send([tokens(_Safe=0.2, _Unsafe=0.3, _Controversial=0.5)])
    assert ask.prompt.endswith("</think>\n\nSafety: Controversial\nCategories:")
    assert ask.answers[-1] == "Jailbreak"


def test_a_jailbreak_is_no_part_of_harm():
    verdict = judged(
        Qwen3Guard().scores(PROMPT), [tokens(_Unsafe=0.9, _Safe=0.1)], [tokens(_Jailbreak=1.0)]
    )
    assert verdict.scores["inj"] == pytest.approx(0.9)
    assert verdict.scores["harm"] == pytest.approx(0.0)


def test_qwen3guard_on_an_answer():
    steps = Qwen3Guard().scores(ANSWER)
    next(steps)
    asks = steps.send([tokens(_Unsafe=0.5, _Safe=0.5)])
    assert [ask.answers[-1] for ask in asks] == ["Copyright Violation", "No"]
    verdict = judged(
        Qwen3Guard().scores(ANSWER),
        [tokens(_Unsafe=0.5, _Safe=0.5)],
        [tokens(_Unethical=1.0), tokens(_Yes=0.25, _No=0.75)],
    )
    assert verdict.refusal == pytest.approx(0.25)
    assert verdict.scores["harm"] == pytest.approx(
        0.5
    )  # has no category here, is harm all the same
    assert judged(Qwen3Guard().scores(ANSWER), [tokens(_Safe=1.0)]).refusal is None


def test_shieldgemma():
    replies = [tokens(Yes=p, No=1 - p) for p in (0.9, 0.1, 0.2, 0.3)]
    verdict = judged(FORMATS["shieldgemma"].scores(PROMPT), replies)
    assert verdict.scores == pytest.approx(
        {"harm": 0.9, "vcr": 0.9, "tox": 0.1, "hte": 0.2, "sxc": 0.3}
    )


@pytest.mark.parametrize("name", ["granite-guardian-3", "granite-guardian-3.3"])
def test_granite_guardian(name):
    replies = [tokens(_yes=p, _no=1 - p) for p in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)]
    verdict = judged(FORMATS[name].scores(PROMPT), replies)
    assert verdict.scores == pytest.approx(
        {"harm": 0.1, "hte": 0.2, "inj": 0.3, "vcr": 0.4, "tox": 0.5, "sxc": 0.6, "ncr": 0.7}
    )
    verdict = judged(FORMATS[name].scores(ANSWER), [tokens(Yes=0.5, No=0.5)] * 6)
    assert "inj" not in verdict.scores


def test_wildguard_on_a_request():
    verdict = judged(FORMATS["wildguard"].scores(PROMPT), [tokens(_yes=0.7, _no=0.3)])
    assert verdict == Verdict({"harm": pytest.approx(0.7)})


def test_wildguards_three_answers():
    steps = FORMATS["wildguard"].scores(ANSWER)
    next(steps)
    steps.send([tokens(_yes=0.7, _no=0.3)])
    (third,) = steps.send([tokens(_yes=0.1, _no=0.9)])
    lines = "Harmful request: yes\nResponse refusal: no\nHarmful response:"
    assert third.prompt.endswith(f"<|assistant|>\n{lines}")
    with pytest.raises(StopIteration) as stop:
        steps.send([tokens(_yes=0.2, _no=0.8)])
    assert stop.value.value.scores == pytest.approx({"harm": 0.2})
    assert stop.value.value.refusal == pytest.approx(0.1)


def test_gpt_oss_safeguard_thinks_then_answers():
    form = FORMATS["gpt-oss-safeguard"]
    keys = [key for key in taxonomy().categories if key != "tst"]
    numbers = {str(keys.index("ssh") + 1): 0.5, str(keys.index("inj") + 1): 0.2, "0": 0.3}
    verdict = judged(form.scores(PROMPT), [said("The user asks…")], [tokens(**numbers)])
    assert verdict.scores["ssh"] == pytest.approx(0.5)
    assert verdict.scores["inj"] == pytest.approx(0.2)
    assert verdict.scores["harm"] == pytest.approx(0.5)
    assert set(verdict.scores) == set(form.categories)


@pytest.mark.parametrize(
    "thought",
    [
        "It is about wind.",
        "It is about wind.<|end|><|start|>assistant<|channel|>final<|message|>0",
        "It is about wind.assistantfinal0",
    ],
)
def test_what_gpt_oss_safeguard_thought_ends_where_its_channel_does(thought):
    steps = FORMATS["gpt-oss-safeguard"].rule(PROMPT, "No kites.")
    next(steps)
    (ask,) = steps.send([said(thought)])
    assert ask.answers == ("0", "1")
    assert ask.prompt.endswith(
        "<|channel|>analysis<|message|>It is about wind.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>"
    )


@pytest.mark.parametrize("name", FORMATS)
def test_plain_language_rules(name):
    form = FORMATS[name]
    steps = form.rule(PROMPT, "No advice on flying kites.")
    if not form.takes_rules:
        with pytest.raises(GuardUnreadable, match=f"{name} can't judge plain-language rules"):
            next(steps)
        return
    asks: Sequence[Ask] = next(steps)
    assert all("No advice on flying kites." in ask.prompt for ask in asks)
    if not asks[0].answers:
        asks = steps.send([said("Hm.")])
    (ask,) = asks
    bad = "1" if "1" in ask.answers else "unsafe" if "unsafe" in ask.answers else "Yes"
    good = next(answer for answer in ask.answers if answer != bad)
    with pytest.raises(StopIteration) as stop:
        steps.send([tokens(**{bad: 0.75, good: 0.25})])
    assert stop.value.value == pytest.approx(0.75)


def test_every_category_is_one_of_the_taxonomy():
    known = {"harm", *taxonomy().categories}
    for form in FORMATS.values():
        assert set(form.categories) <= known
        assert form.categories[0] == "harm"
