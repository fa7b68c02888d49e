"""Long texts are judged in windows, and none of them goes unseen."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.classify.guard.types import NOT_SHOWN, GuardInput
from prism.classify.guard.windows import split, talks


def test_a_short_text_is_one_window():
    assert split("zephyr lantern", 14) == ["zephyr lantern"]
    (talk,) = talks(GuardInput((("user", "zephyr"),)), 200)
    assert (talk.judged, talk.text) == ("user", "zephyr")


@given(st.text(min_size=1, max_size=400), st.integers(10, 60))
def test_windows_cover_the_text_and_overlap(text, size):
    parts = split(text, size)
    assert all(len(part) <= size for part in parts)
    whole = parts[0]
    for before, part in pairwise(parts):
        assert len(before) == size
        whole += part[int(size * 0.1) :]
    assert whole == text


def test_a_word_on_a_boundary_is_whole_in_one_window():
    text = "x" * 95 + "lantern" + "x" * 300
    assert any("lantern" in part for part in split(text, 100))


def test_every_window_shows_what_came_before():
    item = GuardInput((("user", "Tell me of the zephyr."),), "wind " * 100)
    found = talks(item, 200)
    assert len(found) > 2
    assert {talk.turns[0] for talk in found} == {("user", "Tell me of the zephyr.")}
    assert {talk.judged for talk in found} == {"agent"}


def test_of_a_long_conversation_the_end_is_shown():
    item = GuardInput((("user", "first"), ("assistant", "a" * 90 + "tail"), ("user", "last")), None)
    (talk,) = talks(item, 240)
    assert talk.turns == (("agent", ("a" * 90 + "tail")[-80:]), ("user", "last"))


def test_what_is_not_the_assistants_is_the_users():
    (talk,) = talks(GuardInput((("system", "s"), ("tool", "t"), ("user", "u"))), 200)
    assert talk.turns == (("user", "s"), ("user", "t"), ("user", "u"))


def test_an_answer_alone_gets_a_turn_before_it():
    (talk,) = talks(GuardInput((), "wind"), 200)
    assert talk.turns == (("user", NOT_SHOWN), ("agent", "wind"))
    assert talk.before == NOT_SHOWN


def test_nothing_to_judge():
    with pytest.raises(ValueError, match="has a message or a response"):
        talks(GuardInput(()), 200)
