from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.text.decode import BytesReader, Decoded, Unescaper, base64_value


def undo(text: str, cuts: list[int]) -> Decoded:
    unescaper, out, at = Unescaper(0), Decoded(), 0
    for cut in [*sorted(cuts), len(text)]:
        piece = unescaper.feed(text[at:cut])
        out.text += piece.text
        out.starts.extend(piece.starts)
        out.ends.extend(piece.ends)
        at = cut
    rest = unescaper.finish()
    out.text += rest.text
    out.starts.extend(rest.starts)
    out.ends.extend(rest.ends)
    return out


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("%7aephyr", "zephyr"),
        ("%D0%B6x", "жx"),
        ("&#122;ephyr", "zephyr"),
        ("&#122ephyr", "zephyr"),
        ("&#x7A;ephyr", "zephyr"),
        ("a&nbsp;b &amp; c &bogus; d", "a\xa0b & c &bogus; d"),
        ("\\u007aephyr \\x7a \\U0000007a \\u{7a}", "zephyr z z z"),
        ("100% & \\q", "100% & \\q"),
        ("one\\ntwo\\tthree", "one two three"),
        ("%e2%28", "\ufffd("),
        ("&#9999999;", "\ufffd"),
        ("&#00000000122;e &#x000000007a;e", "ze ze"),
        ("zeph&ZeroWidthSpace;yr", "zeph\u200byr"),
        ("a\U000e0062\U000e0020c", "ab c"),
    ],
)
def test_escapes_are_undone_and_the_rest_passes(text, plain):
    assert "".join(undo(text, []).text) == plain


@given(st.text(alphabet="%&\\#xun7a;{}D0B6 zé\U000e0061", max_size=40), st.data())
def test_escapes_do_not_depend_on_the_cuts(text, data):
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    whole, cut = undo(text, []), undo(text, cuts)
    assert (whole.text, whole.starts, whole.ends) == (cut.text, cut.starts, cut.ends)


@pytest.mark.parametrize(
    "text",
    [
        "&#00000000122;e",
        "&#X00000007ae",
        "&ZeroWidthSpace;e",
        "\\u{7a}e",
        "&#x7a;e",
        "&#X07Ae",
        "\\U0000007a",
        "&nbsp;e",
        "%7ae",
        "\\x7ae",
        "&#122;",
    ],
)
def test_an_escape_may_be_cut_anywhere(text):
    for cut in range(len(text) + 1):
        assert undo(text, [cut]).text == undo(text, []).text
    assert undo(text, list(range(len(text)))).text == undo(text, []).text


@given(st.text(alphabet="%&\\#xun7a;{}D0B6 zé\U000e0061", max_size=40))
def test_places_are_ordered_and_inside(text):
    out = undo(text, [])
    assert len(out.text) == len(out.starts) == len(out.ends)
    assert all(0 <= a < b <= len(text) for a, b in zip(out.starts, out.ends, strict=True))
    assert list(out.starts) == sorted(out.starts)


def test_ordinary_words_are_dead_base64_at_once():
    dead = 0
    words = [
        "hello",
        "there",
        "quick",
        "brown",
        "fox",
        "jumps",
        "over",
        "lazy",
        "dogs",
        "while",
        "people",
        "watch",
    ]
    for word in words:
        reader, out = BytesReader(6), Decoded()
        for i, char in enumerate(word):
            if not reader.dead:
                reader.put(base64_value(char) or 0, i, out)
        dead += reader.dead
    assert dead == len(words)
