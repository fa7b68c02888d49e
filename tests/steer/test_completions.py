"""Many phrases over a vocabulary: ranges are complete, and what is kept in files is the same."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from tests.masks import banned_of
from tests.match.test_phrases import made_up
from tests.policies import policy, rule

from prism.match import automaton as ac
from prism.match import disk, phrases, stages
from prism.match.phrases import Phrase, PhraseSet
from prism.moderator import Moderator
from prism.steer import guard as guards
from prism.steer import vocabulary as vocabularies
from prism.steer.batch import Batch
from prism.steer.completions import FAIL_LINK, HIGH, LOW, START, spread
from prism.steer.guard import TokenGuard
from prism.steer.vocabulary import Vocabulary
from prism.types import Action, Boundary, Disguise, Stage

MANY = [phrase.text for phrase in made_up(20_000)]


def big(count=20_000):
    return policy(
        rule("many", MANY[:count]),
        rule("loose", ["krzq", "oolan"], boundary=Boundary.NONE, action=Action.STEER),
        rule("lantern", ["zephyr lantern"]),
    )


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Keep even small things, in a folder of the test's own."""
    monkeypatch.setenv(disk.VARIABLE, str(tmp_path))
    for module in (guards, phrases, vocabularies):
        monkeypatch.setattr(module, "WORTH_KEEPING", 1)
    monkeypatch.setattr(PhraseSet, "_shared", type(PhraseSet._shared)())
    monkeypatch.setattr(stages, "_every", type(stages._every)())
    return tmp_path


def forget():
    """Forget what was compiled, as a new process would have."""
    PhraseSet._shared.clear()
    stages._every.clear()


def again(vocabulary):
    """Return the vocabulary as another process would have it."""
    raw = [
        None if control else vocabulary.bytes_of([i])
        for i, control in enumerate(vocabulary.control)
    ]
    return Vocabulary(raw, vocabulary.eos_ids, vocabulary.encode)


def texts(vocabulary, rng, count):
    """Yield token ids of texts in which phrases begin, as the tokenizer has them or by letter."""
    single = {vocabulary.bytes_of([i]): i for i in range(vocabulary.size)}
    for _ in range(count):
        said = rng.choice([*MANY, "zephyr lantern", "a krzq", "good oolan"])
        if rng.random() < 0.3:
            said = rng.choice(["-", " ", "."]).join(said)
        if rng.random() < 0.2:
            said = said[::-1]
        said = rng.choice(["", "the ", "x"]) + said[: rng.randint(1, len(said))]
        letters = [bytes((byte,)) for byte in said.encode()]
        if rng.random() < 0.4 and all(letter in single for letter in letters):
            yield [single[letter] for letter in letters]
        else:
            yield vocabulary.encode(said)


def test_with_many_phrases_the_mask_is_exactly_what_brute_force_says(vocabulary):
    chosen, rng = big(), random.Random(4)
    guard, moderator = TokenGuard(chosen, vocabulary), Moderator(chosen)
    encodings = {"base64", "hex", "escapes"}

    def blocked(data):
        scanner = moderator.scanner(Stage.OUTPUT)
        found = scanner.feed(data.decode("utf-8", "replace")) + scanner.finish()
        return any(moderator.stopping(m.rule) for m in found if not encodings & set(m.via))

    banned = 0
    for ids in texts(vocabulary, rng, 25):
        so_far = vocabulary.bytes_of(ids)
        if blocked(so_far):
            continue
        row = guard.row([])
        row.advance(ids)
        expected = [
            i
            for i in np.flatnonzero(~vocabulary.control).tolist()
            if blocked(so_far + vocabulary.bytes_of([i])) or i in vocabulary.mixed
        ]
        assert banned_of(row.step(), vocabulary.size) == expected, so_far
        banned += len(expected)
    assert banned > 0


def test_a_guard_from_files_masks_as_the_one_that_left_them(vocabulary, kept):
    first = TokenGuard(big(), again(vocabulary))
    names = {path.name.split("-")[0] for path in kept.iterdir()}
    assert names == {"phrases", "vocabulary", "completions"}
    stamps = {path: path.stat().st_ino for path in kept.iterdir()}
    forget()
    second = TokenGuard(big(), again(vocabulary))
    assert {path: path.stat().st_ino for path in kept.iterdir()} == stamps
    assert second.output is not first.output
    assert second.output.digest == first.output.digest
    assert np.array_equal(first.always, second.always)
    assert np.array_equal(first.at_word_start, second.at_word_start)
    outputs = list(texts(vocabulary, random.Random(5), 40))
    masks = []
    for guard in (first, second):
        batch = Batch(guard)
        rows = [batch.row([]) for _ in outputs]
        masks.append(batch.step(rows, outputs))
    assert np.array_equal(masks[0].ids, masks[1].ids)
    assert np.array_equal(masks[0].bounds, masks[1].bounds)
    assert len(masks[0].ids)


def test_a_damaged_file_of_any_kind_is_made_anew(vocabulary, kept):
    first = TokenGuard(big(200), again(vocabulary)).completions
    for path in kept.iterdir():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0x55
        path.write_bytes(data)
    forget()
    second = TokenGuard(big(200), again(vocabulary))
    for one, other in zip(first, second.completions, strict=True):
        assert np.array_equal(one, other)


def test_stages_with_the_same_phrases_share_them(vocabulary):
    guard = TokenGuard(policy(rule("r", MANY[:50])), vocabulary)
    assert guard.output is guard.prompt


def test_ranges_are_those_of_every_split(vocabulary):
    """In the plain view, where keys are the tokens' own text: found by looking at all of them."""
    guard = TokenGuard(big(30), vocabulary)
    compiled = guard.output
    whole, _ = vocabulary.lookups[0]
    block = spread(guard._completions[0], vocabulary.words[0], compiled.plain)
    n = int(compiled.plain[ac.NODES])
    spelled = {}
    symbols, bounds = ac.patterns_of(whole.block)
    heads = np.flatnonzero(ac.unpack(whole.block).output >= 0)
    for number, node in enumerate(heads):
        for token in whole.order[whole.low[node] : whole.exact[node]].tolist():
            spelled[token] = symbols[bounds[number] : bounds[number + 1]].tolist()
    patterns, ends = ac.patterns_of(compiled.plain)
    expected = {node: set() for node in range(n)}
    for first, last in itertools.pairwise(ends):
        node, pattern = np.int32(0), patterns[first:last].tolist()
        for i, symbol in enumerate(pattern[:-1]):
            node = ac.advance(compiled.plain, node, np.int32(symbol))
            rest = pattern[i + 1 :]
            for left in [rest, [32, *rest]] if symbol == 32 else [rest]:
                for token, key in spelled.items():
                    closed = left[-1] == 32 and key == left[:-1]
                    if key[: len(left)] == left or closed:
                        expected[int(node)].add(token)
    starts, lows, highs = (block[block[part] :] for part in (START, LOW, HIGH))
    for node in range(n):
        found = set()
        for i in range(starts[node], starts[node + 1]):
            found |= set(block[lows[i] : highs[i]].tolist())
        assert found == expected[node]
    fails = block[block[FAIL_LINK] : block[FAIL_LINK] + n]
    assert np.array_equal(fails, ac.unpack(compiled.plain).fail)


def staged(count=30):
    """Return a policy whose stages differ by a rule each, both with the same long list."""
    return policy(
        rule("many", MANY[:count]),
        rule("asked", ["velvet cartographer"], stages=frozenset({Stage.PROMPT})),
        rule("said", ["zephyr lantern"], stages=frozenset({Stage.OUTPUT})),
        rule("noted", ["quiet harbour"], action=Action.FLAG),
        rule("loose", ["krzq"], boundary=Boundary.NONE, action=Action.STEER),
    )


@pytest.fixture
def sharing(monkeypatch):
    """Share even a short list."""
    monkeypatch.setattr(stages, "WORTH_SHARING", 1)
    monkeypatch.setattr(stages, "_every", type(stages._every)())
    monkeypatch.setattr(PhraseSet, "_shared", type(PhraseSet._shared)())


def test_stages_that_differ_share_one_block(vocabulary, sharing):
    guard = TokenGuard(staged(), vocabulary)
    text = [stages.phrases_of(staged(), stage) for stage in Stage]
    assert len({id(each.block) for each in (guard.output, guard.prompt, *text)}) == 1
    assert set(guard.output.rules) == {"many", "said", "loose"}
    assert set(guard.prompt.rules) == {"many", "asked"}
    assert len({each.digest for each in (guard.output, guard.prompt, *text)}) == 4
    assert guard.output is TokenGuard(staged(), vocabulary).output


def test_a_shared_set_masks_and_blocks_as_one_of_its_own(vocabulary, sharing, monkeypatch):
    shared = TokenGuard(staged(), vocabulary)
    monkeypatch.setattr(stages, "WORTH_SHARING", 10**9)
    alone = TokenGuard(staged(), vocabulary)
    assert len(alone.output.block) < len(shared.output.block)
    assert np.array_equal(shared.always, alone.always)
    assert np.array_equal(shared.at_word_start, alone.at_word_start)
    said = [*MANY[:30], "velvet cartographer", "zephyr lantern", "quiet harbour", "a krzq"]
    said += [" ".join(text) for text in said]
    banned = blocked = 0
    for text in said:
        ids = vocabulary.encode(f"the {text}")
        assert shared.blocks_prompt(ids) == alone.blocks_prompt(ids)
        blocked += shared.blocks_prompt(ids)
        rows = [guard.row([]) for guard in (shared, alone)]
        for end in range(len(ids) + 1):
            for row in rows:
                row.advance(ids[:end])
            one, other = (row.step() for row in rows)
            assert rows[0].refusing == rows[1].refusing
            assert one.forced == other.forced
            assert np.array_equal(one.banned, other.banned), (text, end)
            banned += len(one.banned)
            rules = [row.state.rules_behind(vocabulary, ids[0]) for row in rows]
            assert rules[0] == rules[1]
    assert banned > 0
    assert 0 < blocked < len(said)


def test_of_a_shared_set_the_text_layer_reports_its_own_rules(sharing, monkeypatch):
    text = f"quiet harbour, zephyr lantern {MANY[3]} velvet cartographer. v e l v e t cartographer"

    def found(stage):
        scanner = stages.phrases_of(staged(), stage).scanner()
        matches, opened = [], []
        for piece in [text[i : i + 3] for i in range(0, len(text), 3)]:
            matches += scanner.feed(piece)
            opened.append(scanner.open_from())
        return matches + scanner.finish(), opened

    shared = {stage: found(stage) for stage in Stage}
    monkeypatch.setattr(stages, "WORTH_SHARING", 10**9)
    alone = {stage: found(stage) for stage in Stage}
    for stage in Stage:
        assert set(shared[stage][0]) == set(alone[stage][0])
        assert shared[stage][0]
    assert shared[Stage.OUTPUT][1] == alone[Stage.OUTPUT][1]  # what is held is the output's


def test_only_some_rules_of_a_set_count():
    whole = PhraseSet.compile(
        [Phrase(name, "zephyr lantern", Boundary.WORD, frozenset(Disguise), True) for name in "ab"]
    )
    assert whole.only("ab") is whole
    one = whole.only("b")
    assert one.block is whole.block
    assert one.only("b") is one
    assert [m.rule for m in whole.scanner().feed("a zephyr lantern.")] == ["a", "b"]
    assert [m.rule for m in one.scanner().feed("a zephyr lantern.")] == ["b"]
    assert [m.rule for m in one.scanner().feed("a z-e-p-h-y-r lantern.")] == ["b"]
    none = whole.only("c")
    assert none.empty
    assert not none.scanner().feed("a zephyr lantern, a zeph yr lantern.")
    assert len({whole.digest, one.digest, none.digest}) == 3
