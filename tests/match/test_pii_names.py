"""Names: found by the real model, sentence by sentence, the same for every chunking."""

from __future__ import annotations

import functools
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policies import policy, rule

from prism.match.pii import NamesUnavailableError, PiiSet, Wanted
from prism.match.pii.names import LONGEST, Names
from prism.moderator import Moderator
from prism.policy import PolicyError
from prism.types import Action, Stage

KINDS = ("organisation", "person", "place")
# Persons of history, so that nobody's data is here.
TEXT = (
    "Ada Lovelace wrote to Charles Babbage from London. The zephyr lantern was on the table! "
    "Then Johann Sebastian Bach moved to Leipzig.\nNobody else did"
)


@functools.cache
def names():
    """The three kinds. Not at import: a run that leaves this file out need not load the model."""
    return PiiSet([Wanted(kind, (kind,), True) for kind in KINDS])


def found(text, cuts=()):
    scanner, matches, at = names().scanner(), [], 0
    for cut in [*sorted(cuts), len(text)]:
        matches += scanner.feed(text[at:cut])
        at = cut
    matches += scanner.finish()
    return {(m.rule, text[m.start : m.end]) for m in matches}


def test_names_are_found():
    assert found(TEXT) == {
        ("person", "Ada Lovelace"),
        ("person", "Charles Babbage"),
        ("place", "London"),
        ("person", "Johann Sebastian Bach"),
        ("place", "Leipzig"),
    }


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, len(TEXT)), max_size=8))
def test_any_split_finds_the_same(cuts):
    assert found(TEXT, cuts) == found(TEXT)


def test_a_sentence_that_never_ends_is_judged_in_parts():
    text = "and then " * 100 + "Ada Lovelace came"
    scanner, longest = names().scanner(), 0
    for at, char in enumerate(text, 1):
        scanner.feed(char)
        longest = max(longest, at - scanner.open_from())
    assert longest <= LONGEST
    assert found(text, range(len(text))) == found(text) == {("person", "Ada Lovelace")}


def test_a_stream_is_redacted_sentence_by_sentence():
    names = policy(
        rule("data", pii=("person", "email"), action=Action.REDACT, stages=frozenset(Stage))
    )
    session = Moderator(names).session()
    out = [session.feed(word + " ").text for word in TEXT.split(" ")] + [session.finish().text]
    assert "".join(out).startswith(
        "[redacted] wrote to [redacted] from London. The zephyr lantern was on the table! Then "
    )
    assert "Bach" not in "".join(out)
    assert next(text for text in out if text).endswith("London. ")


def test_the_event_loop_does_not_wait_for_the_model():
    for kinds, waits in ((("person",), True), (("email",), False)):
        looked_for = policy(rule("data", pii=kinds, action=Action.REDACT))
        assert Moderator(looked_for).session().waits(10) == waits


def test_without_the_extra_a_policy_that_needs_it_does_not_start(monkeypatch):
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(NamesUnavailableError, match=r"pip install '\.\[pii\]'") as caught:
        Names()
    assert isinstance(caught.value, PolicyError)
