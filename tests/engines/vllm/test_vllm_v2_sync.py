"""A step never waits for the device.

On torch's ``meta`` device tensors have shapes and no values, so whatever needs a value on the host
(``item``, ``cpu``, ``tolist``, ``bool``, a shape that depends on values) raises, and a step that
runs through there can't have asked for one. With a GPU ``benchmarks/device.py`` holds the same code
to ``torch.cuda.set_sync_debug_mode("error")``.
"""

import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import torch
from vllm_lanes import kernels_on

from prism.config import Settings
from prism.policy import load_policy
from prism.steer.vocabulary import Vocabulary

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::FutureWarning")]

META = torch.device("meta")
POLICY = """\
prism: 1
id: sync
tiers: {sketch: on}
rules:
  - {id: a, category: prv, stages: [output], phrases: [zephyr lantern], action: block}
  - {id: h, category: harm, stages: [output], action: block, thresholds: {output: 0.9}}
messages: {en: "no"}
"""
TOKENS = [b"zephyr", b" lantern", b" lamp", b"no", b"\n\nno"]
EOS = len(TOKENS)
WIDTH = EOS + 1


@pytest.fixture
def guards(tmp_path: Path):
    from vllm_prism.guards import Guards

    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    guards = object.__new__(Guards)
    guards.settings = Settings(load_policy(path))
    guards.vocabulary = Vocabulary([*TOKENS, None], [EOS], lambda t: [TOKENS.index(t.encode())])
    guards.eos = EOS
    return guards


@pytest.fixture
def states():
    """What vLLM shares with a processor, four slots; one request of two tokens is staged."""
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcRequestState

    ids = types.SimpleNamespace(
        gpu=torch.zeros((4, 32), dtype=torch.int32, device=META),
        _staged_write_indices=[1],
        _staged_write_cu_lens=[2],
        _staged_write_starts=[0],
        _staged_write_contents=[2, 0],
    )
    lengths = types.SimpleNamespace(np=np.array([0, 1, 0, 0]))
    return LogitsProcRequestState(META, 4, WIDTH, ids, lengths, lengths, lengths)


@pytest.fixture
def context():
    """Three rows: one of each of two requests, one behind a draft."""
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext

    def numbers(dtype=torch.int32):
        return torch.zeros(3, dtype=dtype, device=META)

    host = np.zeros(2, np.int32)
    return LogitsContext(
        expanded_idx_mapping=numbers(),
        idx_mapping=numbers(),
        idx_mapping_np=host,
        expanded_local_pos=numbers(),
        input_ids=numbers(),
        pos=numbers(torch.int64),
        seq_lens_upper_bound_np=host,
    )


@pytest.fixture
def _no_pinned_memory(monkeypatch):
    """There is none without an accelerator; pinning is what makes the upload not wait."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)


def launches(log: list[str]):
    """A ``triton`` that writes down what is launched, and runs nothing."""
    triton, language = types.ModuleType("triton"), types.ModuleType("triton.language")

    class Kernel:
        def __init__(self, function):
            self.name = function.__name__

        def __getitem__(self, grid):
            return lambda *_, **__: log.append(self.name)

    language.constexpr = lambda value: value
    triton.jit = lambda function=None, **_: Kernel if function is None else Kernel(function)
    triton.language = language
    triton.__spec__ = ModuleSpec("triton", None)
    return {"triton": triton, "triton.language": language}


@pytest.mark.parametrize(
    "ask",
    [
        lambda t: t[0].item(),
        lambda t: t.cpu(),
        lambda t: t.tolist(),
        lambda t: bool(t[0]),
        lambda t: t.nonzero(),
        lambda t: t[t > 0],
        lambda t: t.unique(),
    ],
)
def test_asking_for_a_value_raises_here(ask):
    with pytest.raises((RuntimeError, NotImplementedError)):
        ask(torch.zeros(3, device=META))


@pytest.mark.usefixtures("_no_pinned_memory")
def test_the_kernels_are_launched_and_nothing_else(guards, states, context):
    from vllm import SamplingParams

    from vllm_prism.v2 import Slots, TritonSlots

    log: list[str] = []
    with kernels_on(launches(log)):
        slots = Slots.of(guards, states, 1)
        assert isinstance(slots, TritonSlots)
        log.clear()
        slots.add(1, SamplingParams())
        slots.flush()
        slots.apply(torch.zeros((3, WIDTH), device=META), context)
    # No token holds a whole phrase.
    assert log == ["read_rows", "score_rows", "keep_valid", "try_tokens", "decide"]
