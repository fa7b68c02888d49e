"""A model that a mask sends round in circles is stopped on the device where V1's row stops it.

The oracle is the host's row, which reads one token after the other and is asked at each what the
logits become.
"""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm_lanes import Pointer, kernels_on, lanes
from vllm_slots import Runner, no_pinned_memory

from prism.config import Settings
from prism.policy import load_policy
from prism.steer import circles
from prism.steer.vocabulary import Vocabulary

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::FutureWarning")]

WORDS = ["zephyr", " lantern", ",", " zephyr", " a", " b", " copper", " violet", "no", "\n\nno"]
EOS = len(WORDS)
WIDTH = EOS + 1
ZEPHYR, LANTERN, COMMA, AGAIN, A, B, COPPER, VIOLET = range(8)
NO = WORDS.index("\n\nno")
POLICY = """\
prism: 1
id: circles
rules:
  - {id: a, category: prv, stages: [output], phrases: [zephyr lantern], action: steer}
  - {id: b, category: prv, stages: [output], phrases: [copper violet], action: block}
messages: {en: "no"}
"""


@pytest.fixture(scope="module", autouse=True)
def kernels():
    with no_pinned_memory(), kernels_on() as walk:
        yield walk


@pytest.fixture(scope="module")
def guards(tmp_path_factory):
    from vllm_prism.guards import Guards

    path = tmp_path_factory.mktemp("circles") / "policy.yaml"
    path.write_text(POLICY)
    guards = object.__new__(Guards)
    guards.settings = Settings(load_policy(path))
    tokens = [*(word.encode() for word in WORDS), None]
    guards.vocabulary = Vocabulary(tokens, [EOS], lambda text: [WORDS.index(text)])
    guards.eos = EOS
    return guards


@pytest.fixture
def make(guards):
    from vllm_prism.v2 import TritonSlots

    return lambda spec=0: World(Runner(guards, TritonSlots, spec, width=WIDTH, longest=512), guards)


class World:
    """One request: what was committed, and the logits of each position of it."""

    def __init__(self, runner, guards):
        self.runner, self.guard = runner, guards.compiled()[0]
        self.out, self.wants = [], []
        self.begun = 0
        runner.add("a", [A])

    def host(self, tokens, wants):
        """The host's logits behind ``tokens``, of a model that wanted ``wants``."""
        row = self.guard.row([A])
        for length in range(self.begun, len(tokens) + 1):
            row.advance(tokens[:length])
            logits = logits_of(wants[length]).numpy()
            row.apply(logits)
        return logits

    def step(self, wants, drafts=()):
        """Return the rows' logits, which are the host's: ``wants`` has a list of tokens for each.

        Rows behind one that begins to refuse are thrown away.
        """
        given = torch.stack([logits_of(want) for want in wants])
        rows = self.runner.run({"a": given}, drafts={"a": list(drafts)})
        for place in range(len(wants)):
            before = [*self.out, *drafts[:place]]
            host = self.host(before, [*self.wants, *wants[: place + 1]])
            assert (rows[place].numpy() == host).all(), before
            if np.isfinite(host).sum() == 1:
                break
        return rows

    def commit(self, *tokens, wants):
        self.runner.commit("a", *tokens)
        self.out += tokens
        self.wants += wants

    def again(self):
        """Preempt and resume it: what a mask changed before isn't known any more."""
        self.runner.drop("a")
        self.runner.add("a", [A], output=self.out)
        self.begun = len(self.out)

    def says(self, want):
        """Commit what the model says that likes ``want``, best first."""
        token = int(self.step([want])[0].argmax())
        self.commit(token, wants=[want])
        return token


def logits_of(want):
    """Logits of a model that likes the tokens of ``want``, the first best."""
    logits = torch.full((WIDTH,), -9.0)
    for place, token in enumerate(want):
        logits[token] = 5.0 - place
    return logits


def test_a_greedy_model_that_loops_around_a_mask_refuses(make):
    world = make()
    said = [world.says([AGAIN])]
    for _ in range(3 * circles.LOOK):
        said.append(world.says([LANTERN, AGAIN]))
    stop = said.index(NO)
    assert stop % circles.LOOK == 1  # looked at every so many tokens behind the mask
    assert set(said[1:stop]) == {AGAIN}
    assert set(said[stop + 1 :]) == {EOS}


def test_a_loop_that_no_mask_caused_goes_on(make):
    world = make()
    world.says([ZEPHYR])
    said = [world.says([LANTERN, B])]
    said += [world.says([A]) for _ in range(circles.WATCHED + circles.LOOK)]
    assert set(said[1:]) == {A}


def test_a_model_that_wants_something_else_is_not_watched(make):
    world = make()
    world.says([ZEPHYR])
    assert {world.says([AGAIN, LANTERN]) for _ in range(4 * circles.LOOK)} == {AGAIN}


def test_after_preemption_only_a_new_mask_counts(make):
    world = make()
    world.says([AGAIN])
    for _ in range(circles.LOOK):
        world.says([LANTERN, AGAIN])
    world.again()
    assert {world.says([AGAIN]) for _ in range(2 * circles.LOOK)} == {AGAIN}


def test_a_mask_behind_drafts_that_were_rejected_is_none(make):
    world = make(spec=2)
    world.says([A])
    world.step([[ZEPHYR], [LANTERN, AGAIN], [AGAIN]], drafts=[ZEPHYR, AGAIN])
    world.commit(B, wants=[[B]])
    assert {world.says([AGAIN]) for _ in range(4 * circles.LOOK)} == {AGAIN}


@pytest.mark.parametrize("spec", [0, 3])
def test_random_walks_are_stopped_where_the_host_stops_them(make, spec):
    stopped = 0
    for seed in range(4):
        rng, noise = random.Random(seed), (seed % 2) / 30
        world = make(spec)
        world.says([AGAIN])
        loop = rng.choice([[AGAIN], [AGAIN, COMMA], [AGAIN, A, COMMA], [AGAIN, A]])
        while len(world.out) < 70:
            if rng.random() < noise / 2:
                world.again()
            if rng.random() < noise:
                loop = [rng.choice([AGAIN, A, B, COMMA]) for _ in range(rng.randint(1, 5))]
            ahead = [loop[(len(world.out) + i) % len(loop)] for i in range(spec + 2)]
            drafts = ahead[: rng.randint(0, spec)]
            behind = [world.out[-1], *drafts]
            wants = [
                [LANTERN, t] if b == AGAIN else [t] for b, t in zip(behind, ahead, strict=False)
            ]
            wants = [
                w if rng.random() >= noise else [rng.choice([A, COPPER, VIOLET])] for w in wants
            ]
            rows = world.step(wants, drafts)
            tokens = []
            for place, row in enumerate(rows):
                tokens.append(int(row.argmax()))
                if place == len(drafts) or drafts[place] != tokens[-1]:
                    break
            world.commit(*tokens, wants=wants[: len(tokens)])
            if EOS in tokens:
                stopped += 1
                break
    assert stopped > 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2), max_size=9), st.integers(0, 60), st.integers(0, 40), st.data())
def test_a_circle_is_one_on_the_device_too(kernels, loop, turns, before, data):
    """Outputs that end in a loop, cut into prompt, committed tokens and drafts."""
    from vllm_prism.circling import in_circles

    output = [*range(10, 10 + before), *(loop * turns)]
    output += data.draw(st.lists(st.integers(0, 2), max_size=2))
    turned = data.draw(st.integers(0, len(output)))
    prompt = data.draw(st.integers(0, 3))
    first = prompt + max(0, len(output) - data.draw(st.integers(0, 3)))
    text = np.array([*[7] * prompt, *output, 0], np.int32)
    numbers = (lanes(np.int32(n)) for n in (first, prompt, prompt + turned, len(text) - 1))
    found = in_circles(Pointer(text[:first].copy()), Pointer(text[first:].copy()), *numbers)
    assert bool(found) == circles.stuck(output, turned)
