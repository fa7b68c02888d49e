from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prism.match import automaton as ac

WORDS = st.lists(st.text(alphabet="abcé", min_size=1, max_size=6), min_size=1, max_size=12)


@settings(deadline=None)
@given(WORDS, st.text(alphabet="abcé", max_size=40))
def test_every_occurrence_is_found_at_its_end(words, text):
    patterns = sorted(set(words))
    block = ac.build(patterns)
    views = ac.unpack(block)
    node, found = np.int32(0), set()
    for i, char in enumerate(text):
        node = ac.advance(block, node, np.int32(ord(char)))
        at = node if views.output[node] >= 0 else views.output_link[node]
        while at:
            pattern = patterns[views.output[at]]
            found.add((i + 1 - len(pattern), pattern))
            at = views.output_link[at]
        open_text = text[i + 1 - views.depth[node] : i + 1]
        assert not open_text or any(p.startswith(open_text) for p in patterns)
    assert found == {(i, p) for p in patterns for i in range(len(text)) if text.startswith(p, i)}


def node_of(block, prefix):
    node = np.int32(0)
    for char in prefix:
        node = ac.advance(block, node, np.int32(ord(char)))
    return node


@settings(deadline=None)
@given(WORDS, st.data())
def test_what_is_held_at_a_node_is_what_its_patterns_say(words, data):
    patterns = sorted(set(words))
    marks = [[data.draw(st.booleans()) for _ in patterns] for _ in range(3)]
    symbols = np.array([ord(char) for pattern in patterns for char in pattern], np.int32)
    bounds = np.cumsum([0, *map(len, patterns)], dtype=np.int64)
    block = ac.assemble(symbols, bounds, *(np.array(mark, np.bool_) for mark in marks))
    held, loose, free = (
        [p for p, marked in zip(patterns, mark, strict=True) if marked] for mark in marks
    )
    for prefix in {pattern[: i + 1] for pattern in patterns for i in range(len(pattern))}:
        bits = ac.held_at(block, node_of(block, prefix))
        assert bool(bits & ac.OPEN) == any(p.startswith(prefix) and p != prefix for p in held)
        assert bool(bits & ac.ENDS) == (prefix in held)
        assert bool(bits & ac.LOOSE) == any(p.startswith(prefix) for p in loose)
        assert bool(bits & ac.FREE) == any(p.startswith(prefix) for p in free)


@settings(deadline=None)
@given(st.lists(st.text(min_size=1, max_size=200), min_size=1, max_size=12, unique=True))
def test_nothing_of_the_patterns_is_lost(words):
    block = ac.build(words)
    symbols, bounds = ac.patterns_of(block)
    expected = [[ord(char) for char in word] for word in sorted(words)]
    assert [symbols[a:b].tolist() for a, b in itertools.pairwise(bounds)] == expected
    assert ac.longest(block) == max(map(len, words))
    for number, word in enumerate(sorted(words)):
        node = node_of(block, word)
        assert ac.depth_of(block, node) == len(word)
        assert ac.path_of(block, node) == number


def test_a_block_is_not_written_to():
    with pytest.raises(ValueError, match="read-only"):
        ac.build(["she", "he"])[0] = 7
