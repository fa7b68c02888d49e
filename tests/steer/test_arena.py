"""The guards' arrays as devices get them. (That kernels on them mask as the host does is tested in
``tests/engines/vllm``.)"""

import numpy as np
import pytest

from prism.match.kernel import GAPS, PLAIN
from prism.policy import load_policy
from prism.steer import arena as a
from prism.steer.arena import Arena
from prism.steer.guard import TokenGuard
from prism.steer.state import State
from prism.steer.vocabulary import Vocabulary
from prism.text.normalise import fold_code_point

POLICY = """\
prism: 1
id: arena
rules:
  - {{id: a, category: prv, stages: [output], phrases: [zephyr lantern, lamp], action: steer}}
  - {{id: b, category: prv, stages: [output], phrases: [{name}, tern], action: block}}
messages: {{en: "no."}}
"""
PIECES = [
    b" lamp", b"tern", b"lamps", b"z", "ﬁé".encode(), b"\xe2\x84", b"\x84\xaa", b"\xaa, b",
    b"\x80\x80\x80\x80", b"  ",
]  # fmt: skip


@pytest.fixture
def guard(tmp_path):
    def make(vocabulary, name="book"):
        path = tmp_path / "policy.yaml"
        path.write_text(POLICY.format(name=name))
        return TokenGuard.compile(load_policy(path), vocabulary)

    return make


@pytest.fixture
def pieces():
    return Vocabulary([*PIECES, None], [len(PIECES)], lambda text: [])


def codes(arena, token):
    first, size = arena.tokens[token, [a.FIRST, a.SIZE]]
    return [(code >> 24, code & 0xFFFFFF) for code in arena.codes[first : first + size].tolist()]


def test_what_a_token_spells_is_folded_once(vocabulary, guard):
    arena = Arena.of([guard(vocabulary)])
    whole = 0
    for token in range(vocabulary.size):
        try:
            text = vocabulary.bytes_of([token]).decode()
        except UnicodeDecodeError:
            continue
        whole += len(text)
        assert codes(arena, token) == [f for char in text for f in fold_code_point(ord(char))]
    assert whole > 500


def test_parts_of_characters_are_kept_apart(pieces, guard):
    tokens = Arena.of([guard(pieces)]).tokens
    fields = [a.SIZE, a.BYTES, a.LEAD, a.PAYLOAD, a.DUE, a.POINT]
    assert tokens[5, fields].tolist() == [0, 2, 0, 0, 1, 0x2 << 6 | 0x04]
    # Alone each continuation is a broken character.
    assert tokens[6, fields].tolist() == [2, 2, 2, 0x04 << 6 | 0x2A, 0, 0]
    assert tokens[7, [a.BYTES, a.LEAD]].tolist() == [4, 1]
    assert tokens[8, [a.SIZE, a.LEAD]].tolist() == [4, 3]
    assert tokens[-1].tolist() == [len(Arena.of([guard(pieces)]).codes), 0, 0, 0, 0, 0, 0]


def test_phrases_that_are_refused_are_told_from_those_steered_around(pieces, guard):
    arena = Arena.of([guard(pieces)])
    at, levels, size = arena.policies[0, [a.AT_START, a.AT_START_LEVEL, a.AT_START_SIZE]]
    starting = dict(
        zip(arena.data[at : at + size], arena.data[levels : levels + size], strict=True)
    )
    assert starting == {1: a.REFUSE}  # "tern", where a word may begin
    at, levels, size = arena.policies[0, [a.ALWAYS, a.ALWAYS_LEVEL, a.ALWAYS_SIZE]]
    always = dict(zip(arena.data[at : at + size], arena.data[levels : levels + size], strict=True))
    # " lamp"; and characters behind a byte that goes on with none: a decoder may leave that out.
    assert always == {0: a.STEER, 7: a.STEER}


def test_a_state_is_laid_out_for_the_longest_ring(pieces, guard):
    long = guard(pieces, "a very long name of something that nobody has ever seen or heard of")
    short = guard(pieces)
    arena = Arena.of([short, long])
    assert arena.ring == long.output.ring_size > short.output.ring_size
    state = State(short.output)
    state.feed(pieces, np.array([3, 3, 4, 5], np.int64))
    numbers = arena.state(state)
    assert numbers.shape == (arena.width,)
    fields = numbers[: a.LANES * a.STATE_FIELDS].reshape(a.LANES, a.STATE_FIELDS)
    rings = numbers[a.LANES * a.STATE_FIELDS :].reshape(a.LANES, arena.ring)
    assert fields[GAPS, [a.COUNT, a.LAST, a.HALF_DUE]].tolist() == [4, ord("e"), 1]
    assert [chr(int(n) & 0xFFFFFF) for n in rings[GAPS, :4]] == ["z", "f", "i", "e"]
    assert rings[GAPS, 0] >> a.RUN_SHIFT == 2
    assert fields[PLAIN, a.COUNT] == 6  # begins with a separator; a letter said twice is two


def test_what_policies_share_is_laid_out_once(vocabulary, guard):
    one, other = guard(vocabulary), guard(vocabulary, "velvet")
    alone = len(Arena.of([one]).data)
    both = Arena.of([one, other])
    orders = sum(len(lookup.order) for lookup, _ in vocabulary.lookups)
    assert len(both.data) < 2 * alone - orders
    assert (both.views[0, :, a.RANGE_START] != both.views[1, :, a.RANGE_START])[:3].all()
