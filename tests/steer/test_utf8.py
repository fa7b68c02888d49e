"""The automaton of UTF-8, held to Python's decoder; and which tokens it lets follow where."""

from __future__ import annotations

import itertools
import random
import sys

import numpy as np

from prism.steer.utf8 import BROKEN, STATES, STEP
from prism.steer.vocabulary import Vocabulary

EDGES = [0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1]
EDGES += [0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF]


def walk(data, state=0):
    for byte in data:
        state = int(STEP[state * 256 + byte])
    return state


def kind(data):
    """Return whether ``data`` is whole, ends "within" a character, or is "broken"."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return "within" if error.reason == "unexpected end of data" else "broken"
    return "whole"


def named(state):
    return {0: "whole", BROKEN: "broken"}.get(state, "within")


def test_it_is_pythons():
    for size in range(1, 5):
        for some in itertools.product(EDGES, repeat=size) if size < 4 else shuffled(20_000):
            data = bytes(some)
            assert named(walk(data)) == kind(data), data


def shuffled(count):
    rng = random.Random(1)
    return [rng.choices(EDGES, k=rng.randint(4, 6)) for _ in range(count)]


def test_every_character_is_one():
    for point in range(0, sys.maxunicode + 1, 7):
        if not 0xD800 <= point <= 0xDFFF:
            data = chr(point).encode()
            assert walk(data) == 0
            assert all(0 < walk(data[:size]) < BROKEN for size in range(1, len(data)))


def test_nothing_leads_out_of_what_is_broken():
    assert {walk(bytes([byte]), BROKEN) for byte in range(256)} == {BROKEN}


def test_tokens_by_what_they_follow(vocabulary):
    extra = [b"\x84\xaa", b"\xaa, b", b"\x80", b"a\xff", b"\xff", b"\xe2\x84", b"", "é".encode()]
    raw = [
        None if control else vocabulary.bytes_of([i])
        for i, control in enumerate(vocabulary.control)
    ]
    more = Vocabulary([*raw, *extra], vocabulary.eos_ids, vocabulary.encode)
    tokens = [*(data or b"" for data in raw), *extra]
    assert more.follows.shape == (STATES, more.size)
    for state in range(STATES):
        assert more.follows[state].tolist() == [walk(data, state) for data in tokens]
    within = [
        i for i, t in enumerate(tokens) if t and {walk(t, s) for s in range(1, 8)} != {BROKEN}
    ]
    assert more.continuing.tolist() == within
    mixed = [
        i for i, data in enumerate(tokens) if walk(data) == BROKEN and data.decode(errors="ignore")
    ]
    assert more.mixed.tolist() == mixed
    assert set(mixed) >= {len(raw) + 1, len(raw) + 3}
    assert np.isin(more.ends, list(vocabulary.eos_ids)).all()
    assert len(more.ends) == len(vocabulary.eos_ids)
