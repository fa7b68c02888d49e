"""A streaming session adds input to a request and makes what it said a part of its prompt.

vLLM takes the request out of the batch, hands it in again with the longer prompt, and empties the
very list of output ids that the processor was given.
"""

import numpy as np
import pytest
import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate
from vllm_slots import Runner, no_pinned_memory
from vllm_texts import BLOCKED, REFUSAL, UNSAYABLE, VLLM_POLICY

from prism.config import Settings
from prism.policy import load_policy
from prism.steer.vocabulary import Vocabulary
from vllm_prism.guards import Guards
from vllm_prism.v1 import Rows
from vllm_prism.v2 import HostSlots

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::FutureWarning")]

WORDS = [" copper", " violet", " lamp ", "marble", " cinder", "\n\nMore, please. ", REFUSAL]
TEXTS = [*WORDS, "\n\n" + REFUSAL]
COPPER, VIOLET, LAMP, MARBLE, CINDER, MORE, NO, NO_INSIDE, EOS = range(9)


@pytest.fixture(scope="module")
def guards(tmp_path_factory):
    path = tmp_path_factory.mktemp("sessions") / "policy.yaml"
    path.write_text(VLLM_POLICY)
    made = object.__new__(Guards)
    made.settings = Settings(load_policy(path))
    tokens = [*(text.encode() for text in TEXTS), None]
    made.vocabulary = Vocabulary(
        tokens, [EOS], lambda text: [TEXTS.index(text)] if text in TEXTS else [LAMP]
    )
    made.eos = EOS
    return made


class Session:
    """One request of V1's batch, and what its runner does with it."""

    def __init__(self, guards, prompt):
        self.rows, self.prompt, self.output = Rows(guards), prompt, []
        self._update(removed=[], added=self._added())

    def more(self, *tokens):
        self.prompt = [*self.prompt, *self.output, *tokens]
        self.output.clear()
        self._update(removed=[0], added=self._added())

    def step(self, wanted):
        logits = torch.zeros((1, EOS + 1))
        logits[0, wanted] = 5.0
        self.rows.apply(logits)
        return set(np.flatnonzero(logits.numpy()[0] > -np.inf).tolist())

    def _added(self):
        return [(0, SamplingParams(), self.prompt, self.output)]

    def _update(self, removed, added):
        self.rows.update(BatchUpdate(batch_size=1, removed=removed, added=added, moved=[]))


def test_a_phrase_begun_before_is_not_ended_after(guards):
    session = Session(guards, [LAMP])
    session.step(COPPER)
    session.output.append(COPPER)
    session.step(LAMP)
    session.more()
    assert VIOLET not in session.step(LAMP)
    assert session.step(VIOLET) in ({NO}, {NO_INSIDE})


def test_what_was_said_counts_as_prompt_from_then_on(guards):
    session = Session(guards, [LAMP])
    session.step(LAMP)
    session.output.append(LAMP)
    session.more(MORE, MARBLE, CINDER)  # the new input is what no prompt may say
    assert session.step(LAMP) == {NO}
    session.output.append(NO)
    assert session.step(LAMP) == {EOS}


def test_a_request_that_was_refused_stays_refused(guards):
    session = Session(guards, [MARBLE, CINDER, LAMP])
    assert session.step(LAMP) == {NO}
    session.output.append(NO)
    assert session.step(LAMP) == {EOS}
    session.more(MORE)
    assert session.step(LAMP) == {NO}


def test_the_v2_runners_slot_is_read_anew(guards):
    with no_pinned_memory():
        runner = Runner(guards, HostSlots, 0, width=EOS + 1)
        runner.add("a", [LAMP])
        runner.step({"a": COPPER})
        runner.commit("a", COPPER)
        runner.step({"a": LAMP})
        runner.drop("a")
        runner.add("a", [LAMP, COPPER])
        (left,) = runner.step({"a": LAMP})
        assert VIOLET not in left
        runner.drop("a")
        runner.add("a", [LAMP, COPPER, MORE, MARBLE, CINDER])
        assert runner.step({"a": LAMP}) == [{NO}]


def test_texts_of_this_file_are_those_of_the_policy():
    assert f"{WORDS[COPPER]}{WORDS[VIOLET]}" == f" {UNSAYABLE}"
    assert f"{WORDS[MARBLE]}{WORDS[CINDER]}" == BLOCKED
