"""The V2 interface on vLLM's own dataclasses, on CPU tensors: vLLM's V2 runner needs a GPU.

Both ways of reading tokens are held to it: Triton's kernels, run here by ``vllm_lanes``, and the
host's rows.
"""

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vllm_lanes import kernels_on
from vllm_slots import Runner, no_pinned_memory
from vllm_texts import REFUSAL, VLLM_POLICY, says

from prism.config import Settings
from prism.policy import load_policy
from prism.steer import stamp
from prism.steer.vocabulary import Vocabulary

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::FutureWarning")]

WORDS = ["zephyr", " zephyr", " lantern", "lan", "tern", " ", " lamp", "copper", " violet", "s"]
TEXTS = [*WORDS, "marble", " cinder", REFUSAL, "\n\n" + REFUSAL]
EOS = len(TEXTS)
SIZE = EOS + 1
WIDTH = SIZE + 3  # models pad their logits
NO, NO_INSIDE = EOS - 2, EOS - 1
ZEPHYR, LANTERN, LAN, TERN, SPACE, LAMP, COPPER, VIOLET = 0, 2, 3, 4, 5, 6, 7, 8
MARBLE, CINDER = 10, 11


@pytest.fixture(scope="module", autouse=True)
def _no_pinned_memory():
    with no_pinned_memory():
        yield


def encode(text):
    """Refusals are the only texts; of other languages' messages there are no tokens here."""
    return [TEXTS.index(text)] if text in TEXTS else [LAMP]


@pytest.fixture(scope="module")
def guards(tmp_path_factory):
    from vllm_prism.guards import Guards

    path = tmp_path_factory.mktemp("v2") / "policy.yaml"
    path.write_text(VLLM_POLICY)
    loose = tmp_path_factory.mktemp("v2") / "loose.yaml"
    loose.write_text(f'prism: 1\nid: loose\nextends: permissive\nmessages: {{en: "{REFUSAL}"}}\n')
    guards = object.__new__(Guards)
    guards.settings = Settings(load_policy(path), others=(load_policy(loose),))
    tokens = [*(t.encode() for t in TEXTS), None]
    guards.vocabulary = Vocabulary(tokens, [EOS], encode)
    guards.eos = EOS
    return guards


@pytest.fixture(scope="module", params=["triton", "host"])
def kind(request):
    """The kernels' modules stay those of ``vllm_lanes`` while a test of this kind runs."""
    from vllm_prism.v2 import HostSlots, TritonSlots

    if request.param == "host":
        yield HostSlots
        return
    with kernels_on():
        yield TritonSlots


@pytest.fixture
def make(guards, kind):
    """Make a runner; ``spec`` draft tokens can follow the committed ones."""
    return lambda spec=0: Runner(guards, kind, spec, width=WIDTH)


@pytest.fixture
def runner(make):
    return make()


def test_a_phrase_is_steered_around(runner):
    runner.add("a", [LAMP])
    assert LANTERN in runner.step({"a": LAMP})[0]
    runner.commit("a", ZEPHYR)
    (left,) = runner.step({"a": LANTERN})
    assert LANTERN not in left
    assert {LAMP, LAN, EOS} <= left


def test_a_phrase_in_pieces_is_seen(runner):
    runner.add("a", [LAMP])
    for token in (ZEPHYR, SPACE, LAN):
        assert token in runner.step({"a": token})[0]
        runner.commit("a", token)
    assert TERN not in runner.step({"a": TERN})[0]


def test_a_phrase_begun_in_the_prompt_is_not_ended(runner):
    runner.add("a", [LAMP, 1])  # " zephyr"
    runner.add("b", [1, EOS])  # nothing is open across a control token
    begun, closed = runner.step({"a": LANTERN, "b": LANTERN})
    assert LANTERN not in begun
    assert LANTERN in closed


def test_a_disguised_phrase_is_seen(runner):
    runner.add("a", [LAMP], output=[ZEPHYR, SPACE])
    assert LAN in runner.step({"a": LAN})[0]
    runner.commit("a", LAN, SPACE)
    assert TERN not in runner.step({"a": TERN})[0]


def test_a_model_in_circles_is_stopped(make):
    for spec in (0, 2):
        runner = make(spec=spec)
        runner.add("a", [LAMP])
        said = 0
        while said < 63 - 8:
            drafts = [ZEPHYR] * spec
            # Behind each word it wants the other, which it is kept from; so it says the one again.
            rows = runner.step({"a": [LANTERN] * (spec + 1)}, drafts={"a": drafts})
            if rows[0] == {NO_INSIDE}:
                break
            runner.commit("a", *drafts, ZEPHYR)
            said += spec + 1
        assert rows[0] == {NO_INSIDE}
        assert said >= 32


def test_a_phrase_that_blocks_is_refused_and_then_it_ends(runner):
    runner.add("a", [LAMP])
    runner.step({"a": COPPER})
    runner.commit("a", COPPER)
    assert runner.step({"a": VIOLET}) == [{NO_INSIDE}]
    runner.commit("a", NO_INSIDE)
    for _ in range(3):
        assert runner.step({"a": VIOLET}) == [{EOS}]
        runner.commit("a", EOS)


def test_it_refuses_only_what_the_model_wants(runner):
    runner.add("a", [LAMP])
    runner.step({"a": COPPER})
    runner.commit("a", COPPER)
    (left,) = runner.step({"a": LAMP})
    assert VIOLET not in left
    assert LAMP in left


def test_a_blocked_prompt_is_refused(runner):
    runner.add("a", [MARBLE, CINDER, LAMP])
    runner.add("b", [LAMP, LAMP])
    blocked, free = runner.step({"a": LAMP, "b": LAMP})
    assert blocked == {NO}
    assert LAMP in free
    runner.commit("a", NO)
    runner.commit("b", LAMP)
    # Rows are laid out anew each step.
    free, blocked = runner.step({"b": LAMP, "a": LAMP})
    assert blocked == {EOS}
    assert LAMP in free


def test_a_chunk_of_a_prompt_changes_nothing(runner):
    runner.add("a", [LAMP, COPPER, LAMP, LAMP])
    runner.step({"a": LAMP}, upto={"a": 2})
    runner.step({"a": VIOLET}, upto={"a": 3})
    assert LAMP in runner.step({"a": LAMP})[0]


def test_a_slot_is_clean_for_its_next_request(runner):
    runner.add("a", [MARBLE, CINDER])
    runner.step({"a": LAMP})
    runner.commit("a", NO)
    runner.drop("a")
    runner.add("b", [LAMP])
    assert LAMP in runner.step({"b": LAMP})[0]


def test_a_preempted_request_goes_on(runner):
    runner.add("a", [LAMP], output=[LAMP, 1])
    assert LANTERN not in runner.step({"a": LAMP})[0]
    runner.drop("a")
    runner.add("a", [MARBLE, CINDER], output=[NO])
    assert runner.step({"a": LAMP}) == [{EOS}]


def test_a_refusal_goes_on_after_preemption(guards, make, monkeypatch):
    guard = guards.compiled()[0]
    monkeypatch.setattr(guard, "refusal", lambda locale, *, inside: [LAMP, LAN, TERN, CINDER])
    runner = make()
    runner.add("a", [LAMP], output=[VIOLET, LAMP, LAN, TERN])
    assert runner.step({"a": VIOLET}) == [{CINDER}]
    runner.commit("a", CINDER)
    assert runner.step({"a": VIOLET}) == [{EOS}]


def test_a_refusal_that_was_not_committed_is_forgotten(runner):
    runner.add("a", [LAMP], output=[COPPER])
    assert runner.step({"a": VIOLET}) == [{NO_INSIDE}]
    (left,) = runner.step({"a": LAMP})
    assert LAMP in left


def test_where_nothing_is_left_it_refuses(runner):
    runner.add("a", [LAMP], output=[ZEPHYR])
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext

    slot = torch.tensor([runner.states.req_id_to_index["a"]], dtype=torch.int32)
    logits = torch.full((1, WIDTH), -torch.inf)
    logits[0, LANTERN] = 0.0
    zero = torch.zeros(1, dtype=torch.int32)
    pos = torch.tensor([1])
    batch = slot.numpy()
    runner.slots.apply(logits, LogitsContext(slot, slot, batch, zero, zero, pos, batch))
    assert torch.where(logits[0] > -torch.inf)[0].tolist() == [NO_INSIDE]


def test_a_grammar_is_only_masked_or_ended(runner):
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    params = SamplingParams(structured_outputs=StructuredOutputsParams(choice=["x"]))
    runner.add("a", [LAMP], output=[COPPER], params=params)
    runner.add("b", [MARBLE, CINDER], params=params)
    masked, ended = runner.step({"a": VIOLET, "b": LAMP})
    assert VIOLET not in masked
    assert NO_INSIDE in masked
    assert ended == {EOS}


def test_each_request_is_under_its_own_policy(guards, runner):
    from vllm import SamplingParams

    mark = stamp.Stamp(guards.settings.others[0].digest)
    params = SamplingParams(extra_args={stamp.FIELD: stamp.sign(mark)})
    runner.add("a", [MARBLE, CINDER], output=[ZEPHYR], params=params)
    runner.add("b", [LAMP], output=[ZEPHYR])
    loose, strict = runner.step({"a": LANTERN, "b": LANTERN})
    assert LANTERN in loose
    assert LANTERN not in strict


def test_missed_steps_fail_closed(runner):
    runner.add("a", [LAMP])
    runner.step({"a": LAMP})
    runner.commit("a", LAMP, LAMP, ZEPHYR)
    assert runner.step({"a": LANTERN}) == [{NO_INSIDE}]


def test_unreadable_prompts_fail_closed(make):
    runner = make()
    runner.states.all_token_ids.stage_write = lambda *_: None
    runner.add("a", [LAMP])
    assert runner.step({"a": LAMP}) == [{NO}]


# Speculative decoding: one row per draft token


def test_drafts_are_judged_as_if_they_were_accepted(make):
    runner = make(spec=3)
    runner.add("a", [LAMP])
    rows = runner.step({"a": LAMP}, drafts={"a": [ZEPHYR, SPACE, LAN]})
    assert LANTERN in rows[0]
    assert LANTERN not in rows[1]  # behind "zephyr"
    assert LANTERN not in rows[2]
    assert TERN not in rows[3]
    # Two of them were accepted, and another token sampled.
    runner.commit("a", ZEPHYR, LAMP)
    rows = runner.step({"a": LAMP}, drafts={"a": [1]})
    assert LANTERN in rows[0]
    assert LANTERN not in rows[1]


def test_a_refusal_begun_behind_drafts_counts_only_if_they_are_accepted(make):
    runner = make(spec=2)
    runner.add("a", [LAMP])
    runner.add("b", [LAMP])
    wants = {"a": [COPPER, VIOLET, LAMP], "b": [COPPER, VIOLET, LAMP]}
    rows = runner.step(wants, drafts={"a": [COPPER, LAMP], "b": [COPPER, LAMP]})
    assert rows[1] == {NO_INSIDE}
    assert rows[4] == {NO_INSIDE}
    runner.commit("a", COPPER, NO_INSIDE)  # the draft was accepted
    runner.commit("b", LAMP)  # the draft was rejected
    rows = runner.step({"a": LAMP, "b": LAMP})
    assert rows[0] == {EOS}
    assert LAMP in rows[1]


def test_a_placeholder_for_a_draft_changes_nothing(make):
    """vLLM puts -1 where a request has no drafts yet; whatever is sampled behind it is rejected."""
    runner = make(spec=1)
    runner.add("a", [LAMP])
    runner.step({"a": [LAMP, LAMP]}, drafts={"a": [-1]})
    runner.commit("a", COPPER)
    (left,) = runner.step({"a": LAMP})
    assert LAMP in left
    assert VIOLET not in left


def test_requests_may_be_verified_in_several_calls(make):
    """vLLM bounds the memory of verification: a step's requests come in chunks."""
    runner = make(spec=2)
    for name in "ab":
        runner.add(name, [LAMP])
    first = runner.step({"a": [COPPER, VIOLET, LAMP]}, drafts={"a": [COPPER, LAMP]})
    second = runner.step({"b": LAMP}, drafts={"b": [ZEPHYR]})
    assert first[1] == {NO_INSIDE}
    assert LANTERN in second[0]
    assert LANTERN not in second[1]
    runner.commit("a", COPPER, NO_INSIDE)
    runner.commit("b", ZEPHYR, LAMP)
    rows = runner.step({"b": LAMP, "a": LAMP})
    assert LANTERN in rows[0]
    assert rows[1] == {EOS}


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False), st.integers(0, 3))
def test_no_walk_of_the_sampler_reaches_a_phrase(make, rng: random.Random, spec):
    """Random tokens, drafts, acceptances, preemptions: what comes out never holds a phrase."""
    runner = make(spec=spec)
    out = {name: [] for name in "abc"}
    for name in out:
        runner.add(name, [LAMP])
    for _ in range(12):
        names = rng.sample(sorted(out), rng.randint(1, 3))
        drafts = {n: [rng.randrange(EOS - 2) for _ in range(rng.randint(0, spec))] for n in names}
        rows = runner.step(dict.fromkeys(names, LAMP), drafts=drafts)
        for name in names:
            own = [rows.pop(0) for _ in range(len(drafts[name]) + 1)]
            taken = []
            for place, left in enumerate(own):
                draft = drafts[name][place] if place < len(drafts[name]) else None
                if draft is not None and draft in left and rng.random() < 0.7:
                    taken.append(draft)
                    continue
                taken.append(
                    rng.choice(sorted(left - {EOS, NO, NO_INSIDE} - set(range(SIZE, WIDTH))))
                )
                break
            runner.commit(name, *taken)
            out[name] += taken
            if rng.random() < 0.1:
                runner.drop(name)
                runner.add(name, [LAMP], output=out[name])
    for tokens in out.values():
        text = "".join(TEXTS[t] for t in tokens)
        assert not says(text, "zephyr lantern")
        assert not says(text, "copper violet")
