"""Rows decoded together behave as each does alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tests.masks import banned_of
from tests.policies import policy, rule

from prism.steer.batch import Batch, Line
from prism.steer.guard import TokenGuard
from prism.types import Action

POLICY = policy(
    rule("lantern", ["zephyr lantern", "velvet cartographer"]),
    rule("book", ["book"], action=Action.STEER),
)
PIECES = ["Zephyr", " ze", "phyr", " lan", "tern", "z3", " ", "o", "b", " vel", "vet", "при", "é"]


@pytest.fixture
def guard(vocabulary) -> TokenGuard:
    return TokenGuard.compile(POLICY, vocabulary)


def texts(vocabulary, rng, count):
    for _ in range(count):
        pieces = rng.choices(PIECES, k=rng.randint(4, 12))
        yield [i for piece in pieces for i in vocabulary.encode(piece)]


def test_a_batch_masks_as_its_rows_would_alone(guard, vocabulary):
    rng = random.Random(1)
    outputs = [*texts(vocabulary, rng, 40), vocabulary.encode("a zephyr lantern now")]
    batch = Batch(guard)  # has to grow on the way
    rows = [batch.row([]) for _ in outputs]
    alone = [guard.row([]) for _ in outputs]
    masked = refused = 0
    for length in range(max(map(len, outputs)) + 1):
        so_far = [ids[:length] for ids in outputs]
        masks = batch.step(rows, so_far)
        for i, row in enumerate(alone):
            row.advance(so_far[i])
            step = row.step()
            assert rows[i].refusing == row.refusing
            assert rows[i].step().forced == step.forced
            if not row.refusing:
                size = vocabulary.size
                rows[i].prepare(masks, i)
                assert banned_of(rows[i].step(), size) == banned_of(step, size)
            masked += len(step.banned)
            refused += row.refusing
    assert masked > 0
    assert refused > 0


def test_rows_come_and_go(guard, vocabulary):
    rng = random.Random(2)
    batch = Batch(guard)
    here: dict[int, tuple] = {}
    for step in range(120):
        if rng.random() < 0.4:
            ids = next(texts(vocabulary, rng, 1))
            here[step] = (batch.row([]), guard.row([]), ids)
        for gone in [key for key in here if rng.random() < 0.05]:
            batch.release(here.pop(gone)[0])
        order = rng.sample(list(here), len(here))
        outputs = [here[key][2][: step - key] for key in order]
        masks = batch.step([here[key][0] for key in order], outputs)
        for i, key in enumerate(order):
            row, alone, _ = here[key]
            alone.advance(outputs[i])
            assert row.refusing == alone.refusing
            if not row.refusing:
                row.prepare(masks, i)
                size = vocabulary.size
                assert banned_of(row.step(), size) == banned_of(alone.step(), size)
    assert len(batch) == len(here)


@pytest.mark.parametrize("change", ["shorter", "replaced", "longer", "unread", "beyond"])
def test_what_is_out_of_the_ordinary_is_read_row_by_row(guard, vocabulary, change):
    ids = vocabulary.encode("the zephyr lamp")
    batch = Batch(guard)
    rows = [batch.row([]), batch.row([])]
    batch.step(rows, [ids, ids])
    after = {
        "shorter": ids[:2],
        "replaced": [*vocabulary.encode("a book, "), *ids],
        "longer": [*ids, *ids],
        "unread": [*ids, -1],
        "beyond": [*ids, vocabulary.size],
    }[change]
    masks = batch.step(rows, [after, [*ids, ids[0]]])
    alone = guard.row([])
    alone.advance(after)
    assert rows[0].refusing == alone.refusing == (change in ("unread", "beyond", "replaced"))
    if not alone.refusing:
        assert np.array_equal(masks.row(0), alone.step().banned)
    assert not rows[1].refusing


def test_a_row_that_refuses_is_told_its_tokens_and_has_no_mask(guard, vocabulary):
    batch = Batch(guard)
    blocked = batch.row(vocabulary.encode("zephyr lantern"))
    other = batch.row([])
    said: list[int] = []
    for _ in range(40):
        masks = batch.step([blocked, other], [said, []])
        assert len(masks.row(0)) == 0
        said.append(blocked.step().forced)
        if said[-1] in vocabulary.eos_ids:
            break
    assert vocabulary.bytes_of(said[:-1]).decode() == POLICY.message()


def test_a_phrase_pushed_past_the_mask_is_refused(guard, vocabulary):
    batch = Batch(guard)
    row = batch.row([])
    ids = vocabulary.encode("a zephyr lantern.")
    for length in range(len(ids) + 1):
        batch.step([row], [ids[:length]])
    assert row.refusing
    assert row.step().forced is not None


def test_an_empty_batch_is_nothing(guard):
    masks = Batch(guard).step([], [])
    assert len(masks.ids) == 0


def test_a_line_holds_while_the_batch_grows(guard, vocabulary):
    ids = vocabulary.encode("a zephyr lamp, a zephyr lan")
    batch, output = Batch(guard), []
    row, alone = batch.row([]), guard.row([])
    line = Line([row], [output])
    masked = 0
    for token in ids:
        output.append(token)
        batch.row([])  # slots double on the way
        masks = batch.step_line(line)
        alone.advance(output)
        assert np.array_equal(masks.row(0), alone.step().banned)
        masked += len(masks.row(0))
    assert len(batch) == len(ids) + 1
    assert masked > 0
    assert not batch.refusing(line).any()
    row.refuse()
    assert batch.refusing(line).tolist() == [True]


def test_the_ends_of_outputs(guard):
    batch = Batch(guard)
    rows = [batch.row([]) for _ in range(3)]
    lengths, lasts, before = Line(rows, [[], [7], [1, 2, 3]]).ends()
    assert lengths.tolist() == [0, 1, 3]
    assert lasts.tolist() == [-1, 7, 3]
    assert before.tolist() == [-1, -1, 2]
    assert [ends.tolist() for ends in Line(rows, [[4, 5]] * 3).ends()] == [
        [2] * 3,
        [5] * 3,
        [4] * 3,
    ]
