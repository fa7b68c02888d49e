"""The tables name exactly the tokens that would complete a phrase, whatever came before."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prism.match.phrases import Phrase, PhraseSet
from prism.steer.ranges import Pattern, TokenTexts, compile_tables
from prism.types import Boundary

ALPHABET = "ab \u00e4B,"
texts = st.text(alphabet=ALPHABET, min_size=1, max_size=4)
vocabularies = st.lists(texts, min_size=3, max_size=12, unique=True)
words = st.text(alphabet="ab", min_size=1, max_size=3)
phrases = st.lists(
    st.tuples(st.lists(words, min_size=1, max_size=3).map(" ".join), st.booleans(), st.booleans()),
    min_size=1,
    max_size=5,
)
walks = st.lists(st.integers(0, 11), max_size=8)


def holds(found: PhraseSet, text: str) -> bool:
    scanner = found.scanner()
    return bool(scanner.feed(text)) or bool(scanner.finish())


def mask(tables, tokens: TokenTexts, state: int) -> np.ndarray:
    banned = tables.whole[int(tables.after_space[state])].copy()
    for low, high, _ in tables.ranges[tables.range_start[state] : tables.range_start[state + 1]]:
        banned[low:high] = True
    return banned[tokens.kind]


@settings(max_examples=300, deadline=None)
@given(vocabularies, phrases, walks)
@example(["a", "b", " "], [("a b", True, True)], [0, 2, 2])
@example(["ab", " ab", "a", "b "], [("ab", True, True), ("b a", False, True)], [1, 3])
def test_a_token_is_masked_exactly_when_it_completes_a_phrase(vocabulary, listed, walk):
    texts = [t.encode() for t in vocabulary]
    tokens = TokenTexts.of([*texts, None])
    tables = compile_tables([Pattern(*p) for p in listed], tokens)
    plain = PhraseSet(
        [
            Phrase("r", text, Boundary.WORD if bounded else Boundary.NONE, frozenset(), True)
            for text, bounded, _ in listed
        ]
    )
    text, state = "", tables.start
    for step in [None, *walk]:
        if step is not None:
            token = step % (len(vocabulary) + 1)
            if mask(tables, tokens, state)[token]:
                continue  # the sampler can't take it
            text += vocabulary[token] if token < len(vocabulary) else ""
            state = tables.next(state, int(tokens.kind[token]))
        expected = [holds(plain, text + t) for t in vocabulary]
        assert mask(tables, tokens, state).tolist() == [*expected, False], (text, vocabulary)


def test_blocking_is_told_from_steering():
    tokens = TokenTexts.of([b"zephyr", b" lantern", b" lamp", b" lanterns"])
    tables = compile_tables(
        [Pattern("zephyr lantern", True, True), Pattern("zephyr lamp", True, False)], tokens
    )
    state = tables.next(tables.start, int(tokens.kind[0]))
    assert mask(tables, tokens, state).tolist() == [False, True, True, False]
    kinds = {
        (i, bool(blocking))
        for low, high, blocking in tables.ranges[
            tables.range_start[state] : tables.range_start[state + 1]
        ]
        for i in range(4)
        if low <= tokens.kind[i] < high
    }
    assert kinds == {(1, True), (2, False)}


def test_many_phrases_build_soon_and_small():
    names = [f"w{i:03d} x{i % 7} y{i % 11}" for i in range(1000)]
    tokens = TokenTexts.of([f" w{i:03d}".encode() for i in range(1000)] + [b" x1", b" y1"])
    tables = compile_tables([Pattern(n, True, True) for n in names], tokens)
    assert len(tables.pair_key) < 10_000
    assert len(tables.ranges) < 10_000
