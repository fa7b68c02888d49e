"""Scores in the token layer: the text sketch's to the bit, and where one is too high, a refusal."""

from __future__ import annotations

import codecs
import random
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policies import REFUSAL, policy, rule
from tests.scores import canary_sketch

from prism.classify import features
from prism.classify.cascade import OVERLAP, SEGMENT
from prism.classify.sketch import Sketch
from prism.steer import operating
from prism.steer.batch import Batch
from prism.steer.guard import TokenGuard
from prism.steer.score_kernel import SEEN
from prism.steer.scores import STRIDE, Scores, ScoreStates
from prism.steer.vocabulary import Vocabulary
from prism.types import Action, Mode, Stage

SKETCH = Sketch.shipped()
OUT = frozenset({Stage.OUTPUT})
HARM = rule("harm", category="harm", stages=OUT, thresholds={Stage.OUTPUT: 0.5})
POLICY = policy(HARM, rule("lantern", ["zephyr lantern"]), tiers=("sketch",))
CANARY = "velvet cartographer"
TINY = canary_sketch(CANARY)
FILLER = "the zephyrs blow over a lamp, a lane and a tern; cooks took good books. "
PIECES = [
    "the ", "zephyr", " lan", "tern", "velvet", " cart", "ographer", "z3", "\u200b", "привет", "ß",
    "é", "你好", "อักษ", "ﷺ", "🙂", "A", "-", "\n\n", "  ", "0149", "ﬁ", "I can't help", "ooooo",
    "한국",
]  # fmt: skip
BYTES = Vocabulary([*(bytes((b,)) for b in range(256)), None], [256], lambda t: list(t.encode()))


def sketched(text: str, sketch: Sketch = SKETCH):
    """The oracle: the text sketch's scores of the segment that ``text`` ends in."""
    stream = sketch.start(Stage.OUTPUT)
    begin = max(0, len(text) - 1) // SEGMENT * SEGMENT
    stream.feed(text[max(0, begin - OVERLAP) :] if begin else text)
    return stream.scores()


def complete(data: bytes) -> str:
    """The text of ``data``, less a character at its end that isn't complete."""
    if re.search(rb"\xed[\xa0-\xbf]\Z", data):  # of a surrogate Python waits for the last byte
        return data.decode("utf-8", "replace")
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data)


def segmentation(vocabulary, rng, text):
    """Spell ``text`` in tokens: in words, in letters, in bytes, with some bytes lost."""
    single = {vocabulary.bytes_of([i]): i for i in range(vocabulary.size)}
    ids = []
    while text:
        n = rng.randint(1, 12)
        piece, text = text[:n], text[n:]
        raw = [bytes((b,)) for b in piece.encode()]
        if rng.random() < 0.4 and all(b in single for b in raw):
            kept = raw if rng.random() < 0.7 else rng.sample(raw, rng.randint(0, len(raw)))
            ids += [single[b] for b in kept]
        else:
            ids += vocabulary.encode(piece)
        if rng.random() < 0.05:
            ids += vocabulary.eos_ids  # a control token, which adds no text
    return ids


def scores_of(vocabulary, sketch=SKETCH):
    return Scores.of(POLICY, vocabulary, sketch)


def test_any_segmentation_scores_as_the_decoded_text_to_the_bit(vocabulary):
    rng = random.Random(4)
    states = ScoreStates(scores_of(vocabulary), 3)
    lengths = []
    for trial in range(60):
        text = "".join(rng.choices(PIECES, k=rng.choice([3, 40, 700 if trial % 10 == 0 else 90])))
        ids = np.array(segmentation(vocabulary, rng, text), np.int64)
        states.begin(1)
        at = 0
        while at < len(ids):
            n = rng.choice([1, 1, 1, 7, 50])
            if n == 1:
                states.feed(np.array([1]), ids[at : at + 1])
            else:
                states.feed_one(1, ids[at : at + n])
            at += n
        decoded = complete(vocabulary.bytes_of(ids.tolist()))
        assert states.position(1) == len(decoded)
        assert states.scores(1).tobytes() == sketched(decoded).tobytes(), decoded
        assert np.allclose(states.judged(1), judged(decoded), atol=2e-3)
        lengths.append(len(decoded))
    assert max(lengths) > 2 * SEGMENT
    assert states.position(0) == states.position(2) == 0


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40) | st.text(max_size=20).map(str.encode))
def test_bytes_are_read_as_python_decodes_them(data):
    states = ScoreStates(scores_of(BYTES))
    states.feed_one(0, np.frombuffer(data, np.uint8).astype(np.int64))
    text = complete(data)
    assert states.position(0) == len(text)
    assert states.scores(0).tobytes() == sketched(text).tobytes()


def judged(text: str, sketch: Sketch = SKETCH):
    """The oracle: the scores, their evidence counted as often as there are different features."""
    begin = max(0, len(text) - 1) // SEGMENT * SEGMENT
    buckets = features.buckets_of(text[max(0, begin - OVERLAP) :] if begin else text)
    sums = sketch.weights.embeddings[buckets].sum(0, dtype=np.int64)
    heads, biases = sketch.weights.linear(Stage.OUTPUT)
    different = len(np.unique(buckets & (64 * SEEN - 1)))
    logits = heads @ (sums / max(len(buckets), 1) * np.sqrt(different)) + biases
    return 1 / (1 + np.exp(-logits))


def crossing(text: str, bound: float):
    """The oracle: at which code point the score of harm first reaches ``bound``."""
    for end in range(STRIDE, len(text) + 1, STRIDE):
        if judged(text[:end], TINY)[0] >= bound:
            return end
    return None


def test_rows_refuse_where_the_score_of_their_text_crosses_the_bound(vocabulary):
    guard = TokenGuard(POLICY, vocabulary, TINY)
    bound = operating.least("harm")
    rng = random.Random(5)
    texts = []
    for _ in range(24):  # so many that the batch has to grow
        words = FILLER.split() * 3
        if rng.random() < 0.7:
            words.insert(rng.randrange(len(words)), CANARY)
        texts.append(" ".join(words))
    outputs = [segmentation(vocabulary, random.Random(1), text) for text in texts]
    batch = Batch(guard)
    rows = [batch.row([]) for _ in outputs]
    refused = [None] * len(rows)
    for length in range(max(map(len, outputs)) + 1):
        batch.step(rows, [ids[:length] for ids in outputs])
        for i, row in enumerate(rows):
            if row.refusing and refused[i] is None:
                refused[i] = length
    for i, ids in enumerate(outputs):
        ends = [len(complete(vocabulary.bytes_of(ids[:n]))) for n in range(len(ids) + 1)]
        at = crossing(complete(vocabulary.bytes_of(ids)), bound)
        assert refused[i] == (
            None if at is None else next(n for n, e in enumerate(ends) if e >= at)
        )
        alone = guard.row([])
        alone.advance(ids)
        assert alone.refusing == (at is not None)
    assert None in refused
    assert sum(n is not None for n in refused) > 5


def test_the_refusal_comes_out_whole(vocabulary):
    guard = TokenGuard(POLICY, vocabulary, TINY)
    ids = vocabulary.encode(f"{CANARY}, {FILLER}")
    row, said = guard.row([]), []
    row.advance(ids)
    while not said or said[-1] not in vocabulary.eos_ids:
        row.advance(ids + said)
        said.append(row.step().forced)
    assert vocabulary.bytes_of(said).decode() == f"\n\n{REFUSAL}"


@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 6])
def test_a_preempted_refusal_goes_on_where_it_was(vocabulary, tokens):
    guard = TokenGuard(POLICY, vocabulary, TINY)
    ids = vocabulary.encode(f"{CANARY}, {FILLER}")
    first = guard.row([])
    length = 0
    while not first.refusing:
        length += 1
        first.advance(ids[:length])
    refusal = guard.refusal(None, inside=True)
    again = guard.row([])
    again.advance([*ids[:length], *refusal[:tokens]])
    assert again.step().forced == [*refusal, guard.eos][tokens]


def test_tokens_put_behind_what_is_refused_are_answered_by_the_whole_refusal(vocabulary):
    guard = TokenGuard(POLICY, vocabulary, TINY)
    row = guard.row([])
    row.advance(vocabulary.encode(f"{CANARY}, {FILLER} and so on"))
    assert row.step().forced == guard.refusal(None, inside=True)[0]


def test_one_row_never_hurts_another(vocabulary, monkeypatch):
    guard = TokenGuard(POLICY, vocabulary, TINY)
    ids = vocabulary.encode(f"a zephyr {CANARY}, {FILLER}")
    batch = Batch(guard)
    rows = [batch.row([]), batch.row([])]
    batch.step(rows, [ids[:4], []])
    feed = ScoreStates.feed

    def torn(*args):
        feed(*args)
        raise RuntimeError("torn")

    with monkeypatch.context() as patch:
        patch.setattr(ScoreStates, "feed", torn)
        with pytest.raises(RuntimeError, match="torn"):
            batch.step(rows, [ids[:5], ids[:1]])
    # Nobody knows what was read, so all is read anew.
    batch.step(rows, [ids[:5], ids[:1]])
    for length in range(6, len(ids)):
        batch.step(rows, [ids[:length], ids[: length - 4]])
        for row, end in zip(rows, (length, length - 4), strict=True):
            alone = guard.row([])
            alone.advance(ids[:end])
            assert row.refusing == alone.refusing
            if not row.refusing:
                scores = row.state.states.scores
                expected = alone.state.states.scores
                assert scores.scores(row.state.slot).tobytes() == expected.scores(0).tobytes()


def test_a_row_that_fails_is_read_anew_the_next_time(vocabulary, monkeypatch):
    guard = TokenGuard(POLICY, vocabulary, TINY)
    ids = vocabulary.encode(f"{CANARY}, {FILLER}")
    row = guard.row([])
    with monkeypatch.context() as patch:
        patch.setattr(ScoreStates, "feed_one", None)
        with pytest.raises(TypeError):
            row.advance(ids)
    row.advance(ids)
    assert row.refusing


def test_a_slot_that_is_used_again_begins_anew(vocabulary):
    guard = TokenGuard(POLICY, vocabulary, TINY)
    batch = Batch(guard)
    ids = vocabulary.encode(CANARY)
    row = batch.row([])
    batch.step([row], [ids])
    batch.release(row)
    row = batch.row([])
    batch.step([row], [vocabulary.encode(FILLER)])
    assert not row.refusing


def of(*rules, tiers=("sketch",), **changes):
    made = Scores.of(replace(policy(*rules, tiers=tiers), **changes), BYTES, SKETCH)
    return None if made is None else made.bounds


def scored(threshold, category="harm", **options):
    stages = options.pop("stages", OUT)
    thresholds = dict.fromkeys(stages, threshold)
    return rule(category, category=category, stages=stages, thresholds=thresholds, **options)


def test_the_higher_of_threshold_and_operating_point_holds():
    least = operating.least("harm")
    assert of(scored(0.5)) == {"harm": least}
    assert of(scored(0.999)) == {"harm": 0.999}
    assert of(scored(0.5), scored(0.999), scored(0.5, "hte")) == {
        "harm": least,
        "hte": operating.least("hte"),
    }


@pytest.mark.parametrize("action", [Action.REDACT, Action.STEER, Action.BLOCK])
def test_what_ends_an_answer_by_score_in_the_text_layer_does_here(action):
    assert of(scored(0.5, action=action)) is not None


@pytest.mark.parametrize(
    "unwatched",
    [
        scored(0.5, action=Action.FLAG),
        scored(0.5, mode=Mode.MONITOR),
        scored(0.5, stages=frozenset({Stage.PROMPT})),
        scored(0.5, "ele", plain_language="Tells lies about an election."),
        scored(0.5, "no-such-category"),
        rule("phrases", ["zephyr lantern"]),
    ],
)
def test_other_rules_end_nothing(unwatched):
    assert of(unwatched) is None


def test_a_policy_can_switch_it_off():
    assert of(scored(0.5)) is not None
    assert of(scored(0.5), token_scores="off") is None
    assert of(scored(0.5), tiers=()) is None


def test_saying_a_thing_over_and_over_makes_it_no_worse(vocabulary):
    states = ScoreStates(scores_of(vocabulary), 2)
    states.feed_one(0, np.array(vocabulary.encode(FILLER * 2)))
    states.feed_one(1, np.array(vocabulary.encode(FILLER * 14)))
    # The sketch itself: the sum grows with each time, its root's denominator doesn't keep up.
    assert states.scores(1)[0] > 2 * states.scores(0)[0]
    assert states.judged(1)[0] == pytest.approx(states.judged(0)[0], abs=0.02)
    guard = TokenGuard(POLICY, vocabulary)
    row = guard.row([])
    row.advance(vocabulary.encode(FILLER * 60))
    assert not row.refusing


def test_the_operating_points_are_those_of_the_shipped_sketch():
    # Trained anew? `python -m training.token_scores --data FOLDER` says what they are now.
    assert SKETCH.digest == operating.SKETCH
