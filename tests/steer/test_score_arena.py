"""Scores laid out for a device: what the kernels take is what the host's have."""

from dataclasses import replace

import numpy as np
import pytest
from tests.policies import policy, rule
from tests.scores import canary_sketch

from prism.classify import features
from prism.classify.cascade import OVERLAP, SEGMENT
from prism.classify.sketch import Sketch
from prism.steer.guard import TokenGuard
from prism.steer.score_arena import MARKS, SEGMENT_FIELDS, ScoreArena
from prism.steer.score_kernel import POSITION
from prism.steer.scores import ScoreStates
from prism.steer.vocabulary import Vocabulary
from prism.types import Stage

OUT = frozenset({Stage.OUTPUT})
BYTES = Vocabulary([*(bytes((b,)) for b in range(256)), None], [256], lambda t: list(t.encode()))


def guard(*categories: str, sketch: Sketch | None = None) -> TokenGuard:
    rules = [rule(c, category=c, stages=OUT, thresholds={Stage.OUTPUT: 0.9}) for c in categories]
    return TokenGuard(policy(*rules, tiers=("sketch",)), BYTES, sketch)


def test_each_policy_has_its_categories_and_bounds():
    guards = [guard("harm"), guard(), guard("harm", "cyb", "src")]
    arena = ScoreArena.of(guards)
    assert arena.watched.tolist() == [1, 0, 3]
    assert arena.most == 4
    assert np.isfinite(arena.bounds).sum(1).tolist() == [1, 0, 3]
    for i in (0, 2):
        embeddings, heads, biases, bounds = guards[i].scores.model
        n = len(bounds)
        assert (arena.embeddings == embeddings).all()
        assert (arena.heads[i, :n] == heads).all()
        assert (arena.biases[i, :n] == biases).all()
        assert (arena.bounds[i, :n] == bounds).all()
    # What fills them up reaches no bound.
    assert not (arena.biases >= arena.bounds)[np.isinf(arena.bounds)].any()


def test_nothing_is_laid_out_where_nothing_is_watched():
    assert ScoreArena.of([guard(), guard()]) is None


def test_two_sketches_are_refused():
    guards = [guard("harm"), guard("harm", sketch=canary_sketch("zephyr lantern"))]
    with pytest.raises(ValueError, match="different sketches"):
        ScoreArena.of(guards)


def test_dimensions_are_filled_up_to_a_power_of_two():
    sketch = canary_sketch("zephyr lantern")
    weights = sketch.weights
    wider = replace(
        weights,
        embeddings=np.pad(weights.embeddings, ((0, 0), (0, 1))),
        heads=np.pad(weights.heads, ((0, 0), (0, 0), (0, 1))),
    )
    sketch.weights = wider
    arena = ScoreArena.of([guard("harm", sketch=sketch)])
    assert arena.dimensions == 4
    assert not arena.embeddings[:, 3:].any()
    assert arena.state(None).shape == (arena.width,)


@pytest.mark.parametrize("length", [0, 1, 700, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 2 * SEGMENT + 9])
def test_a_segment_keeps_its_place_in_the_state(length):
    arena = ScoreArena.of([guard("harm")])
    states = ScoreStates(guard("harm").scores)
    text = ("the zephyrs blow over a lamp, a lane and a tern. " * 50)[:length]
    states.feed_one(0, np.frombuffer(text.encode(), np.uint8).astype(np.int64))
    state = arena.state(states)
    assert state[POSITION] == length
    hashes, sums, seen, _ = states.row(0)
    current = max(0, length - 1) // SEGMENT
    fields = state[MARKS : MARKS + 2 * SEGMENT_FIELDS].reshape(2, SEGMENT_FIELDS)
    rest = np.split(state[MARKS + fields.size :], [2 * arena.dimensions])
    for segment in (0, 1):
        place = (current + segment) % 2
        assert (fields[place, : features.STATE] == hashes[segment].view(np.int64)).all()
        assert (rest[0].reshape(2, -1)[place] == sums[segment]).all()
        assert (rest[1].reshape(2, -1)[place] == seen[segment].view(np.int64)).all()
    behind = length - current * SEGMENT > SEGMENT - OVERLAP
    assert fields[(current + 1) % 2].any() == behind
