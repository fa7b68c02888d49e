"""A tiny run on made-up data: the same weights twice, and what is exported is what was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from training.combine import allowed
from training.labels import CATEGORIES, COLUMNS
from training_rows import BAD, GOOD, SHIPPED, made_up_rows

from prism.classify.encoder import Encoder as Runtime
from prism.classify.sketch import Sketch
from prism.types import Stage
from training import __main__ as command
from training import calibrate, encoder, export, sketch


def test_the_sketch_learns_and_twice_the_same() -> None:
    rows = made_up_rows()
    first = sketch.train(rows, passes=8)
    model = Sketch(first)
    harm = model.categories.index("harm")

    assert sketch.train(rows, passes=8) == first
    for stage in Stage:
        bad, good = (model.score(" and ".join(words), stage)[harm] for words in (BAD, GOOD))
        assert bad > 2 * good


def test_a_word_never_met_says_nothing() -> None:
    model = Sketch(sketch.train(made_up_rows(), passes=2))

    empty, unknown = (model.score(text, Stage.PROMPT) for text in ("", "qqqq"))
    np.testing.assert_allclose(empty, unknown, rtol=1e-5)


@pytest.mark.usefixtures("pretrained")
def test_the_encoder_trains_the_same_twice() -> None:
    rows = made_up_rows(48)
    first, second = (encoder.train(rows, 3, tokens=128).state_dict() for _ in range(2))
    fresh = encoder.Encoder().state_dict()

    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head"], fresh["head"])


@pytest.mark.usefixtures("pretrained")
def test_a_run_told_to_fall_says_how_to_reproduce_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fall").touch()
    stopped = encoder.train(made_up_rows(48), None, tokens=128, out=tmp_path, every=3)
    assert "--batches 4 " in capsys.readouterr().out

    kept = encoder.load(tmp_path / "encoder.safetensors")
    assert torch.equal(kept.head, stopped.head)


@pytest.mark.usefixtures("pretrained")
def test_the_exported_graph_says_what_the_model_says() -> None:
    model = encoder.Encoder(seed=5).eval()
    session = onnxruntime.InferenceSession(export.to_onnx(model))
    generator = np.random.default_rng(4)
    for length in (2, 17, encoder.LONGEST):
        ids = generator.integers(1000, 29_000, (2, length))
        types = (np.arange(length)[None] >= [[length], [length // 2]]).astype(np.int64)
        (ours,) = session.run(None, {"ids": ids, "types": types})
        with torch.no_grad():
            theirs = model(torch.from_numpy(ids), torch.from_numpy(types)).numpy()

        assert ours.shape == (2, len(COLUMNS))
        np.testing.assert_allclose(ours, theirs, atol=0.15)


def test_quantised_columns_are_within_half_a_step() -> None:
    weights = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    small, scale = export.quantise_columns(weights)

    assert np.abs(small).max() <= 63
    assert (np.abs(small * scale - weights) <= scale / 2 + 1e-6).all()


@pytest.mark.usefixtures("pretrained")
def test_shipping_writes_files_that_the_engine_loads(tmp_path: Path) -> None:
    rows = made_up_rows(96)
    work, to = tmp_path / "work", tmp_path / "shipped"
    work.mkdir()
    command.make_sketch(rows, work)
    command.make_encoder(rows, work, 2)
    command.ship(rows, work, to)
    names = ("encoder.onnx", "encoder.tokenizer.json", "encoder.npz")
    model, tokenizer, combination = ((to / name).read_bytes() for name in names)
    runtime = Runtime(model, tokenizer, combination, Sketch((to / "sketch.npz").read_bytes()))

    assert sorted(path.name for path in to.iterdir()) == sorted((*names, "sketch.npz"))
    assert runtime.prompts([" and ".join(BAD)])[0, 0] > runtime.prompts([" and ".join(GOOD)])[0, 0]


def test_the_shipped_combination_has_no_negative_weights_and_keeps_injection_out_of_harm() -> None:
    with np.load(SHIPPED / "encoder.npz") as arrays:
        weights = arrays["weights"]

    assert (weights >= 0).all()
    for at, stage in enumerate((Stage.PROMPT, Stage.OUTPUT)):
        for index, category in enumerate(CATEGORIES):
            others = np.setdiff1d(np.arange(weights.shape[2]), allowed(stage, category))
            assert not weights[at, index, others].any()
    assert COLUMNS.index("inj") not in allowed(Stage.PROMPT, "harm")


def test_calibration_finds_the_odds_that_made_the_labels() -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(0, 3, (4_000, 1)).astype(np.float32)
    odds = 1 / (1 + np.exp(-(0.5 * logits[:, 0] - 1)))
    labels = (generator.random(4_000) < odds).astype(np.float32)
    weights = np.full(4_000, 1 / 4_000, np.float32)
    slope, bias = calibrate.fit_one(logits, labels, weights)

    assert slope[0] == pytest.approx(0.5, abs=0.05)
    assert bias == pytest.approx(-1, abs=0.15)


def test_thresholds_let_no_more_through_than_asked() -> None:
    scores = np.linspace(0, 1, 1_000, dtype=np.float32)
    labels = np.zeros(1_000, np.float32)
    for rate in (0.005, 0.01, 0.02):
        bar = calibrate.threshold_at(scores, labels, rate)
        assert 0 < (scores >= bar).mean() <= rate
    assert calibrate.recall_at(np.ones(3, np.float32), np.ones(3, np.float32), 0.01) == 1.0


def test_figures_of_a_perfect_and_of_a_blind_score() -> None:
    labels = np.array([0, 0, 1, 1], np.float32)

    assert calibrate.auprc(labels, labels) == calibrate.best_f1(labels, labels) == 1.0
    assert calibrate.auprc(1 - labels, labels) < 0.6
    bins = calibrate.reliability(labels * 0.9, labels, np.full(4, 0.25, np.float32))
    assert [share for _, _, share in bins] == pytest.approx([0.5, 0.5])


def test_the_rate_rises_stays_and_falls() -> None:
    rates = [encoder.rate(batch, 1_000) for batch in range(1_000)]

    assert rates[0] < rates[99] == rates[500] == rates[749] == 1.0
    assert rates[999] < 0.01
    assert encoder.rate(5_000, None) == 1.0


@pytest.mark.usefixtures("pretrained")
def test_a_batch_holds_texts_of_one_length_and_rows_come_by_their_weight() -> None:
    lengths = np.array([5] * 40 + [9] * 40)
    weights = np.array([1.0, 0.25] * 40)
    stream = encoder.batches(lengths, weights, 45, seed=1)
    seen = np.zeros(80)
    for _ in range(400):
        batch = next(stream)
        assert len(set(lengths[batch])) == 1
        assert len(batch) * lengths[batch[0]] <= 45
        seen[batch] += 1
    assert 2.5 < seen[::2].sum() / seen[1::2].sum() < 6
