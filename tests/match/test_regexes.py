from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prism.match import onepass
from prism.match.layers import Patterns
from prism.match.phrases import PhraseSet
from prism.match.regexes import Regex, RegexError, RegexSet, check_regex
from prism.text.normalise import code_points

PATTERNS = [
    "a{1,5}", "ab{0,5}c", "(?:ab|a|abcd){1,3}", r"\bab\b", "a[bc]{1,4}?d", r"\ba(?:b{5}c)?",
    "(?:foo|foobar|barfo)", "[0-9]{3}[- ]?[0-9]{4}", "a.{0,4}b",
]  # fmt: skip
COMPILED = tuple(Regex.compile(p, p, ignore_case=True, held=True) for p in PATTERNS)


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet="abcd foobr0123- AB", max_size=16), st.data())
def test_streamed_matches_are_those_of_finditer(text, data):
    scanner = RegexSet.compile(COMPILED).scanner()
    found, at = [], 0
    for cut in [*sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5))), len(text)]:
        found += scanner.feed(text[at:cut])
        at = cut
    found += scanner.finish()
    expected = {(p.rule, m.start(), m.end()) for p in COMPILED for m in p.full.finditer(text)}
    assert {(m.rule, m.start, m.end) for m in found} == expected


@pytest.mark.parametrize(
    ("pattern", "says", "fix"),
    [
        ("a*", "empty text", "at least one"),
        ("a+", "no bound", "{0,80}"),
        ("a{1,2000}", "2000 characters", "bound"),
        (r"(a)\1", "back-references", "alternatives"),
        ("^a", "anchors", r"\b"),
        ("a$", "anchors", r"\b"),
        (r"a\bb", "inner word boundaries", r"\b"),
        ("(?=a)b", "look-around", "itself"),
        ("(?i)a", "inline flags", "ignore_case"),
        ("(?i:a)b", "inline flags", "ignore_case"),
        ("a++b", "possessive", "plain"),
        ("[", "not a regular expression", "correct"),
    ],
)
def test_what_a_stream_cannot_hold_is_refused_with_a_fix(pattern, says, fix):
    with pytest.raises(RegexError) as caught:
        check_regex(pattern)
    assert says in str(caught.value)
    assert fix in caught.value.fix


def test_the_width_is_the_most_that_can_match():
    assert check_regex(r"\bcode[- ]?[0-9]{4}\b") == 9


def test_a_pattern_that_backtracks_for_ever_raises_instead_of_stalling():
    pattern = "(?:a{1,20}){1,20}c"
    check_regex(pattern)
    evil = RegexSet.compile((Regex.compile("evil", pattern, ignore_case=False, held=True),))
    with pytest.raises(TimeoutError):
        evil.scanner().feed("a" * 40 + "b c")


def test_without_patterns_nothing_is_held():
    scanner = RegexSet.compile(()).scanner()
    assert scanner.feed("some text") == []
    assert scanner.open_from() == len("some text")


@pytest.mark.parametrize(
    ("pattern", "begins"),
    [
        (r"\bAKIA[0-9]{4}\b", "A"),
        (r"(?:foo|bar)x", "fb"),
        (r"a?bc", "ab"),
        (r"[0-9]{3}x", "0123456789"),
        (r".abc", None),
        (r"\w{1,3}x", None),
        (r"[^a]b", None),
    ],
)
def test_where_a_pattern_may_begin_is_read_off_it(pattern, begins):
    rules = RegexSet.compile((Regex.compile("r", pattern, ignore_case=False, held=True),))
    firsts = rules.begins[onepass.FIRSTS :]
    if begins is None:
        assert firsts.all()
    else:
        assert {chr(c) for c in range(128) if firsts[c]} == set(begins)
        assert not firsts[128]


@pytest.mark.parametrize(
    ("pattern", "text", "begins"),
    [
        (r"\bsk-[0-9]{4}", " some", False),
        (r"\bsk-[0-9]{4}", " sk", True),
        (r"\bsk-[0-9]{4}", "s", True),  # what comes next isn't known yet
        (r"\bsk-[0-9]{4}", "task-", False),
        (r"sk-[0-9]{4}", "task-", True),
        (r"\bsk-[0-9]{4}", "é" + "sk", True),  # whether é is a letter is left to the regex
        (r"-{2}BEGIN", "a-b", False),
        (r"-{2}BEGIN", "--", True),
        (r"a?bc", "ax", False),
        (r"a?bc", "ab", True),
        (r"(?:foo|b)x", "for", True),
        (r"(?:foo|b)x", "fx", False),
        (r"x", "axb", True),
        (r"sk-", "ｓ", True),  # full width: an s to the regex
        (r"sk-", "日本語", False),
        (r"語x", "日本", True),
    ],
)
def test_two_characters_tell_most_texts_apart_from_a_beginning(pattern, text, begins):
    rules = RegexSet.compile((Regex.compile("r", pattern, ignore_case=False, held=True),))
    p = Patterns(PhraseSet([]), rules, {"r": frozenset()}, frozenset())
    cps, out = code_points(text), np.empty((8, 5), np.int64)
    args = (p.shared, p.const, p.begins, p.start.copy(), cps, out)
    said = onepass.look(*args, False, True, True)[0]
    assert bool(said & onepass.BEGINS) == begins


def test_a_long_text_is_not_a_slow_pattern():
    keys = Regex.compile("keys", r"\bsk-[0-9A-Za-z_-]{20,160}\b", ignore_case=False, held=True)
    scanner = RegexSet.compile((keys,)).scanner()
    text = "sk-" * 100_000
    found = scanner.feed(text) + scanner.finish()
    assert [(m.start, m.end) for m in found] == [m.span() for m in keys.full.finditer(text)]
