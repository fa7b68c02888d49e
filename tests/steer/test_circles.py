"""A model that a mask sends round in circles is stopped; one that goes on is not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tests.policies import REFUSAL, policy, rule

from prism.steer.batch import Batch
from prism.steer.circles import LONGEST, LOOK, TIMES, TOKENS, circle, stuck
from prism.steer.guard import TokenGuard
from prism.types import Action

POLICY = policy(rule("lantern", ["zephyr lantern"], action=Action.STEER))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 31, LONGEST])
def test_the_same_tokens_over_and_over_are_a_circle(size):
    before = [1000, 1001, *range(2000, 2000 + size // 2)]
    round_ = list(range(size))
    first = next(n for n in itertools.count(1) if circle(before + round_ * n))
    assert first == max(TIMES, -(-TOKENS // size))
    cut = circle(before + round_ * (first + 2) + round_[: size // 2])
    assert sorted(cut) == round_


@pytest.mark.parametrize(
    "output",
    [
        [],
        [5] * (TOKENS - 1),
        list(range(500)),
        list(range(LONGEST + 1)) * 8,
        [*([1, 2, 3, 4, 5, 6, 7, 8] * 9), 9],
        [i for n in range(40) for i in (1, 2, 3, n)],
    ],
)
def test_other_outputs_are_none(output):
    assert not circle(output)


def test_only_a_circle_around_what_was_masked_is_put_down_to_the_mask():
    assert stuck([50, 51, *([1, 51] * 20)], turned=2)
    assert not stuck([50, 51, *([1, 52] * 20)], turned=2)
    assert stuck([1, 52] * 20, turned=0)
    assert not stuck([50, 51, 1, 2, 3], turned=2)


def greedy(guard, want, steps):
    """Decode greedily a model that wants ``want``, and after what it was kept from: all again."""
    vocabulary, ids, at = guard.vocabulary, [], 0
    row = guard.row([])
    for _ in range(steps):
        logits = np.zeros(vocabulary.size, np.float32)
        logits[guard.eos] = -1.0
        logits[want[at]] = 9.0
        row.advance(ids)
        row.apply(logits)
        ids.append(int(np.argmax(logits)))
        at = (at + 1) % len(want) if ids[-1] == want[at] else 0
        if ids[-1] in vocabulary.eos_ids:
            break
    return vocabulary.bytes_of(ids).decode("utf-8", "replace")


def test_a_model_in_circles_is_made_to_refuse(vocabulary):
    text = greedy(TokenGuard(POLICY, vocabulary), vocabulary.encode(" the zephyr lantern"), 400)
    assert text.endswith(f"\n\n{REFUSAL}")
    assert text.count("zephyr") >= TIMES
    assert "lantern" not in text


def test_a_model_is_stopped_that_a_mask_set_on_its_course_once(vocabulary):
    # As a real model does it: kept from the phrase once, it says the first word for good.
    guard = TokenGuard(POLICY, vocabulary)
    start, again = vocabulary.encode("the zephyr"), vocabulary.encode(", zephyr")
    batch, ids = Batch(guard), list(start)
    rows = [guard.row([]), batch.row([])]
    while len(ids) < 200 and not rows[0].refusing:
        rows[0].advance(ids)
        masks = batch.step(rows[1:], [ids])
        rows[1].prepare(masks, 0)
        assert rows[0].refusing == rows[1].refusing
        for row in rows:
            logits = np.zeros(vocabulary.size, np.float32)
            if len(ids) == len(start):
                logits[row.step().banned] = 9.0
            row.apply(logits)
        ids.append(again[(len(ids) - len(start)) % len(again)])
    assert rows[0].refusing
    assert TOKENS <= len(ids) <= TOKENS + 2 * LOOK + len(start) + len(again)


def test_after_going_back_circles_are_still_found(vocabulary):
    row, again = TokenGuard(POLICY, vocabulary).row([]), vocabulary.encode(", zephyr")
    ids = vocabulary.encode("the zephyr")
    row.advance(ids)
    logits = np.zeros(vocabulary.size, np.float32)
    logits[row.step().banned] = 9.0
    assert row.apply(logits)
    row.advance([*ids, *again, *again])
    row.rewind([*ids, *again])
    fresh = TokenGuard(POLICY, vocabulary).row([])
    fresh.advance([*ids, *again])
    assert np.array_equal(row.step().banned, fresh.step().banned)
    ids += again
    while len(ids) < 200 and not row.refusing:
        ids.append(again[(len(ids) - len(again)) % len(again)])
        row.advance(ids)
        fresh.advance(ids)
    assert row.refusing
    assert not fresh.refusing  # no mask ever changed its course


def test_a_model_that_repeats_itself_by_itself_goes_on(vocabulary):
    text = greedy(TokenGuard(POLICY, vocabulary), vocabulary.encode(" the lamp"), 200)
    assert text.count("lamp") > TIMES * 4
    assert REFUSAL not in text


def test_a_model_that_finds_another_way_goes_on(vocabulary):
    guard = TokenGuard(POLICY, vocabulary)
    row, ids = guard.row([]), []
    for n in range(12):  # kept from the phrase again and again, and says something else each time
        want = vocabulary.encode(f" {n} the zephyr")
        for token in [*want, None]:
            row.advance(ids)
            logits = np.zeros(vocabulary.size, np.float32)
            logits[row.step().banned if token is None else token] = 9.0
            row.apply(logits)
            ids.append(int(np.argmax(logits)))
    assert not row.refusing
