"""vLLM's watermark and ours are one scheme; where a policy demands it, no client gets out of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from prism.config import Settings
from prism.policy import load_policy
from prism.steer import stamp
from prism.steer.watermark import WatermarkKey, detect
from prism.steer.watermark.philox import absorb, uniforms

MARKED = "f" * 64
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::FutureWarning")]


@pytest.mark.parametrize("width", [1, 3, 4, 5, 9])
@pytest.mark.parametrize("key", [0, 1, 2**32, 2**64 - 1, 0x123456789ABCDEF0])
def test_the_random_numbers_are_vllms(key, width):
    from vllm.v1.watermarking import PhiloxPRF

    rng = np.random.default_rng(width)
    contexts = rng.integers(-1, 262144, size=(200, width))
    tokens = rng.integers(0, 262144, size=(200, 40))
    theirs = PhiloxPRF(key).uniform(torch.tensor(contexts), torch.tensor(tokens)).numpy()
    state, ours = np.zeros(4, np.uint64), np.zeros(40)
    for row in range(len(contexts)):
        absorb(np.uint64(key), contexts[row], state)
        uniforms(np.uint64(key), state, tokens[row], ours)
        np.testing.assert_array_equal(ours.astype(np.float32), theirs[row])


def test_what_vllm_samples_our_detector_finds():
    from vllm.v1.watermarking import GumbelWatermarkDetector, GumbelWatermarker

    key = WatermarkKey(4242)
    watermarker = GumbelWatermarker(key.value)
    rng = np.random.default_rng(5)
    said: list[int] = []
    for _ in range(80):
        context = ([-1] * 4 + said)[-4:]
        logits = torch.tensor(rng.normal(0, 2, (1, 3000)), dtype=torch.float32)
        said.append(int(watermarker.sample(logits, torch.tensor([context])).token_ids[0]))
    ours, theirs = detect(key, said), GumbelWatermarkDetector(key.value).detect(said)
    assert ours.p_value < 1e-9
    assert ours.p_value == pytest.approx(theirs.p_value, rel=1e-6)
    assert ours.tokens == theirs.num_scored_tokens


@pytest.fixture
def settings(monkeypatch):
    """A server whose own policy demands nothing, with another policy that demands a watermark."""
    from vllm_prism import watermark

    plain = load_policy("default")
    marked = replace(load_policy("strict"), watermark="required", digest=MARKED)
    found = Settings(plain, others=(marked,))
    monkeypatch.setattr(watermark, "_settings", lambda: found)
    return found


@pytest.mark.parametrize("asked", [None, True, False])
def test_a_client_cant_switch_off_what_the_policy_demands(settings, asked):
    from vllm import SamplingParams

    from vllm_prism.watermark import enforce

    params = SamplingParams(watermarking=asked)
    token = stamp.current.set(stamp.Stamp(MARKED))
    try:
        enforce(params)
    finally:
        stamp.current.reset(token)
    assert params.watermarking is True


@pytest.mark.parametrize("asked", [None, True, False])
def test_without_a_stamp_the_strictest_policy_counts(settings, asked):
    from vllm import SamplingParams

    from vllm_prism.watermark import enforce

    params = SamplingParams(watermarking=asked)
    enforce(params)
    assert params.watermarking is True


@pytest.mark.parametrize(("asked", "got"), [(None, False), (True, True), (False, False)])
def test_a_tenant_that_has_not_opted_in_isnt_marked(settings, monkeypatch, asked, got):
    from vllm import SamplingParams

    from vllm_prism.watermark import enforce

    monkeypatch.setenv("PRISM_WATERMARK_KEY", "7")
    params = SamplingParams(watermarking=asked)
    token = stamp.current.set(stamp.Stamp(settings.policy.digest))
    try:
        enforce(params)
    finally:
        stamp.current.reset(token)
    assert params.watermarking is got


class Arguments:
    def __init__(self, watermark_config=None):
        self.watermark_config = watermark_config


def test_the_key_reaches_vllms_own_configuration(settings, monkeypatch):
    from vllm_prism.watermark import configure

    monkeypatch.setattr("vllm.triton_utils.HAS_TRITON", True)
    monkeypatch.setenv("PRISM_WATERMARK_KEY", "0x2a")
    arguments = Arguments()
    configure(arguments, settings)
    assert arguments.watermark_config == {"key": 42, "context_width": 4}
    configure(arguments, settings)  # again: nothing to object to
    untouched = Arguments()
    configure(untouched, Settings(load_policy("default")))
    assert untouched.watermark_config is None


def test_two_keys_are_refused(settings, monkeypatch):
    from vllm_prism.errors import UnprotectedError
    from vllm_prism.watermark import configure

    monkeypatch.setattr("vllm.triton_utils.HAS_TRITON", True)
    monkeypatch.setenv("PRISM_WATERMARK_KEY", "42")
    with pytest.raises(UnprotectedError, match="--watermark-config names another key"):
        configure(Arguments({"key": 43}), settings)
    monkeypatch.delenv("PRISM_WATERMARK_KEY")
    configure(Arguments({"key": 43}), settings)
