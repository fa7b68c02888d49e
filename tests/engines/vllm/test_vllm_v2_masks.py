"""The device's masks against the host's, by brute force over random states and vocabularies.

The host's are exact (``tests/steer``), so equality is the guarantee: a token is masked if and only
if the text, ending behind it, would hold a phrase, disguised or not.
"""

import random
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tests.bytelevel import Wrapped, byte_level
from tests.masks import banned_of
from vllm_lanes import kernels_on

from prism.match import stages
from prism.policy import load_policy
from prism.steer.guard import TokenGuard
from prism.steer.vocabulary import Vocabulary
from vllm_prism.fields import slot as slot_fields

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::FutureWarning")]

POLICIES = [
    """\
prism: 1
id: many
rules:
  - {id: a, category: prv, stages: [output], action: steer,
     phrases: [zephyr lantern, book, "мир", "straße", "é à la", cook]}
  - {id: b, category: prv, stages: [output], action: block,
     phrases: [velvet cartographer, good book, "привет мир", lan tern]}
  - {id: c, category: prv, stages: [output], action: steer, boundary: none,
     phrases: [lamp, tern, ooze]}
  - {id: d, category: prv, stages: [prompt], action: block, phrases: [lane, good, velvet]}
  - {id: e, category: prv, stages: [output], action: flag, phrases: [lantern, cartographer]}
messages: {en: "no."}
""",
    """\
prism: 1
id: few
rules:
  - {id: b, category: prv, stages: [output], action: block, phrases: [zephyr, lane and a tern]}
messages: {en: "no."}
""",
    'prism: 1\nid: none\nrules: []\nmessages: {en: "no."}\n',
]
TEXTS = [
    "zephyr lantern", "book", "velvet cartographer", "good book", "привет мир", "lamp", "tern",
    "straße", "é à la", "cook", "lan tern", "ooze", "lane and a tern",
]  # fmt: skip
LEET = {"o": "0", "e": "3", "a": "@", "l": "1", "i": "!", "s": "$", "t": "+"}
ALIKE = {"o": "о", "e": "е", "a": "а", "p": "р"}
SLOTS, DRAFTS = 6, 3


@pytest.fixture(scope="module")
def bytes_vocabulary():
    texts = [f"{t} {t.title()} a {t}, {t.upper()}; " + "-".join(t) for t in TEXTS]
    return Vocabulary.from_tokenizer(Wrapped(byte_level(texts * 5, 600, "<eos>"), "<eos>"))


@pytest.fixture(scope="module")
def gemma(vllm_model):
    """SentencePiece with byte fallback, 262,000 tokens."""
    from transformers import AutoTokenizer

    return Vocabulary.from_tokenizer(AutoTokenizer.from_pretrained(vllm_model))


class Request(NamedTuple):
    """``read`` tokens are in the slot's state, ``new`` are committed since, the rest drafts."""

    policy: int
    tokens: list[int]
    read: int
    new: int

    @property
    def committed(self) -> int:
        return self.read + self.new


class Scene:
    """Random requests on a device and on the host."""

    def __init__(self, walk, vocabulary, path, rng):
        self.rng, self.vocabulary = rng, vocabulary
        self.guards = []
        for i, text in enumerate(POLICIES):
            (path / f"{i}.yaml").write_text(text)
            policy = load_policy(path / f"{i}.yaml")
            self.guards.append(TokenGuard.compile(policy, vocabulary))
        self.eos = min(vocabulary.eos_ids)
        self.walk = walk.Walk(self.guards, self.eos, SLOTS, DRAFTS, torch.device("cpu"), tried=256)
        sizes = np.diff(vocabulary.offsets)
        self.bytes = np.flatnonzero(sizes == 1).tolist()
        self.of_byte = {int(vocabulary.data[vocabulary.offsets[i]]): i for i in self.bytes}
        self.width = vocabulary.size + 3

    def spelled(self, text):
        """Disguise ``text`` as a policy lets it, and as none does."""
        out = []
        for char in text:
            chance = self.rng.random()
            if chance < 0.08:
                char = LEET.get(char, char)
            elif chance < 0.14:
                char *= self.rng.randint(2, 3)
            elif chance < 0.2:
                char = char.upper()
            elif chance < 0.24:
                char = ALIKE.get(char, char)
            elif chance < 0.28:
                char += "\u200b"
            out.append(char)
        return self.rng.choice(["", "", "", "", "", "", " ", ".", "-"]).join(out)

    def ids(self, text):
        """Spell ``text`` in tokens: as the tokenizer does, in bytes, or in pieces of any size."""
        chance = self.rng.random()
        if chance < 0.4:
            return self.vocabulary.encode(text)
        if chance < 0.6:
            return [self.of_byte[byte] for byte in text.encode()]
        out, at = [], 0
        while at < len(text):
            end = at + self.rng.randint(1, 5)
            out += self.vocabulary.encode(text[at:end])
            at = end
        return out

    def request(self):
        rng = self.rng
        begin = rng.choice(["", "the ", "x", "a, ", "!", "z "])
        tokens = self.ids(begin + self.spelled(rng.choice(TEXTS)))
        tokens = tokens[: rng.randint(0, len(tokens))]
        if rng.random() < 0.3:  # a character half-read, or what is none
            tokens += rng.choices(self.bytes, k=rng.randint(1, 2))
        if rng.random() < 0.1:
            tokens += [rng.randrange(self.vocabulary.size) for _ in range(2)]
        drafts = min(rng.randint(0, DRAFTS), len(tokens))
        new = min(rng.randint(0, DRAFTS + 1), len(tokens) - drafts)
        policy = rng.choice([0, 0, 0, 0, 1, 2])
        return Request(policy, tokens, len(tokens) - drafts - new, new)

    def row(self, request, upto):
        """The host's row behind the first ``upto`` tokens, whatever they hold."""
        row = self.guards[request.policy].row([])
        ids = np.array(request.tokens[:upto], np.int64)
        row.state.feed(self.vocabulary, ids[: request.read])
        row.state.length = upto
        if row.state.broken:
            row.refuse()
        for at in range(request.read, upto):
            row.state.feed(self.vocabulary, ids[at : at + 1])
            if row.state.broken and not row.refusing:  # behind these bytes, not at the end
                row.state.length = at + 1
                row.refuse()
                row.state.length = upto
        return row

    def check(self):
        """One step of random requests, each row against the host's; return how many are banned."""
        rng = self.rng
        requests = [self.request() for _ in range(SLOTS)]
        ids = torch.zeros((SLOTS, 512), dtype=torch.int32)
        fields, states = [], []
        for slot, r in enumerate(requests):
            ids[slot, : r.committed] = torch.tensor(r.tokens[: r.committed], dtype=torch.int32)
            fields.append(slot_fields(r.policy, seen=r.read))
            states.append(self.walk.start(r.policy, r.tokens[: r.read]))
        self.walk.put(range(SLOTS), np.array(fields), np.stack(states))
        rows = [
            (slot, place)
            for slot in rng.sample(range(SLOTS), SLOTS)
            for place in range(len(requests[slot].tokens) - requests[slot].committed + 1)
        ]
        ends = [requests[slot].committed + place for slot, place in rows]
        fed = [
            requests[s].tokens[end - 1] if end else 0
            for (s, _), end in zip(rows, ends, strict=True)
        ]
        noise = np.random.default_rng(rng.randrange(1 << 30))
        logits = torch.from_numpy(noise.normal(size=(len(rows), self.width)).astype(np.float32))
        wanted, steps = [], []
        for row, ((slot, _), end) in enumerate(zip(rows, ends, strict=True)):
            steps.append(self.row(requests[slot], end).step())
            banned = banned_of(steps[-1], self.vocabulary.size)
            some = banned if rng.random() < 0.5 and steps[-1].forced is None else []
            if steps[-1].allowed is not None and rng.random() < 0.7:  # characters among them
                valid = set(self.vocabulary.continuing.tolist())
                some = [token for token in banned if token in valid]
            wanted.append(rng.choice(some or [self.vocabulary.size]))
            logits[row, wanted[-1]] = 50.0
        before = logits.clone()
        self.walk.step(
            logits,
            ids,
            torch.tensor([slot for slot, _ in rows], dtype=torch.int32),
            torch.tensor([place for _, place in rows], dtype=torch.int32),
            torch.tensor(ends) - 1,
            torch.tensor(fed, dtype=torch.int32),
        )
        for row, ((slot, _), end) in enumerate(zip(rows, ends, strict=True)):
            expected = before[row].clone()
            self.row(requests[slot], end).apply(expected.numpy())
            said = self.vocabulary.bytes_of(requests[slot].tokens[:end])
            differ = torch.where(logits[row] != expected)[0].tolist()
            assert not differ, (said, [self.vocabulary.bytes_of([t]) for t in differ[:5]])
        return sum(len(step.banned) for step in steps)


@pytest.mark.parametrize("seed", range(2))
def test_byte_level_vocabulary(bytes_vocabulary, tmp_path, seed):
    with kernels_on() as walk:
        scene = Scene(walk, bytes_vocabulary, tmp_path, random.Random(seed))
        assert sum(scene.check() for _ in range(8)) > 50


def test_phrases_that_share_their_automata_with_other_stages(
    bytes_vocabulary, tmp_path, monkeypatch
):
    monkeypatch.setattr(stages, "WORTH_SHARING", 0)
    monkeypatch.setattr(TokenGuard, "_cache", {})
    with kernels_on() as walk:
        scene = Scene(walk, bytes_vocabulary, tmp_path, random.Random(5))
        assert not scene.guards[0].output.active.all()
        assert sum(scene.check() for _ in range(4)) > 25


def test_real_vocabulary(gemma, tmp_path):
    with kernels_on() as walk:
        scene = Scene(walk, gemma, tmp_path, random.Random(11))
        assert sum(scene.check() for _ in range(3)) > 100
