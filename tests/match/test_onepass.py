"""The compiled pass leaves out nothing: with and without it every reader says the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.match.test_incremental import GLUE, PIECES, POLICY, TEXTS

from prism.match import Matcher, runs
from prism.match.encoded import Base64Finder, Finder, HexFinder
from prism.match.layers import Budget, Layer
from prism.match.regexes import RegexScanner
from prism.types import Stage

PATTERNS = Matcher.compile(POLICY, Stage.OUTPUT).patterns
WORDS = (
    "would", "woman", "work", "yes", "zone", "1972", "45,000", "well-known", "and/or", "face",
    "bad", "dead", "beef", "added", "feed", "ad", "of", "0xdead", "0x41", "0X41", "41", "42",
    "4a:4b", "4é41", "é41x42", "日本語", "\u2028", "\x85", "\xa0", "ＡＢ", "w-", "a_b", "fo", "co",
)  # fmt: skip
ORDINARY = st.lists(st.sampled_from([*WORDS, *GLUE, *PIECES[:4]]), max_size=12).map(" ".join)
CUTS = st.lists(st.integers(0, 60), max_size=8).map(sorted)


class Layered(Layer):
    """A layer whose every reader is at work from the first character on, in Python."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self._finders = {0: Base64Finder(self), 1: HexFinder(self)}
        for kind in (runs.BASE64, runs.HEX):
            self._state[runs.SHARED + kind * runs.RUN] = runs.ELSEWHERE
        self._regexes = self._patterns.regexes.scanner()


def trace(layer, text, cuts):
    rows, at = [], 0
    for cut in [*cuts, len(text)]:
        matches = layer.feed(text[at:cut])
        at = max(at, cut)
        rows.append((layer.open_from(), {(m.rule, m.start, m.end, m.via) for m in matches}))
    return rows, {(m.rule, m.start, m.end, m.via) for m in layer.finish()}


@pytest.fixture(scope="module", autouse=True)
def _never_idle():
    patch = pytest.MonkeyPatch()
    busy = {}

    def watched(kind, idle):
        return property(lambda self: id(self) not in busy and idle.fget(self))

    for kind in (Finder, RegexScanner):
        patch.setattr(kind, "idle", watched(kind, kind.idle))
    Layered.busy = busy
    yield
    patch.undo()


@settings(max_examples=200, deadline=None)
@given(st.one_of(ORDINARY, TEXTS), CUTS)
def test_it_says_what_the_readers_say(text, cuts):
    slow = Layered(PATTERNS, Budget())
    kept = [*slow._finders.values(), slow._regexes]
    Layered.busy.clear()
    Layered.busy.update({id(reader): True for reader in kept})
    expected = trace(slow, text, cuts)
    assert trace(Layer(PATTERNS, Budget()), text, cuts) == expected


def test_ordinary_text_needs_no_other_reader(monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("a reader was called")

    for kind in (Base64Finder, HexFinder):
        monkeypatch.setattr(kind, "feed", fail)
    monkeypatch.setattr(RegexScanner, "feed", fail)
    layer = Layer(PATTERNS, Budget())
    words = "The", "market", "opened", "early,", "and", "people", "sang", "(quietly);", "45,000."
    for word in words:
        assert layer.feed(f" {word}") == []
    assert layer.finish() == []


def test_a_run_that_pauses_for_long_is_read_on():
    text = "7a 65 70 68" + " " * 1000 + "79 72 20 6c 61 6e 74 65 72 6e"
    layer = Layer(PATTERNS, Budget())
    found = [m for at in range(len(text)) for m in layer.feed(text[at])] + layer.finish()
    assert {(m.start, m.end) for m in found if m.rule == "lantern"} == {(0, len(text))}
    text = "41 " + " " * 1000 + ". then sky"
    layer = Layer(PATTERNS, Budget())
    for char in text:
        layer.feed(char)
        assert len(layer._tail) <= 256
    assert layer.open_from() is None
