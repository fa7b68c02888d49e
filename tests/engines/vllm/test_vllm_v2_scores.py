"""Scores on the device against the host's: the same states to the bit, the same refusals.

The host's are the text sketch's (``tests/steer/test_scores``). Requests go through vLLM's own
request states, with drafts that are accepted or not, preemption and slots that are used again.
"""

import random

import numpy as np
import pytest
import torch
from tests.masks import banned_of
from tests.scores import canary_sketch
from vllm_lanes import kernels_on
from vllm_slots import Runner, no_pinned_memory

from prism.classify.cascade import OVERLAP, SEGMENT
from prism.classify.sketch import Sketch
from prism.config import Settings
from prism.policy import load_policy
from prism.steer import operating, stamp
from prism.steer.guard import TokenGuard
from prism.steer.score_arena import ScoreArena
from prism.steer.score_kernel import DUE, HIGH, LOW
from prism.steer.scores import STRIDE, ScoreStates
from prism.steer.vocabulary import Vocabulary

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::FutureWarning")]

CANARY = "velvet cartographer"
FILLER = "the zephyrs blow over a lamp, a lane and a tern; cooks took good books. "
SCRIPTS = [
    "the ", "zephyr", " lan", "tern", "velvet", " cart", "ographer", "z3", "\u200b", "привет", "ß",
    "é", "你好", "อักษ", "ﷺ", "🙂", "A", "-", "\n\n", "  ", "0149", "ﬁ", "I can't help", "ooooo",
    "한국",
]  # fmt: skip
REFUSAL = "No."
POLICY = """\
prism: 1
id: watch-{threshold}
tiers: {{sketch: {sketch}}}
rules:
  - {{id: h, category: harm, stages: [output], action: block, thresholds: {{output: {threshold}}}}}
  - {{id: p, category: prv, stages: [output], action: steer, phrases: [zephyr lantern]}}
messages: {{en: "No."}}
"""
PIECES = [bytes([b]) for b in range(256)]
PIECES += [w.encode() for w in ("the ", "zephyr", " lan", "tern", "velvet", " cart", "привет", "é")]
PIECES += [w.encode() for w in ("over a", " books. ", "你", "한국", "No", "\n\n", "-", " good")]
INDEX = {piece: i for i, piece in reversed(list(enumerate(PIECES)))}
EOS = len(PIECES)
PROMPT = [ord("?")]


def encode(text):
    """Return the tokens of ``text``, each as long as can be."""
    data, at, ids = text.encode(), 0, []
    while at < len(data):
        end = next(e for e in range(min(len(data), at + 12), at, -1) if data[at:e] in INDEX)
        ids.append(INDEX[data[at:end]])
        at = end
    return ids


def segmented(rng, text):
    """Spell ``text`` in tokens and in bytes."""
    ids = []
    while text:
        size = rng.randint(1, 12)
        piece, text = text[:size], text[size:]
        ids += piece.encode() if rng.random() < 0.4 else encode(piece)
        if rng.random() < 0.03:
            ids.append(EOS)  # a control token, which adds no text
    return ids


@pytest.fixture(scope="module", autouse=True)
def kernels():
    with no_pinned_memory(), kernels_on() as walk:
        yield walk


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Make a runner under a policy that watches and one that doesn't."""

    def make(*, sketch=None, threshold=0.5, spec=0, longest=256, host=False):
        from vllm_prism.guards import Guards
        from vllm_prism.v2 import HostSlots, TritonSlots

        monkeypatch.setattr(operating, "least", lambda category: 0.0)
        monkeypatch.setattr(TokenGuard, "_cache", {})
        if sketch is not None:
            monkeypatch.setattr(Sketch, "shipped", classmethod(lambda cls: sketch))
        policies = []
        for name in ("on", "off"):
            path = tmp_path / f"{name}.yaml"
            path.write_text(POLICY.format(threshold=threshold, sketch=name))
            policies.append(load_policy(path))
        guards = object.__new__(Guards)
        guards.settings = Settings(policies[0], others=(policies[1],))
        guards.vocabulary = Vocabulary([*PIECES, None], [EOS], encode)
        guards.eos = EOS
        width = EOS + 3
        kind = HostSlots if host else TritonSlots
        return World(Runner(guards, kind, spec, width=width, longest=longest), guards, spec)

    return make


class World:
    """Requests on the device, and what the host says of each of their rows."""

    def __init__(self, runner, guards, spec):
        self.runner, self.guards, self.spec = runner, guards, spec
        self.watching, self.blind = guards.compiled()
        self.arena = ScoreArena.of(guards.compiled())
        self.out, self.guard_of = {}, {}

    def add(self, name, output=(), watched=True, **options):
        from vllm import SamplingParams

        guard = self.guard_of[name] = self.watching if watched else self.blind
        extra = {stamp.FIELD: stamp.sign(stamp.Stamp(guard.policy.digest))}
        params = SamplingParams(extra_args=extra, **options)
        self.out[name] = list(output)
        self.runner.add(name, PROMPT, output=output, params=params)

    def again(self, name):
        """Preempt a request and resume it."""
        self.runner.drop(name)
        self.add(name, self.out[name], self.guard_of[name] is self.watching)

    def step(self, drafts):
        """Return the tokens left in each request's rows; where they aren't the host's, fail."""
        found = self.runner.step(dict.fromkeys(drafts, EOS + 1), drafts=drafts)
        rows = {}
        for name, drafted in drafts.items():
            rows[name] = [found.pop(0) for _ in range(len(drafted) + 1)]
            for place, left in enumerate(rows[name]):
                wanted = self.host(name, drafted[:place]).step()
                if wanted.forced is not None:
                    assert left == {wanted.forced}, (name, place)
                else:
                    banned = set(range(self.runner.width)) - left
                    assert banned == set(banned_of(wanted, self.runner.width)), (name, place)
        return rows

    def host(self, name, drafted=()):
        """The host's row, which has read one token after the other."""
        row, ids = self.guard_of[name].row(PROMPT), [*self.out[name], *drafted]
        for length in range(1, len(ids) + 1):
            row.advance(ids[:length])
        return row

    def commit(self, name, *tokens):
        self.runner.commit(name, *tokens)
        self.out[name] += tokens

    def state(self, name):
        """A slot's state of the scores on the device, and the host's."""
        slot = self.runner.states.req_id_to_index[name]
        states = ScoreStates(self.guard_of[name].scores)
        states.feed_one(0, np.array(self.out[name], np.int64))
        pair = self.runner.slots._walk._slot_scores[slot].numpy(), self.arena.state(states)
        for state in pair:
            if state[DUE] == 0:  # then nobody asks between what the next byte may lie
                state[LOW : HIGH + 1] = 0
        return pair


def drafted(rng, source, most):
    """Drafts of what comes next, of which some are wrong."""
    drafts = source[: rng.randint(0, most)]
    if drafts and rng.random() < 0.4:
        drafts[rng.randrange(len(drafts))] = rng.randrange(EOS)
    return drafts


def taken(rng, rows, drafts, source):
    """Return the tokens that a sampler which wants ``source`` commits."""
    tokens = []
    for place, left in enumerate(rows):
        wanted = source[place] if len(left) > 1 else next(iter(left))
        tokens.append(wanted)
        if place == len(drafts) or drafts[place] != wanted or rng.random() < 0.1:
            break
    return tokens


@pytest.mark.parametrize("begin", [0, SEGMENT - OVERLAP - 40, SEGMENT - 40, 2 * SEGMENT - 40])
def test_states_are_the_hosts_to_the_bit(world, begin):
    rng = random.Random(begin)
    world = world(threshold=0.999999, spec=3, longest=3 * SEGMENT)
    sources = {}
    for name in "ab":
        text = "".join(rng.choices(SCRIPTS, k=begin))[:begin]
        world.add(name, encode(text))
        sources[name] = segmented(rng, "".join(rng.choices(SCRIPTS, k=60)))
    for _ in range(16):
        drafts = {name: drafted(rng, source, 3) for name, source in sources.items()}
        rows = world.step(drafts)
        for name, source in sources.items():
            device, host = world.state(name)
            assert (device == host).all(), (world.out[name], np.flatnonzero(device != host))
            tokens = taken(rng, rows[name], drafts[name], source)
            world.commit(name, *tokens)
            del source[: len(tokens)]
    assert sum(len(ids) for ids in world.out.values()) > 40 + 2 * begin / 12


@pytest.mark.parametrize(
    ("sketch", "threshold"), [(canary_sketch(CANARY), 0.9), (None, 0.1)], ids=["canary", "shipped"]
)
@pytest.mark.parametrize("host", [False, True], ids=["triton", "host"])
def test_rows_refuse_where_the_hosts_do(world, sketch, threshold, host):
    """Drafts, acceptances, preemptions, slots used again, two policies in one batch."""
    rng = random.Random(3)
    world = world(sketch=sketch, threshold=threshold, spec=3, host=host)
    sources, refused, harmless = {}, set(), set()
    for i in range(90):
        for name in "abcd":
            if len(sources.get(name, "")) < 8:  # a text is over; its slot is the next one's
                if name in sources:
                    world.runner.drop(name)
                words = rng.sample(FILLER.split(), 12)
                if rng.random() < 0.7:
                    words.insert(rng.randrange(6), CANARY)
                sources[name] = encode(" ".join(words))
                world.add(name, watched=name != "d")
        names = rng.sample(sorted(sources), rng.randint(2, 4))
        drafts = {name: drafted(rng, sources[name], 3) for name in names}
        rows = world.step(drafts)
        for name in names:
            (refused if len(rows[name][0]) == 1 else harmless).add((name, i))
            tokens = taken(rng, rows[name], drafts[name], sources[name])
            world.commit(name, *tokens)
            del sources[name][: len(tokens)]
            # Behind its refusal a request is over.
            if rng.random() < 0.1 and tokens[-1] != EOS:
                world.again(name)
    assert len(refused) > 10
    assert len(harmless) > 10
    assert "d" not in {name for name, _ in refused}


@pytest.fixture
def harmful():
    """Tokens of which the last makes the score too high."""
    text = f"{CANARY}, {FILLER}"
    return encode(text[: 2 * STRIDE])


@pytest.mark.parametrize("text", [FILLER, "".join(SCRIPTS), CANARY * 9])
def test_log_odds_are_the_hosts(world, text):
    """A bound a billionth below what the host makes of a text is reached, one above is not."""
    world = world()
    ids = list(text.encode())  # so that the look is behind a token, not within one
    states = ScoreStates(world.watching.scores)
    read = 0
    while states.position(0) < STRIDE:
        states.feed_one(0, np.array(ids[read : read + 1]))
        read += 1
    sums, count, new = states._ended(0)
    _, heads, biases, _ = world.watching.scores.model
    odds = heads @ (sums * (new / count) ** 0.5 / count**0.5) + biases
    for name, part in {"below": -1e-9, "above": 1e-9}.items():
        world.runner.slots._walk._bounds[0, 0] = odds[0] + part
        world.runner.add(name, PROMPT, output=ids[: read - 1])
        world.runner.commit(name, ids[read - 1])
        (left,) = world.runner.step({name: EOS + 1})
        assert (len(left) == 1) == (part < 0)


def test_the_refusal_comes_out_whole(world, harmful):
    world = world(sketch=canary_sketch(CANARY))
    world.add("a")
    while harmful:
        (left,) = world.step({"a": []})["a"]
        assert len(left) > 1 or world.host("a").refusing
        if len(left) == 1:
            break
        world.commit("a", harmful.pop(0))
    said = []
    while not said or said[-1] != EOS:
        ((token,),) = world.step({"a": []})["a"]
        said.append(token)
        world.commit("a", token)
    assert world.guards.vocabulary.bytes_of(said).decode() == f"\n\n{REFUSAL}"


def crossing(world, ids):
    """Return how many of ``ids`` are read when the score is too high."""
    row = world.watching.row(PROMPT)
    return next(n for n in range(1, len(ids) + 1) if row.advance(ids[:n]) or row.refusing)


@pytest.mark.parametrize("accepted", [True, False])
def test_what_drafts_score_counts_only_if_they_are_accepted(world, harmful, accepted):
    world = world(sketch=canary_sketch(CANARY), spec=2)
    at = crossing(world, harmful)
    world.add("a", harmful[: at - 2])
    refusal = encode(f"\n\n{REFUSAL}")
    rows = world.step({"a": harmful[at - 2 : at]})["a"]
    assert [len(left) > 1 for left in rows] == [True, True, False]
    assert rows[2] == {refusal[0]}
    world.commit("a", *([*harmful[at - 2 : at], refusal[0]] if accepted else [INDEX[b"-"]]))
    (left,) = world.step({"a": []})["a"]
    assert left == {refusal[1]} if accepted else len(left) > 1


def test_the_prompt_is_not_scored(world, harmful):
    world = world(sketch=canary_sketch(CANARY))
    world.runner.add("a", harmful)
    world.runner.add("b", PROMPT, output=harmful)
    left, refused = world.runner.step({"a": EOS + 1, "b": EOS + 1})
    assert len(left) > 1
    assert len(refused) == 1


def test_a_grammar_is_ended(world, harmful):
    from vllm.sampling_params import StructuredOutputsParams

    world = world(sketch=canary_sketch(CANARY))
    grammar = StructuredOutputsParams(choice=["x"])
    world.add("a", harmful[:-20], structured_outputs=grammar)
    for token in harmful[-20:]:
        world.commit("a", token)
        (left,) = world.runner.step({"a": EOS + 1})
        assert left == {EOS} or not world.host("a").refusing
    assert left == {EOS}


def test_policies_of_two_sketches_are_refused(world):
    one, other = (world(sketch=canary_sketch(text)).watching for text in (CANARY, "other words"))
    with pytest.raises(ValueError, match="different sketches"):
        ScoreArena.of([one, other])


def test_where_no_policy_watches_nothing_is_kept(world, kernels):
    world = world()
    walk = kernels.Walk([world.blind], EOS, 4, 1, torch.device("cpu"))
    assert walk._slot_scores.numel() == walk._row_scores.numel() == 0
    assert walk.start(0, []).shape == (walk.arena.width,)
