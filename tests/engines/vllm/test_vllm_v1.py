"""The V1 interface on vLLM's own batch updates: order, live lists, placeholders, failures."""

import random

import numpy as np
import pytest
import torch
from vllm_texts import BLOCKED, REFUSAL, UNSAYABLE, VLLM_POLICY

from prism.config import Settings
from prism.policy import load_policy
from prism.steer import stamp
from prism.steer.vocabulary import Vocabulary

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::FutureWarning")]

WORDS = ["copper", " violet", " copper", " lamp", "marble", " cinder", "a", " b", REFUSAL]
TEXTS = [*WORDS, "\n\n" + REFUSAL]
EOS = len(TEXTS)
SIZE = EOS + 1
SAY_NO = WORDS.index(REFUSAL)
SAY_NO_INSIDE = SAY_NO + 1


def encode(text):
    return [TEXTS.index(text) if text in TEXTS else SAY_NO]  # refusals in other languages


@pytest.fixture(scope="module")
def guards(tmp_path_factory):
    from vllm_prism.guards import Guards

    path = tmp_path_factory.mktemp("v1") / "policy.yaml"
    path.write_text(VLLM_POLICY)
    loose = tmp_path_factory.mktemp("v1") / "loose.yaml"
    loose.write_text(f'prism: 1\nid: loose\nextends: permissive\nmessages: {{en: "{REFUSAL}"}}\n')
    guards = object.__new__(Guards)
    guards.settings = Settings(load_policy(path), others=(load_policy(loose),))
    guards.vocabulary = Vocabulary([*(t.encode() for t in TEXTS), None], [EOS], encode)
    guards.eos = EOS
    return guards


@pytest.fixture
def rows(guards):
    from vllm_prism.v1 import Rows

    return Rows(guards)


def params(**options):
    from vllm import SamplingParams

    return SamplingParams(**options)


def update(removed=(), added=(), moved=()):
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

    ways = {"swap": MoveDirectionality.SWAP, "one": MoveDirectionality.UNIDIRECTIONAL}
    listed = [(a, b, ways[way]) for a, b, way in moved]
    return BatchUpdate(batch_size=8, removed=removed, added=added, moved=listed)


def step(rows, wanted, count=1):
    """Apply to ``count`` rows in which token ``wanted`` is likeliest; return what is left."""
    logits = torch.zeros((count, SIZE))
    logits[:, wanted] = 5.0
    rows.apply(logits)
    return [
        set(np.flatnonzero(row > -np.inf).tolist()) if np.isinf(row).any() else None
        for row in logits.numpy()
    ]


def test_a_phrase_is_masked_and_then_refused(rows):
    output = []
    rows.update(update(added=[(0, params(), [6], output)]))
    assert step(rows, 6) == [None]
    output.append(0)  # "copper"
    assert 1 not in step(rows, 6)[0]  # " violet", while the model wants something else
    assert step(rows, 1)[0] == {SAY_NO_INSIDE}
    output.append(SAY_NO_INSIDE)
    assert step(rows, 1)[0] == {EOS}


def test_a_chunk_of_a_prompt_changes_nothing(rows):
    output = [0]
    rows.update(update(added=[(0, params(), [6], output)]))
    # What the model wants is refused, but the sample is thrown away: the list doesn't grow.
    assert step(rows, 1)[0] == {SAY_NO_INSIDE}
    left = step(rows, 6)[0]
    assert 6 in left
    assert 1 not in left


def test_rows_follow_the_batch(rows):
    blocked, free = [4, 5], [6]
    rows.update(update(added=[(0, params(), blocked, []), (1, params(), free, [])]))
    assert step(rows, 6, 2) == [{SAY_NO}, None]
    rows.update(update(moved=[(0, 1, "swap")]))
    assert step(rows, 6, 2) == [None, {SAY_NO}]
    # Removed, then added into the same place, then moved away from it.
    rows.update(update(removed=[1], added=[(1, params(), blocked, [])], moved=[(1, 0, "one")]))
    assert step(rows, 6, 2) == [{SAY_NO}, None]
    rows.update(update(removed=[0]))
    assert step(rows, 6, 2) == [None, None]
    rows.update(None)


def test_a_request_that_comes_back_in_a_new_list_goes_on(rows):
    rows.update(update(added=[(0, params(), [6], [])]))
    step(rows, 6)
    rows.update(update(removed=[0]))
    rows.update(update(added=[(0, params(), [6], [6, 2])]))
    assert step(rows, 1)[0] == {SAY_NO_INSIDE}


def test_tokens_still_on_the_device_are_not_guessed(rows):
    output = [6, -1]
    rows.update(update(added=[(0, params(), [6], output)]))
    assert step(rows, 6)[0] == {SAY_NO_INSIDE}
    output[1] = SAY_NO_INSIDE
    output.append(-1)
    assert step(rows, 6)[0] == {EOS}


def test_a_refusal_under_way_counts_by_length_alone(rows):
    output = []
    rows.update(update(added=[(0, params(), [4, 5], output)]))
    assert step(rows, 6)[0] == {SAY_NO}
    output.append(-1)
    assert step(rows, 6)[0] == {EOS}
    output.append(-1)
    assert step(rows, 6)[0] == {EOS}


def test_without_prompt_ids_it_refuses(rows):
    rows.update(update(added=[(0, params(), None, [])]))
    assert step(rows, 6)[0] == {SAY_NO}


def test_two_ranks_decide_alike(guards):
    """With tensor parallelism each rank runs its own processor, and nobody compares them."""
    from vllm_prism.v1 import Rows

    rng = random.Random(7)
    for _ in range(20):
        output, ranks = [], [Rows(guards), Rows(guards)]
        prompt = rng.choices(range(SIZE - 1), k=3)
        for rows in ranks:
            rows.update(update(added=[(0, params(), prompt, output)]))
        for _ in range(8):
            logits = torch.rand((1, SIZE), generator=torch.Generator().manual_seed(len(output)))
            masked = [logits.clone() for _ in ranks]
            for rows, own in zip(ranks, masked, strict=True):
                rows.apply(own)
            assert torch.equal(*masked)
            allowed = torch.isfinite(masked[0][0]).nonzero().flatten().tolist()
            output.append(rng.choice(allowed))


def test_shared_params_are_separate_rows(rows):
    shared = params(n=2)
    one, two = [0], [6]
    rows.update(update(added=[(0, shared, [6], one), (1, shared, [6], two)]))
    assert step(rows, 1, 2) == [{SAY_NO_INSIDE}, None]


def test_a_failure_ends_its_request_and_no_other(rows, monkeypatch, caplog):
    from prism.steer.row import TokenRow

    class Broken(list):
        def __len__(self):
            raise RuntimeError("broken")

    rows.update(update(added=[(0, params(), [6], Broken()), (1, params(), [6], [0])]))
    first, second = step(rows, 6, 2)
    assert first == {EOS}
    assert 6 in second
    assert "ended because its moderation failed" in caplog.text
    monkeypatch.setattr(TokenRow, "advance", None)
    assert step(rows, 6, 2) == [{EOS}, {EOS}]


def test_where_nothing_is_left_it_refuses(rows):
    output = [0]
    rows.update(update(added=[(0, params(), [6], output)]))
    logits = torch.full((1, SIZE), -torch.inf)
    logits[0, 1] = 0.0
    rows.apply(logits)
    assert np.flatnonzero(logits.numpy()[0] > -np.inf).tolist() == [SAY_NO_INSIDE]


def test_a_grammar_is_only_masked_or_ended(rows):
    from vllm.sampling_params import StructuredOutputsParams

    grammar = params(structured_outputs=StructuredOutputsParams(choice=["x"]))
    rows.update(update(added=[(0, grammar, [6], [0]), (1, grammar, [4, 5], [])]))
    first, second = step(rows, 1, 2)
    assert SAY_NO_INSIDE in first
    assert 1 not in first
    assert second == {EOS}


def test_strided_rows_are_edited_in_place(rows):
    rows.update(update(added=[(0, params(), [4, 5], [])]))
    logits = torch.zeros((2, SIZE * 2))[:, ::2]
    rows.apply(logits)
    assert torch.isinf(logits[0]).sum() == SIZE - 1
    assert not torch.isinf(logits[1]).any()


# Stamps


@pytest.fixture
def prepare(monkeypatch):
    from vllm_prism import checks
    from vllm_prism.params import prepare

    monkeypatch.setattr(checks, "_installed", True)
    return prepare


def test_a_stamp_chooses_the_policy_and_none_means_the_strictest(guards, prepare):
    loose = guards.settings.others[0]
    mine = params(extra_args={"other": 1})
    token = stamp.current.set(stamp.Stamp(loose.digest, "acme"))
    try:
        for _ in range(2):  # parameter objects are reused
            prepare(mine)
            assert mine.extra_args["other"] == 1
            assert guards.policy(mine) is loose
    finally:
        stamp.current.reset(token)
    prepare(mine)
    assert mine.extra_args == {"other": 1}
    assert guards.policy(mine) is guards.settings.strictest


@pytest.mark.parametrize(
    "forged", ["", "x", 7, None, {"digest": "0"}, "prism1:" + "0" * 64 + ":default:" + "0" * 64]
)
def test_a_forged_stamp_means_the_strictest(guards, prepare, forged):
    mine = params(extra_args={stamp.FIELD: forged})
    assert guards.policy(mine) is guards.settings.strictest
    prepare(mine)
    assert mine.extra_args is None


def test_an_unknown_digest_means_the_strictest(guards):
    mine = params(extra_args={stamp.FIELD: stamp.sign(stamp.Stamp("0" * 64))})
    assert guards.policy(mine) is guards.settings.strictest


def test_ignore_eos_is_cleared(prepare):
    mine = params(ignore_eos=True)
    prepare(mine)
    assert mine.ignore_eos is False


def test_one_class_passes_both_loaders():
    from vllm.v1.sample.logits_processor import _load_logitsprocs_plugins
    from vllm.v1.worker.gpu.sample.logits_processor.loader import _load_v2_logitsprocs_plugins

    names = [cls.__name__ for cls in _load_logitsprocs_plugins()]
    assert names.count("PrismLogitsProcessor") == 1
    assert [c.__name__ for c in _load_v2_logitsprocs_plugins()].count("PrismLogitsProcessor") == 1


def test_texts_of_this_file_are_those_of_the_policy():
    assert f"{WORDS[0]}{WORDS[1]}" == UNSAYABLE
    assert f"{WORDS[4]}{WORDS[5]}" == BLOCKED


# Scores


@pytest.fixture
def scored(guards, monkeypatch):
    """Rows under a policy whose sketch has learnt that "marble copper" is harm."""
    from tests.scores import canary_sketch

    from prism.steer.guard import TokenGuard
    from vllm_prism.v1 import Rows

    monkeypatch.setattr(TokenGuard, "_cache", {})
    monkeypatch.setattr("prism.classify.sketch._shipped", lambda: canary_sketch("marble copper"))
    return Rows(guards)


HARMFUL = [4, 2, 2, 2, 2]  # "marble copper copper …", just past the first look


def test_a_score_too_high_is_answered_by_the_refusal(scored):
    output, free = [], []
    scored.update(update(added=[(0, params(), [6], output), (1, params(), [6], free)]))
    for token in HARMFUL:
        assert {EOS} != step(scored, 6, 2)[0] != {SAY_NO_INSIDE}
        output.append(token)
        free.append(6)
    first, second = step(scored, 6, 2)
    assert first == {SAY_NO_INSIDE}
    assert second is None or 6 in second
    output.append(SAY_NO_INSIDE)
    free.append(6)
    assert step(scored, 6, 2)[0] == {EOS}


def test_under_a_grammar_a_score_too_high_is_the_end(scored):
    from vllm.sampling_params import StructuredOutputsParams

    grammar = params(structured_outputs=StructuredOutputsParams(choice=["x"]))
    scored.update(update(added=[(0, grammar, [6], HARMFUL)]))
    assert step(scored, 6)[0] == {EOS}


def test_scores_that_fail_close_their_rows(scored, monkeypatch, caplog):
    from prism.steer.scores import ScoreStates

    monkeypatch.setattr(ScoreStates, "feed", None)  # in the batch
    output = []
    scored.update(update(added=[(0, params(), [6], output)]))
    assert step(scored, 6) == [None]
    output += HARMFUL[:1]
    assert step(scored, 6)[0] != {EOS}  # read alone
    monkeypatch.setattr(ScoreStates, "feed_one", None)
    output += HARMFUL[1:2]
    assert step(scored, 6)[0] == {EOS}
    assert "ended because its moderation failed" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rows_are_masked_together_as_alone(guards, dtype):
    from vllm_prism.v1 import Rows

    rng = np.random.default_rng(2)
    for _ in range(40):
        outputs = [rng.integers(0, 8, rng.integers(0, 4)).tolist() for _ in range(6)]
        logits = torch.from_numpy(rng.normal(size=(6, SIZE))).to(dtype)
        expected = logits.float().clone()
        together = Rows(guards)
        together.update(update(added=[(i, params(), [6], o) for i, o in enumerate(outputs)]))
        together.apply(logits)
        for i, output in enumerate(outputs):
            alone = guards.guard(params()).row([6])
            alone.advance(output)
            alone.apply(expected.numpy()[i])
        assert torch.equal(logits.float(), expected)


def test_rows_that_stay_together_go_on_as_alone(guards):
    """Refusals begin and are thrown away, requests swap, leave and come, step after step."""
    from vllm_prism.v1 import Rows

    rng = np.random.default_rng(5)
    refused = thrown = 0
    for _ in range(12):
        together, alone = Rows(guards), [Rows(guards) for _ in range(5)]
        outputs = [[] for _ in alone]
        added = [(i, params(), [6], output) for i, output in enumerate(outputs)]
        together.update(update(added=added))
        for rows, one in zip(alone, added, strict=True):
            rows.update(update(added=[(0, *one[1:])]))
        for _ in range(12):
            logits = torch.from_numpy(rng.normal(size=(5, SIZE)).astype(np.float32))
            expected = logits.clone()
            together.apply(logits)
            for i, rows in enumerate(alone):
                rows.apply(expected[i : i + 1])
            assert torch.equal(logits, expected)
            for row, output in zip(logits.numpy(), outputs, strict=True):
                ends = np.isfinite(row).sum() == 1
                refused += ends
                if rng.random() < 0.8:
                    output.append(int(row.argmax()))
                else:
                    thrown += ends
            if rng.random() < 0.2:
                together.update(update(moved=[(0, 3, "swap")]))
                alone[0], alone[3] = alone[3], alone[0]
                outputs[0], outputs[3] = outputs[3], outputs[0]
            elif rng.random() < 0.2:
                outputs[2] = []
                together.update(update(removed=[2], added=[(2, params(), [6], outputs[2])]))
                alone[2] = Rows(guards)
                alone[2].update(update(added=[(0, params(), [6], outputs[2])]))
    assert refused > thrown > 0


def test_a_request_that_failed_leaves_the_others_together(rows, monkeypatch):
    from prism.steer.batch import Line

    class Broken(list):
        def __len__(self):
            raise RuntimeError("broken")

    lines = []
    made = Line.__init__
    monkeypatch.setattr(
        Line, "__init__", lambda line, *of: (lines.append(len(of[0])), made(line, *of))[1]
    )
    output = []
    added = [(0, params(), [6], Broken()), (1, params(), [6], output), (2, params(), [6], [])]
    rows.update(update(added=added))
    for _ in range(3):
        assert step(rows, 6, 3)[0] == {EOS}
        output.append(6)
    assert lines == [3, 2]  # found anew once, without it
    output.append(2)  # " copper"
    assert 1 not in step(rows, 6, 3)[1]
