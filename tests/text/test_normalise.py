from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.text.normalise import fold_code_point, normalise_phrase


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Zephyr, LANTERN!", "zephyr lantern"),
        ("ｚｅｐｈｙｒ　ｌａｎｔｅｒｎ", "zephyr lantern"),
        ("𝔷𝔢𝔭𝔥𝔶𝔯", "zephyr"),
        ("ⓩⓔⓟⓗⓨⓡ", "zephyr"),
        ("🅻🅰nt\u200bern", "lantern"),
        ("zeph\u00adyr\u202e\u2066 lan\u0301te\u0336rn", "zephyr lantern"),
        ("ΖЕРΗΥR LΑΝΤΕRΝ", "zephyr lantern"),  # Greek and Cyrillic capitals
        ("zерhуr lаntеrn", "zephyr lantern"),  # Cyrillic small letters
        ("ŻÉPHÝR", "zephyr"),
        ("straße", "strasse"),
        ("ﬁne", "fine"),
        ("İstanbul ıs", "istanbul is"),
        ("--- \u200b ...", ""),
    ],
)
def test_look_alikes_and_invisible_characters_read_as_what_they_show(written, read):
    assert normalise_phrase(written) == read


@pytest.mark.parametrize("text", ["привет мир", "ζεφυροσ", "ստուգում"])
def test_case_is_immaterial_in_scripts_whose_capitals_resemble_latin(text):
    from prism.match.phrases import Phrase, PhraseSet
    from prism.types import Boundary

    phrases = PhraseSet([Phrase("r", text, Boundary.WORD, frozenset(), True)])
    for spelling in (text, text.upper(), text.title()):
        scanner = phrases.scanner()
        assert scanner.feed(f"a {spelling} b"), spelling


def test_words_that_differ_by_vowel_signs_stay_different():
    assert normalise_phrase("कि") != normalise_phrase("कु")
    assert normalise_phrase("ばか") != normalise_phrase("はか")


@given(st.text(), st.text())
def test_folding_is_context_free(a, b):
    def letters(text):
        return [pair for char in text for pair in fold_code_point(ord(char))]

    assert letters(a + b) == letters(a) + letters(b)


@given(st.characters())
def test_folding_is_bounded(char):
    assert len(fold_code_point(ord(char))) <= 40


def test_the_shipped_table_is_what_the_script_builds():
    script = Path(__file__).parents[2] / "scripts" / "build_unicode_tables.py"
    namespace: dict[str, object] = {"__name__": "tables", "__file__": str(script)}
    exec(compile(script.read_text(), str(script), "exec"), namespace)
    shipped = np.load(namespace["OUT"], allow_pickle=False)
    version = [int(part) for part in unicodedata.unidata_version.split(".")]
    if shipped["unidata"].tolist() != version:
        # Another Unicode version: only code points that it didn't know may differ.
        assert shipped["unidata"].tolist() < version
        return
    built = namespace["build"]()
    for name, array in built.items():
        assert np.array_equal(array, shipped[name]), name
