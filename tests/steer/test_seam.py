"""What a prompt leaves open is closed to the output: a phrase can't be ended that the prompt
began."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tests.policies import policy, rule

from prism.steer.batch import Batch
from prism.steer.guard import TokenGuard
from prism.types import Action, Boundary, Stage

POLICY = policy(
    rule("lantern", ["zephyr lantern", "lantern glow", "velvet cartographer"]),
    rule("book", ["book"], action=Action.STEER),
    rule("plain", ["copper violet"], disguises=frozenset(), action=Action.STEER),
    rule("loose", ["krzq"], boundary=Boundary.NONE, action=Action.STEER),
)


@pytest.fixture
def guard(vocabulary) -> TokenGuard:
    return TokenGuard.compile(POLICY, vocabulary)


def reading(guard, prompt, said=""):
    row = guard.row(guard.vocabulary.encode(prompt))
    row.advance(guard.vocabulary.encode(said))
    return row


def masks(row, token) -> bool:
    return int(token) in row.step().banned


def last(guard, text) -> int:
    return guard.vocabulary.encode(text)[-1]


@pytest.mark.parametrize(
    ("prompt", "said", "token"),
    [
        ("a zephyr", " lanter", "n"),
        ("a zephyr ", "lanter", "n"),
        ("light the z3phyr-", "lanter", "n"),
        ("a velvet carto", "graphe", "r"),
        ("the copper", " viole", "t"),
    ],
)
def test_a_phrase_begun_in_the_prompt_is_not_ended(guard, prompt, said, token):
    row = reading(guard, prompt, said)
    assert not row.refusing
    assert masks(row, last(guard, token))
    assert not masks(reading(guard, "a lamp", said), last(guard, token))
    row.advance(guard.vocabulary.encode(said + token + "."))  # appended past the mask
    assert row.refusing


def test_a_rule_that_blocks_is_answered_by_the_refusal_at_once(guard, vocabulary):
    row = reading(guard, "a zephyr", " lanter")
    logits = np.zeros(vocabulary.size, np.float32)
    logits[last(guard, "n")] = 9.0
    row.apply(logits)
    assert row.refusing


def test_what_the_prompt_says_itself_is_not_held_against_the_output(guard, vocabulary):
    whole = TokenGuard.compile(
        policy(rule("lantern", ["zephyr lantern"], stages=frozenset({Stage.OUTPUT}))), vocabulary
    )
    row = reading(whole, "the zephyr lantern")
    assert not row.refusing
    assert np.array_equal(row.step().banned, reading(whole, "").step().banned)


def test_nothing_is_open_across_a_control_token(guard, vocabulary):
    control = next(iter(vocabulary.eos_ids))
    for between in ([control], [control, *vocabulary.encode("zephyr\n")]):  # the second: a role
        row = guard.row([*vocabulary.encode("a zephyr"), *between])
        row.advance(vocabulary.encode(" lanter"))
        assert not masks(row, last(guard, "n"))


def test_a_prompt_that_ends_within_a_character_is_refused(guard, vocabulary):
    single = {vocabulary.bytes_of([i]): i for i in range(vocabulary.size)}
    first, second = (single[bytes([byte])] for byte in "п".encode())
    assert guard.row([first]).refusing
    assert not guard.row([first, second]).refusing


def test_at_least_what_is_masked_at_the_start_of_a_text_is_masked_behind_a_prompt(guard):
    rng = random.Random(5)
    parts = ["zephyr", " lantern", "b", "oo", "k", " ", "z", "velvet", "-", "3", "n", "copper", "x"]
    more = 0
    for _ in range(150):
        prompt, said = ("".join(rng.choices(parts, k=rng.randint(1, 4))) for _ in range(2))
        row, fresh = reading(guard, prompt, said), reading(guard, "", said)
        if row.refusing or fresh.refusing:
            assert row.refusing
            continue
        assert set(fresh.step().banned.tolist()) <= set(row.step().banned.tolist())
        more += len(row.step().banned) > len(fresh.step().banned)
    assert more > 0


@pytest.mark.parametrize(
    ("data", "refused"),
    [
        (b"\xff", True), (b"\xffA", True), (b"AB\x80", True), (b"\xd0", True), (b"\xe2\x82", True),
        (b"A", False), ("\u0436".encode(), False), ("A\u20ac".encode(), False), (b"", False),
    ],
)  # fmt: skip
def test_a_prompt_that_ends_in_no_utf8_is_refused(guard, vocabulary, data, refused):
    """The output's bytes and the prompt's may be one run to a decoder."""
    single = {
        int(vocabulary.data[vocabulary.offsets[i]]): int(i)
        for i in np.flatnonzero(np.diff(vocabulary.offsets) == 1)
    }
    prompt = [*vocabulary.encode("a lamp"), *(single[byte] for byte in data)]
    assert guard.row(prompt).refusing == refused
    assert guard.row([*prompt, min(vocabulary.eos_ids)]).refusing == refused  # it prints nothing
    assert not guard.row([*prompt, *vocabulary.encode(" the lamp")]).refusing


@pytest.mark.parametrize("fault", [False, True])
def test_a_row_that_is_read_anew_stands_behind_its_prompt_again(guard, vocabulary, fault):
    prompt, said = vocabulary.encode("a zephyr"), vocabulary.encode(" lanter")
    batch = Batch(guard)
    row = batch.row(prompt)
    batch.step([row], [vocabulary.encode("x lamp")])
    if fault:
        row.state.restart()  # as a batch does that doesn't know who was read
    assert last(guard, "n") in batch.step([row], [said]).row(0)
    for _ in range(20):
        batch.row([])  # slots double
    assert last(guard, "n") in batch.step([row], [said]).row(0)
