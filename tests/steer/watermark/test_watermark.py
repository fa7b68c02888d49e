"""The watermark on made-up logits: found with its key, unseen without, and never past a mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.policies import policy, rule

from prism.steer.watermark import (
    Sampling,
    Watermark,
    WatermarkKey,
    WatermarkKeyError,
    demanded,
    detect,
    key_for,
    sampler,
)
from prism.steer.watermark.detector import gamma_survival

KEY = WatermarkKey(0xDEADBEEFCAFEF00D)
VOCABULARY = 2000
EVERYTHING = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)


def logits_at(step: int) -> np.ndarray:
    return np.random.default_rng(step).normal(0, 2, VOCABULARY).astype(np.float32)


def write(key: WatermarkKey, sampling: Sampling, length: int = 150) -> list[int]:
    watermark = Watermark(key, sampling)
    output: list[int] = []
    for step in range(length):
        chosen = watermark.pick(logits_at(step), output)
        output.append(int(logits_at(step).argmax()) if chosen is None else chosen)
    return output


@pytest.mark.parametrize(
    "sampling",
    [
        EVERYTHING,
        Sampling(temperature=0.8, top_k=40, top_p=1.0, min_p=0.0),
        Sampling(temperature=1.2, top_k=0, top_p=0.9, min_p=0.01),
        Sampling(1.0, 0, 1.0, 0.0, repeat_penalty=1.1, frequency_penalty=0.2, presence_penalty=0.1),
    ],
)
def test_it_is_found_with_its_key_and_not_with_another(sampling):
    output = write(KEY, sampling)
    found = detect(KEY, output)
    assert found.detected
    assert found.p_value < 1e-9
    assert found.tokens == 150
    assert not detect(WatermarkKey(KEY.value ^ 1), output).detected


def test_other_peoples_tokens_look_like_chance():
    rng = np.random.default_rng(3)
    p = [detect(KEY, rng.integers(0, VOCABULARY, 60).tolist()).p_value for _ in range(400)]
    # A p-value is uniform by chance; 400 of them stay within five standard errors.
    assert abs(np.mean(p) - 0.5) < 5 * np.sqrt(1 / 12 / 400)
    assert np.mean(np.array(p) <= 0.01) < 0.03


def test_over_many_keys_it_samples_the_models_own_distribution():
    logits = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))
    drawn = [Watermark(WatermarkKey(k), EVERYTHING).pick(logits, []) for k in range(4000)]
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.15, 0.1], atol=5 * np.sqrt(0.25 / 4000))


def test_what_is_masked_is_never_chosen():
    for key in range(200):
        logits = logits_at(key)
        banned = np.argsort(-logits)[:500]
        logits[banned] = -np.inf
        chosen = Watermark(WatermarkKey(key), EVERYTHING).pick(logits, [])
        assert chosen is not None
        assert chosen not in banned


def test_where_nothing_is_left_the_engine_decides():
    assert Watermark(KEY, EVERYTHING).pick(np.full(9, -np.inf, np.float32), []) is None


def test_greedy_decoding_is_left_alone():
    assert Watermark(KEY, Sampling(temperature=0.0)).pick(logits_at(0), []) is None


def test_cuts_are_those_of_the_request():
    logits = np.array([3.0, 2.0, 1.0, 0.0, -9.0], np.float32)

    def possible(**cut: float) -> set[int | None]:
        sampling = Sampling(**{"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, **cut})
        return {Watermark(WatermarkKey(k), sampling).pick(logits, []) for k in range(300)}

    assert possible(top_k=1) == {0}
    assert possible(top_k=2) == {0, 1}
    assert possible(top_p=0.6) == {0}
    assert possible(top_p=0.7) == {0, 1}
    assert possible(min_p=0.3) == {0, 1}
    assert possible(min_p=1.0) == {0}
    assert {0, 1, 2, 3} <= possible()


@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0, 40.0])
@pytest.mark.parametrize("steps", [0, 4, 1000])
def test_the_likeliest_are_found_in_one_pass_as_among_all(spread, steps, monkeypatch):
    """``steps``: of how many values per unit the logits are; with few of them many are equal."""
    rng = np.random.default_rng(round(spread) + steps)
    direct = []
    for n in range(60):
        logits = rng.normal(0, spread, int(rng.integers(1, 3000))).astype(np.float32)
        logits = np.round(logits * steps) / steps if steps else logits
        logits = np.sort(logits) if n % 5 == 1 else logits.astype(np.float32)
        odd = [-np.inf] * 40 + [np.nan] if n % 3 == 0 else []
        for value in odd[: len(logits)]:
            logits[rng.integers(len(logits))] = value
        sampling = Sampling(
            temperature=float(rng.choice([0.3, 1.0, 2.5])),
            top_k=int(rng.choice([1, 2, 40, 700])),
            top_p=float(rng.choice([0.5, 0.95, 1.0])),
            min_p=float(rng.choice([0.0, 0.05])),
            repeat_penalty=float(rng.choice([1.0, 1.2])),
        )
        output = rng.integers(0, len(logits), 5).tolist()
        picked = Watermark(WatermarkKey(n), sampling).pick(logits, output)
        direct.append(sampler._most_likely(logits, 30.0, sampling.top_k) is not None)
        with monkeypatch.context() as patch:
            patch.setattr(sampler, "_most_likely", lambda *_: None)
            assert Watermark(WatermarkKey(n), sampling).pick(logits, output) == picked
    assert any(direct) or not spread


def test_what_is_found_in_one_pass_is_the_likeliest():
    logits = logits_at(3)
    ids, values = sampler._most_likely(logits, 30.0, 40)
    assert ids.tolist() == np.argsort(-logits)[:40].tolist()
    assert values.tolist() == np.sort(logits)[::-1][:40].tolist()
    assert sampler._most_likely(logits, 30.0, 0) is None
    logits[np.argsort(-logits)[39:41]] = 3.0
    few, _ = sampler._most_likely(logits, 0.5, 40)
    assert few.tolist() == np.flatnonzero(logits >= logits.max() - np.float32(0.5)).tolist()


def test_penalties_are_llama_cpps():
    logits = np.array([1.0, 0.9, -1.0], np.float32)
    greedy_enough = {"temperature": 1e-3, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    for penalties in ({"repeat_penalty": 1.5}, {"presence_penalty": 0.5}, {"frequency_penalty": 1}):
        assert Watermark(KEY, Sampling(**greedy_enough)).pick(logits, [0]) == 0
        assert Watermark(KEY, Sampling(**greedy_enough, **penalties)).pick(logits, [0]) == 1
        forgotten = Sampling(**greedy_enough, **penalties, last_n=0)
        assert Watermark(KEY, forgotten).pick(logits, [0]) == 0


def test_a_context_that_comes_again_is_sampled_without():
    watermark = Watermark(KEY, EVERYTHING)
    assert watermark.pick(logits_at(0), [1, 2, 3, 4]) is not None
    assert watermark.pick(logits_at(1), [1, 2, 3, 4, 9, 1, 2, 3, 4]) is None
    assert detect(KEY, [1, 2, 3, 4] * 6).tokens < 24


def test_asked_again_for_the_same_position_it_says_the_same():
    watermark = Watermark(KEY, EVERYTHING)
    first = watermark.pick(logits_at(0), [5, 6])
    assert first is not None
    assert watermark.pick(logits_at(0), [5, 6]) == first


def test_what_is_taken_back_leaves_no_trace():
    watermark, output = Watermark(KEY, EVERYTHING), []
    for step in range(12):
        output.append(watermark.pick(logits_at(step), output))
    watermark.rewind(output[:5])
    again = output[:5]
    for step in range(5, 12):
        again.append(watermark.pick(logits_at(step), again))
    assert again == output
    assert watermark.pick(logits_at(3), output[:3]) is None  # what was kept is still known


def test_an_empty_text_is_not_detected():
    found = detect(KEY, [])
    assert (found.detected, found.p_value, found.tokens) == (False, 1.0, 0)


def test_the_tail_of_the_gamma_distribution():
    # Gamma(1, 1) is exponential; Gamma(2, 1) has the tail (1 + x) e^-x.
    assert gamma_survival(1.5, 1) == pytest.approx(np.exp(-1.5))
    assert gamma_survival(3.0, 2) == pytest.approx(4 * np.exp(-3.0))
    assert 0 <= gamma_survival(1e5, 1000) < 1e-300
    assert gamma_survival(0.0, 5) == 1.0


@pytest.mark.parametrize(
    ("text", "value"), [("7", 7), (" 0x10 ", 16), ("18446744073709551615", 2**64 - 1)]
)
def test_a_key_is_read_from_the_environment(text, value):
    assert WatermarkKey.from_env(environ={"PRISM_WATERMARK_KEY": text}).value == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "the environment has no PRISM_WATERMARK_KEY"),
        ("  ", "the environment has no PRISM_WATERMARK_KEY"),
        ("secret", "the watermark key is not a number"),
        ("-1", "does not fit in 64 bits"),
        ("18446744073709551616", "does not fit in 64 bits"),
    ],
)
def test_a_key_that_is_wrong_says_so_without_showing_it(text, problem):
    with pytest.raises(WatermarkKeyError, match=problem) as raised:
        WatermarkKey.from_env(environ={} if text is None else {"PRISM_WATERMARK_KEY": text})
    assert raised.value.fix
    if text and text.strip():
        assert text not in str(raised.value)


def test_a_key_is_not_shown():
    assert "15" not in repr(WatermarkKey(15))


def test_a_key_is_asked_for_only_where_a_policy_demands_it(monkeypatch):
    monkeypatch.delenv("PRISM_WATERMARK_KEY", raising=False)
    plain = policy(rule("lantern"))
    marked = replace(plain, watermark="required")
    assert not demanded([plain])
    assert key_for([plain]) is None
    assert demanded([plain, marked])
    with pytest.raises(WatermarkKeyError):
        key_for([plain, marked])
    monkeypatch.setenv("PRISM_WATERMARK_KEY", "0x2a")
    assert key_for([marked]) == WatermarkKey(42)
