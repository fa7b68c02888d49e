"""A token read the short way leaves a scanner as reading it the long way would have."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policies import policy, rule

from prism.match import Matcher
from prism.match.token import LONGEST
from prism.types import Action, Stage

HIDDEN = base64.b64encode(b"the zephyr lantern burns").decode()
PLAIN = policy(
    rule("lantern", ["zephyr lantern"]),
    rule("flag", ["velvet cartographer"], action=Action.FLAG),
)
REGEXED = policy(
    rule("lantern", ["zephyr lantern"]),
    rule("number", regexes=[r"\border \d{4}\b"]),
)
PRIVATE = policy(rule("mail", pii=["email"]), rule("lantern", ["zephyr lantern"]))
MATCHERS = [Matcher(made, Stage.OUTPUT) for made in (PLAIN, REGEXED, PRIVATE)]
PIECES = st.lists(
    st.one_of(
        st.sampled_from([
            " zephyr", " lan", "tern", "z3phyr", " l a n", " velvet", " cartographer", " the",
            " river", " closed", " order", " 12", "34", ".", "\n", " &", "amp;", "%7A", "ephyr",
            "a@b.example", HIDDEN[:9], HIDDEN[9:20], HIDDEN[20:], "7a6570687972", " ", "\x7f", "\0",
        ]),
        st.text(st.characters(max_codepoint=127), max_size=8),
        st.text(max_size=3),
        st.just("word " * LONGEST),
    ),
    max_size=24,
)  # fmt: skip


def read_on(scanner, piece):
    """Read a piece the short way where it goes; return its matches, and whether it went."""
    found = scanner.token(piece.encode()) if piece.isascii() else None
    if found is None:
        return scanner.feed(piece), False
    if found is True:
        assert scanner.hold_from == scanner.read
        return [], True
    return found, True


@pytest.mark.parametrize("matcher", MATCHERS, ids=["phrases", "regexes", "pii"])
@settings(max_examples=150)
@given(pieces=PIECES)
def test_matches_and_holds_are_those_of_the_long_way(matcher, pieces):
    long, short = matcher.scanner(), matcher.scanner()
    for piece in pieces:
        found, _ = read_on(short, piece)
        assert found == long.feed(piece)
        assert (short.read, short.hold_from) == (long.read, long.hold_from)
    assert short.finish() == long.finish()


@given(pieces=PIECES, data=st.data())
def test_one_text_has_one_result_however_its_tokens_are_cut(pieces, data):
    text = "".join(piece for piece in pieces if piece.isascii())
    matcher = MATCHERS[1]
    scanner, found, at = matcher.scanner(), [], 0
    while at < len(text):
        size = data.draw(st.integers(1, LONGEST))
        found += read_on(scanner, text[at : at + size])[0]
        at += size
    found += scanner.finish()
    assert sorted(found, key=lambda m: (m.start, m.end, m.rule)) == matcher.scan(text)


def test_ordinary_words_go_the_short_way():
    scanner = MATCHERS[0].scanner()
    words = ["people", "walked", "along", "it", "by", "the", "river"]
    assert all(read_on(scanner, f" {word}")[1] for word in words)


def test_a_phrase_is_found_and_held_on_the_short_way():
    scanner, found, held = MATCHERS[0].scanner(), [], []
    for piece in ("a", " zephyr", " lan", "tern", "."):
        matches, short = read_on(scanner, piece)
        assert short
        found += matches
        held.append(scanner.hold_from)
    assert held[1:3] == [2, 2]
    assert [(match.rule, match.start, match.end) for match in found] == [("lantern", 2, 16)]


@pytest.mark.parametrize("data", [b"", b"a" * (LONGEST + 1), b" %7A", b" &#122;", b"\\x7a"])
def test_what_is_empty_long_or_escaped_is_left_unread(data):
    scanner = MATCHERS[0].scanner()
    assert scanner.token(data) is None
    assert scanner.read == 0


def test_where_mail_addresses_are_looked_for_tokens_are_left_unread():
    assert MATCHERS[2].scanner().token(b" river") is None


def test_two_streams_of_one_policy_keep_apart():
    one, other = MATCHERS[0].scanner(), MATCHERS[0].scanner()
    found = []
    for piece in (" zephyr", " lan", "tern", "."):
        found += read_on(one, piece)[0]
        assert read_on(other, " river")[0] == []
    assert [match.rule for match in found + one.finish()] == ["lantern"]
    assert other.finish() == []
