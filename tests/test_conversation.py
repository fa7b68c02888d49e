from __future__ import annotations

import pytest

from prism.conversation import last_turn, prompt_text, readings, turns, views


def chat(*said):
    return [{"role": role, "content": text} for role, text in said]


LAMP = chat(("system", "s"), ("user", "zephyr"), ("assistant", "go on"), ("user", "lantern"))


@pytest.mark.parametrize(
    ("prompt", "seen", "read"),
    [
        ("a lamp", ("a lamp",), ("a lamp",)),
        ("", ("",), ()),
        ([], ("",), ()),
        (chat(("user", "a lamp")), ("a lamp",), ("a lamp",)),
        (chat(("system", "s"), ("user", "u")), ("s\nu",), ("u", "s\nu")),
        (chat(("user", "one"), ("user", "two")), ("one\ntwo",), ("two", "one\ntwo")),
        (
            LAMP,
            ("s\nzephyr\ngo on\nlantern", "zephyr\nlantern", "s\ngo on"),
            ("lantern", "zephyr\nlantern", "s\nzephyr\ngo on\nlantern"),
        ),
        (
            chat(("user", "zephyr"), ("assistant", "go on"), ("tool", "lantern")),
            ("zephyr\ngo on\nlantern", "zephyr\nlantern"),
            ("zephyr", "zephyr\ngo on\nlantern"),
        ),
        (
            chat(("system", "zephyr"), ("model", "go on"), ("user", "lantern"), ("user", "u")),
            ("zephyr\ngo on\nlantern\nu", "zephyr\nlantern\nu"),
            ("u", "lantern\nu", "zephyr\ngo on\nlantern\nu"),
        ),
        (
            chat(("user", "a"), ("tool", "t"), ("assistant", "go on"), ("user", "b")),
            ("a\nt\ngo on\nb", "a\nb", "a\ngo on\nb", "a\nt\nb"),
            ("b", "a\nb", "a\nt\ngo on\nb"),
        ),
        (chat(("tool", "t")), ("t",), ("t",)),
        ([{"role": "user", "content": None}, {"content": "no role"}], ("no role",), ("no role",)),
        (
            [{"role": "user", "content": ["a", {"type": "text", "text": "b"}, {"type": "image"}]}],
            ("a\nb",),
            ("a\nb",),
        ),
    ],
)
def test_views_and_readings(prompt, seen, read):
    assert views(prompt) == seen
    assert readings(prompt) == read
    assert prompt_text(prompt) == seen[0]


def test_every_speakers_turns_are_read_whole_and_mixtures_within_a_window():
    long = chat(("user", "early words " * 10), ("assistant", "yes"), ("user", "late words"))
    whole, mine = views(long, window=30)
    assert whole.startswith("early words")
    assert mine == "early words " * 10 + "\nlate words"
    assert readings(long, window=30)[1] == " words early words \nlate words"
    said = [("system", "s"), ("user", "x" * 50), ("tool", "t"), ("assistant", "y"), ("user", "z")]
    found = views(chat(*said), window=10)
    assert "x" * 50 + "\nz" in found  # the user's
    assert "x" * 50 + "\nt\nz" in found  # all but the model's
    assert "\ny\nz" in found  # the latest of the user's and the model's
    assert sum("x" in text for text in found) == 3  # the whole too


@pytest.mark.parametrize(
    "others",
    [
        [("user", "go on")],
        [("user", "go on"), ("tool", "found")],
        [("system", "s"), ("user", "go on"), ("tool", "found")],
    ],
)
@pytest.mark.parametrize("speaker", ["assistant", "system", "tool", "user"])
def test_what_one_speaker_says_over_several_turns_is_one_text(speaker, others):
    between = [turn for turn in others if turn[0] != speaker]
    said = chat((speaker, "zephyr"), *between, (speaker, "lantern"), ("user", "now say it"))
    texts = views(said)
    assert any("zephyr\nlantern" in text for text in texts) or not between


@pytest.mark.parametrize("pair", [("assistant", "tool"), ("user", "assistant"), ("system", "tool")])
def test_what_two_speakers_say_is_one_text_whoever_speaks_between(pair):
    first, second = pair
    others = [role for role in ("system", "user", "assistant", "tool") if role not in pair]
    said = chat((first, "zephyr"), *((role, "hm") for role in others), (second, "lantern"))
    assert "zephyr\nlantern" in views(said)


def test_a_text_that_stands_apart_is_read_by_itself():
    prompt = [*chat(("user", "u")), {"role": "aside", "content": "", "apart": "zephyr lantern"}]
    assert views(prompt) == ("u", "zephyr lantern")
    assert prompt_text(prompt) == "u"


def test_what_an_answer_answers():
    assert last_turn(LAMP) == "lantern"
    assert last_turn("a lamp") == "a lamp"
    assert last_turn(chat(("tool", "t"), ("system", "s"))) == "t\ns"
    assert last_turn([]) == ""
    assert turns(LAMP)[0] == ("system", "s")


def test_a_message_may_say_its_content_in_other_ways():
    """Each way is read with what is around it, in a view of its own."""
    prompt = [
        {"role": "user", "content": "x\nzep\nhyr", "joined": "xzephyr"},
        {"role": "assistant", "content": "go on"},
        {"role": "user", "content": "lantern", "alike": "lan tern"},
    ]
    assert views(prompt) == (
        "x\nzep\nhyr\ngo on\nlantern",
        "x\nzep\nhyr\nlantern",
        "xzephyr\ngo on\nlantern",
        "xzephyr\nlantern",
        "x\nzep\nhyr\ngo on\nlan tern",
        "x\nzep\nhyr\nlan tern",
    )
    assert prompt_text(prompt) == views(prompt)[0]
    assert turns(prompt, "joined")[0] == ("user", "xzephyr")


def test_what_is_beside_a_conversation_is_in_the_whole_of_it_alone():
    prompt = chat(("tool", "t"), ("assistant", "yes"), ("user", "u"), ("aside", "bob"))
    assert views(prompt) == ("t\nyes\nu\nbob", "t\nu")
    assert readings(prompt) == ("u", "t\nyes\nu\nbob")
