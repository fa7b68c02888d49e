from __future__ import annotations

import numpy as np
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


@given(WORDS, st.data())
def test_subtree_marks_are_those_of_the_trie(words, data):
    patterns = sorted(set(words))
    marked = np.array([data.draw(st.booleans()) for _ in patterns], np.bool_)
    block = ac.build(patterns)
    result = ac.subtree_any(block, marked)
    kept = [p for p, m in zip(patterns, marked, strict=True) if m]
    for pattern in patterns:
        node = np.int32(0)
        for i, char in enumerate(pattern):
            node = ac.advance(block, node, np.int32(ord(char)))
            prefix = pattern[: i + 1]
            expected = any(k.startswith(prefix) and k != prefix for k in kept)
            assert bool(result[node]) == expected


def test_packing_loses_nothing():
    block = ac.build(["he", "hers", "his", "she"])
    assert np.array_equal(ac.pack(ac.unpack(block)), block)
