"""Many phrases compiled at once are what each of them is alone, as slow and plain code has it."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prism.match import automaton as ac
from prism.match import entries, kernel
from prism.match.phrases import Phrase, PhraseScanner, PhraseSet, spellings
from prism.types import Boundary, Disguise

SEEN = {Disguise.SPACING: entries.SPACING, Disguise.LEET: entries.LEET,
        Disguise.REPEATS: entries.REPEATS}  # fmt: skip
TEXTS = st.text(alphabet="abelios1l! -zпривⅲßÉΣς\u0301", min_size=1, max_size=14)
PHRASES = st.lists(
    st.builds(
        Phrase, st.sampled_from("abc"), TEXTS, st.sampled_from(Boundary),
        st.frozensets(st.sampled_from(Disguise)), st.booleans(),
    ),
    max_size=12,
)  # fmt: skip


def squeezed(text, *, collapse):
    """Return the classes of a text's letters, and what to verify: letter, run, begins a word."""
    symbols, new = [], 0
    for char in text:
        if char == " ":
            new = 1
        elif collapse and symbols and symbols[-1][0] == ord(char) and not new:
            symbols[-1][1] += 1
        else:
            symbols.append([ord(char), 1, new])
            new = 0
    classes = [int(kernel.LETTER_CLASS[c]) if c < 128 else c for c, _, _ in symbols]
    return "".join(map(chr, classes)), [number for symbol in symbols for number in symbol]


def expected(phrases):
    """Return the plain patterns, and the squeezed ones with their entries, with their owners."""
    plain, behind = {}, {}
    for phrase in phrases:
        flags = sum(bit for disguise, bit in SEEN.items() if disguise in phrase.disguises)
        bounded = phrase.boundary is Boundary.WORD
        for text, via in spellings(phrase):
            owner = (phrase.rule, via)
            plain.setdefault(f" {text} " if bounded else text, []).append(owner)
            if not flags or len(text.replace(" ", "")) < 3:
                continue
            for collapse in (True, False):
                key, symbols = squeezed(text, collapse=collapse)
                entry = (tuple(symbols), flags | (entries.BOUNDED if bounded else 0))
                owners = behind.setdefault(key, {}).setdefault(entry, [])
                if (owner, phrase.held) not in owners:
                    owners.append((owner, phrase.held))
    return plain, behind


def strings(block):
    symbols, bounds = ac.patterns_of(block)
    return ["".join(map(chr, symbols[a:b])) for a, b in itertools.pairwise(bounds)]


def check(phrases):
    compiled = PhraseSet(phrases)
    plain, behind = expected(phrases)
    assert strings(compiled.plain) == sorted(plain)
    assert list(compiled.plain_owners) == [plain[key] for key in sorted(plain)]
    assert strings(compiled.squeezed) == sorted(behind)
    of_pattern, offset, flags, symbols = entries.unpack_entries(compiled.entries)
    at = 0
    for number, key in enumerate(sorted(behind)):
        assert of_pattern[number] == at
        for entry, owners in behind[key].items():
            told = tuple(symbols[3 * offset[at] : 3 * offset[at + 1]].tolist()), int(flags[at])
            assert told == entry
            assert compiled.entry_owners[at] == [owner for owner, _ in owners]
            at += 1
    assert at == len(compiled.entry_owners) == of_pattern[-1]
    assert compiled.empty == (not plain)


@settings(max_examples=200, deadline=None)
@given(PHRASES)
def test_patterns_entries_and_owners_are_those_of_each_phrase(phrases):
    check(phrases)


def made_up(count, seed=1):
    rng = random.Random(seed)
    syllables = [c + v for c in "bcdfghklmnprstvz" for v in "aeiou"]
    words = ["".join(rng.choices(syllables, k=rng.randint(2, 4))) for _ in range(3000)]
    texts = {" ".join(rng.sample(words, rng.randint(1, 3))) for _ in range(2 * count)}
    disguises = frozenset(Disguise)
    return [
        Phrase(f"r{i % 7}", text, Boundary.WORD, disguises, True)
        for i, text in enumerate(sorted(texts)[:count])
    ]


@pytest.fixture(scope="module")
def many():
    return made_up(20_000)


def test_thousands_of_phrases_are_compiled_as_one_is(many):
    check(many[::8])


def test_among_many_a_phrase_is_found_as_it_is_alone(many):
    compiled, rng = PhraseSet(many), random.Random(3)
    for phrase in rng.sample(many, 60):
        text = phrase.text
        for said in (
            text, text.upper(), " ".join(text), text.replace("e", "3").replace("o", "0"),
            text[::-1], "-".join(text), "".join(c * rng.randint(1, 2) for c in text), text[:-1],
        ):  # fmt: skip
            whole = f"well {said} and on"
            scanner, alone = compiled.scanner(), PhraseSet([phrase]).scanner()
            found = {*scanner.feed(whole), *scanner.finish()}
            assert found >= {*alone.feed(whole), *alone.finish()}


def test_owners_are_told_from_others_by_their_rules(many):
    owners = PhraseSet(many[:200]).entry_owners
    told = owners.among({"r1", "r5", "nobody"})
    assert told.tolist() == [any(rule in ("r1", "r5") for rule, _ in own) for own in owners]
    assert told.any()
    assert not told.all()


@pytest.mark.parametrize("loose", [False, True])
def test_a_text_is_read_alike_whether_all_phrases_begin_with_words_or_not(loose):
    phrases = [*made_up(300, seed=5), *made_up(300, seed=6)]
    if loose:  # then nodes within words are kept
        phrases.append(Phrase("x", "qqxq", Boundary.NONE, frozenset(Disguise), False))
    compiled, rng = PhraseSet(phrases), random.Random(8)
    for _ in range(60):
        parts = [rng.choice(phrases).text for _ in range(4)]
        parts = [part[rng.randint(0, 3) :][: rng.randint(2, 20)] for part in parts]
        text = "".join(part + rng.choice(["", " ", ".", "1"]) for part in parts)
        scanner, found = compiled.scanner(), set()
        for char in text:
            found |= set(scanner.feed(char))
            assert scanner.open_from() <= scanner.read
        found |= set(scanner.finish())
        for phrase in rng.sample(phrases, 3):
            alone = PhraseSet([phrase]).scanner()
            assert found >= {*alone.feed(text), *alone.finish()}


def test_a_very_long_phrase_and_none_at_all():
    check([])
    check([Phrase("r", "ab c" * 120, Boundary.WORD, frozenset(Disguise), True)])
    check([Phrase("r", "\ufdfa" * 30, Boundary.NONE, frozenset(Disguise), True)])
    assert np.array_equal(PhraseSet([]).state()[0], PhraseSet([]).state()[0])


@pytest.mark.parametrize("spelling", ["", " "])
@pytest.mark.parametrize("boundary", list(Boundary))
def test_no_hit_is_dropped_where_many_phrases_end_at_one_character(spelling, boundary):
    letters = "qwvxjkzmbtpgdchfnrls"
    if boundary is Boundary.NONE:
        texts = [letters[i:] for i in range(len(letters) - 3)] * 2
    else:  # each with a word before it that the others haven't
        texts = [" ".join([letters, *["zephyr"] * n]) for n in range(40)]
        texts = [" ".join(text.split()[::-1]) for text in texts]
    rules = [Phrase(str(i), t, boundary, frozenset(Disguise), True) for i, t in enumerate(texts)]
    text = spelling.join(max(texts, key=len)) + "."
    compiled = PhraseSet(rules)
    for size in (1, 50, len(text)):
        scanner = PhraseScanner(compiled)
        found = [
            match
            for at in range(0, len(text), size)
            for match in scanner.feed(text[at : at + size])
        ]
        assert {match.rule for match in found + scanner.finish()} == {r.rule for r in rules}


def test_a_character_that_is_read_as_many_finds_room_for_all_their_hits():
    phrases = [Phrase(str(i), "fi" * (i + 1), Boundary.NONE, frozenset(), True) for i in range(30)]
    scanner = PhraseScanner(PhraseSet(phrases))
    found = scanner.feed("\ufb01" * 30) + scanner.finish()
    assert len(found) == sum(range(1, 31))
