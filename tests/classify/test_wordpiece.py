"""Ids of plain text are the library's to the last one, whatever stands in it."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from prism.classify.wordpiece import WordPiece

DATA = (files("prism.classify") / "data" / "encoder.tokenizer.json").read_bytes()
OURS = WordPiece(DATA)
LIBRARY = Tokenizer.from_buffer(DATA)
LIBRARY.no_padding()
LIBRARY.no_truncation()

pieces = st.sampled_from(
    ["zephyr", "Lanterns", "unaffable", "##ing", "[SEP]", "[", "don't", "3.14", "a_b", "“quoted”"]
)
texts = st.lists(pieces | st.text(max_size=4) | st.characters(max_codepoint=127), max_size=30)


def theirs(text: str) -> list[int]:
    return list(LIBRARY.encode(text, add_special_tokens=False).ids)


@settings(max_examples=400, deadline=None)
@given(parts=texts, between=st.sampled_from(["", " ", "\n\t"]))
@example(parts=["a" * 100, "a" * 101, "ß" * 101], between=" ")
@example(parts=["zeph\x00yr", "zeph\x0byr", "zeph\x1cyr", "\x7f", "\x85"], between="")
@example(parts=["\ufffd", "İ", "K", "…", "–", "·"], between="")
def test_ids_are_the_librarys(parts: list[str], between: str) -> None:
    text = between.join(parts)
    assert OURS.ids(text) == theirs(text)


@pytest.mark.parametrize("text", ["", "zephyr 1", "“zephyr” — lantern…", "\x00"])
def test_ascii_and_typographic_marks_are_plain(text: str) -> None:
    assert OURS.plain(text)


@pytest.mark.parametrize("text", ["é", "zephyr [SEP] lantern", "灯", "\ud800", "\xa0"])
def test_what_is_not_plain_goes_to_the_library(text: str) -> None:
    assert not OURS.plain(text)
    assert OURS.ids(text) == theirs(text.encode("utf-8", "replace").decode())


def test_ids_that_go_on_with_a_word_are_known() -> None:
    ids = np.array(OURS.ids("unaffable 42 !"))
    tokens = [LIBRARY.id_to_token(int(at)) for at in ids]

    assert OURS.continues[ids].tolist() == [token.startswith("##") for token in tokens]
    assert OURS.lettered[ids].tolist() == [True, True, True, False, False]


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"normalizer": None},
    ],
)
def test_a_tokenizer_of_other_rules_is_left_to_the_library(
    change: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps(json.loads(DATA) | change), encoding="utf-8")
    library = Tokenizer.from_file(str(path))
    library.no_padding()
    library.no_truncation()
    text = "Zephyr_lantern don't\x00stop"

    found = WordPiece(path.read_bytes()).ids(text)
    assert found == library.encode(text, add_special_tokens=False).ids != OURS.ids(text)


def test_words_kept_are_bounded_and_forgetting_them_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prism.classify.wordpiece._MOST", 3)
    small = WordPiece(DATA)
    words = [f"qxz{number}" for number in range(20)]

    assert [small.ids(word) for word in words * 2] == [theirs(word) for word in words * 2]
    assert len(small._known) <= 3
