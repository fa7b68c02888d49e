"""Feed-forward parts lose the neurons that matter least."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from training.narrow import NEURONS, narrow
from training_rows import SHIPPED, made_up_rows

from training import encoder, export

pytestmark = pytest.mark.usefixtures("pretrained")


def logits(model: encoder.Encoder) -> torch.Tensor:
    ids = torch.arange(2000, 2034).view(2, 17)
    with torch.no_grad():
        return model.eval()(ids, torch.zeros_like(ids))


def test_neurons_that_say_nothing_or_always_the_same_go_first_and_are_not_missed() -> None:
    model = encoder.Encoder(seed=5)
    idle = torch.arange(0, 1536, 3)
    for layer in range(encoder.LAYERS):
        at = f"encoder/layer/{layer}/"
        with torch.no_grad():
            model.body[at + "intermediate/dense/weight"][idle] = 0.0
            model.body[at + "intermediate/dense/bias"][idle] = 2.0
            model.body[at + "output/dense/weight"][:, 1] = 0.0
    before = logits(model)
    narrow(model, made_up_rows(), [1023] * encoder.LAYERS)

    sizes = [len(model.body[f"encoder/layer/{i}/intermediate/dense/bias"]) for i in range(4)]
    assert sizes == [1023] * 4
    torch.testing.assert_close(logits(model), before, atol=2e-4, rtol=1e-4)


def test_it_is_the_same_each_time_and_reads_only_what_is_to_be_learnt_from() -> None:
    rows = made_up_rows()
    others = [row for row in rows if row.split == "train"]
    one, two = (narrow(encoder.Encoder(), some).state_dict() for some in (rows, others))

    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_narrow_model_is_kept_read_and_exported_as_it_is(tmp_path: Path) -> None:
    model = narrow(encoder.Encoder(), made_up_rows(48))
    encoder.save(model, tmp_path / "narrow.safetensors")
    kept = encoder.load(tmp_path / "narrow.safetensors")
    session = onnxruntime.InferenceSession(export.to_onnx(kept))
    ids = np.arange(2000, 2034).reshape(2, 17)
    (found,) = session.run(None, {"ids": ids, "types": np.zeros_like(ids)})

    biases = [kept.body[f"encoder/layer/{i}/intermediate/dense/bias"] for i in range(4)]
    assert [len(bias) for bias in biases] == list(NEURONS)
    assert torch.equal(logits(kept), logits(model))
    np.testing.assert_allclose(found, logits(model).numpy(), atol=0.15)


def test_what_is_shipped_is_the_graph_that_a_training_exports() -> None:
    made = onnx.load_from_string(export.to_onnx(narrow(encoder.Encoder(), made_up_rows(48))))
    shipped = onnx.load(SHIPPED / "encoder.onnx")

    assert list(shipped.graph.node) == list(made.graph.node)
    assert [(c.name, c.data_type, list(c.dims)) for c in shipped.graph.initializer] == [
        (c.name, c.data_type, list(c.dims)) for c in made.graph.initializer
    ]
