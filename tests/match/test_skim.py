"""Text read without a record of it leaves the kernel as if every character had been recorded."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policies import policy, rule

from prism.match import Matcher, kernel, onepass, skim
from prism.match.encoded import Base64Finder, HexFinder
from prism.match.layers import Budget, Layer
from prism.match.phrases import Phrase, PhraseSet
from prism.text.normalise import code_points
from prism.types import Boundary, Disguise, Stage

PHRASES = ("zephyr lantern", "book", "aa bb", "to be", "ottoman", "go on to", "level")
ALL = frozenset(Disguise)
SETS = [
    PhraseSet([Phrase("r", text, Boundary.WORD, disguises, True) for text in PHRASES])
    for disguises in (ALL, ALL - {Disguise.REVERSED, Disguise.ROT13}, frozenset())
]
SETS.append(PhraseSet([Phrase("r", "quxor", Boundary.NONE, ALL, True)]))
SHORT = ("of list", "a bb", "be a", "ab", "a b c", "off", "lo of a", "oo l")
SETS += [
    PhraseSet([Phrase("r", text, Boundary.WORD, disguises, True) for text in SHORT[:count]])
    for disguises in (ALL, frozenset())
    for count in (1, 2, 8)
]
OPENS = {each: skim.openings(each.table, each.plain, each.squeezed) for each in SETS}
PROSE = (
    "The market opened early, and people sang (quietly); there was nothing new in it.",
    "Remove the environment's builds -- or a KeyError, $HOME, #1!", "It's 45,000 at 10:30.",
)  # fmt: skip
NEAR = (
    "zephyr", "lantern", "to", "be", "t o", "o", "a", "aa", "bb", "b o o k", "b00k!", "(oo", "oo k",
    "boo", "go", "on", "l@ntern", "z.e.p", "h y r", "leve", "l", "quxo", "rquxor", "ﬁnd", "naïve",
    "\u200bto\u200b", "日本", "!", "!!", "(", "#", "+", "\n", "koob", "obbx",
)  # fmt: skip
PIECES = st.one_of(st.sampled_from(PROSE), st.sampled_from(NEAR), st.sampled_from(PHRASES))
TEXTS = st.lists(st.tuples(PIECES, st.sampled_from([" ", " ", " ", "", ", ", "!"])), max_size=14)
CUTS = st.lists(st.integers(0, 300), max_size=3).map(sorted)


FEW = st.text("abcflo ", min_size=16, max_size=40)  # mostly words of one to three letters


def read(feed, phrases, text, cuts):
    head, ring = phrases.state()
    out = np.empty((1024, 5), np.int64)
    at, said = 0, []
    for cut in [*cuts, len(text)]:
        cps = code_points(text[at:cut])
        at = max(at, cut)
        read, found = feed(phrases, head, ring, cps, out)
        assert read == len(cps)
        held = kernel.open_from(phrases.plain, phrases.squeezed, head, ring)
        said.append((out[:found].tolist(), held, head[kernel.READ]))
    found = kernel.finish(phrases.plain, phrases.squeezed, phrases.entries, head, ring, out)
    return said, out[:found].tolist()


def recorded(p, head, ring, cps, out):
    return kernel.feed(p.table, p.plain, p.squeezed, p.entries, head, ring, cps, 0, out)


def skimmed(p, head, ring, cps, out):
    return skim.feed(p.table, OPENS[p], p.plain, p.squeezed, p.entries, head, ring, cps, out)


def empty(p, text):
    return skim.empty(p.table, OPENS[p], p.plain, p.squeezed, code_points(text))


@settings(max_examples=300, deadline=None)
@given(TEXTS, CUTS)
def test_hits_and_holds_are_those_of_the_kernel(pieces, cuts):
    text = "".join(piece + glue for piece, glue in pieces)
    for phrases in SETS:
        assert read(skimmed, phrases, text, cuts) == read(recorded, phrases, text, cuts)


@settings(max_examples=300, deadline=None)
@given(FEW, st.sampled_from(["", ", ", " (", "'", "1", "!", "\u200b", "é"]), CUTS)
def test_short_words_go_on_over_the_gaps_between_them(text, odd, cuts):
    text = text.replace("c", odd) if odd else text
    for phrases in SETS:
        said = read(recorded, phrases, text, [])
        assert read(skimmed, phrases, text, []) == said
        assert read(skimmed, phrases, text, cuts) == read(recorded, phrases, text, cuts)
        if empty(phrases, text + " "):
            assert not said[0][0][0]
            assert not said[1]


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_a_text_called_empty_has_no_hit(pieces):
    text = "".join(piece + glue for piece, glue in pieces) + " "
    for phrases in SETS:
        if empty(phrases, text):
            said, last = read(recorded, phrases, text, [])
            assert not said[0][0]
            assert not last


def test_ordinary_text_is_empty():
    plain = SETS[1]
    for text in PROSE:
        assert empty(plain, text + " ")
    far = SETS[3]  # such a pattern may begin anywhere: the kernel reads all
    assert not skim.possible(far.plain, far.squeezed)


PATTERNS = Matcher.compile(
    policy(rule("a", PHRASES), rule("code", regexes=[r"\bcode[- ]?[0-9]{4}\b"])), Stage.OUTPUT
).patterns


def test_a_whole_text_needs_no_other_reader(monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("a reader was called")

    monkeypatch.setattr(Base64Finder, "feed", fail)
    monkeypatch.setattr(HexFinder, "feed", fail)
    layer = Layer(PATTERNS, Budget())
    text = " ".join(PROSE) + " well-known and/or environment. "
    assert layer.feed(text) == []
    assert layer.finish() == []
    assert layer.open_from() is None


@pytest.mark.parametrize("hidden", ["book", "to be", "code 1234", "b o o k", "b%6f%6f%6b"])
@pytest.mark.parametrize("shape", ["{}", "path/{}", "-{}", "{}-{}", "({})"])
def test_a_short_word_that_hides_something_is_read(hidden, shape):
    for filler in range(4):
        word = base64.b64encode(f"{'.' * filler}{hidden}".encode()).decode().rstrip("=")
        text = f"{PROSE[0]} {shape.replace('{}', word)} {PROSE[1]}"
        layer = Layer(PATTERNS, Budget())
        found = layer.feed(text) + layer.finish()
        assert any(match.via[:1] == ("base64",) for match in found), text


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(PIECES, st.text("aBcdZz019+/-_ ", max_size=30)), max_size=8), st.data())
def test_one_piece_says_what_many_do(pieces, data):
    hidden = data.draw(st.sampled_from(["book", "go on to", "x level y", "a code 1234 b", "books"]))
    coded = data.draw(
        st.sampled_from([base64.b64encode(hidden.encode()).decode(), hidden.encode().hex()])
    )
    text = " ".join([*pieces[:4], coded, *pieces[4:]])
    whole, single = Layer(PATTERNS, Budget()), Layer(PATTERNS, Budget())
    found = whole.feed(text)
    singly = [match for char in text for match in single.feed(char)]
    assert whole.open_from() == single.open_from()
    assert set(found + whole.finish()) == set(singly + single.finish())
    assert int(whole._state[onepass.HEAD + kernel.READ]) == len(text)
