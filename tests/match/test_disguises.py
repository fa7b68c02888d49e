"""Every disguise that the issue names, found; ordinary text that resembles one, not."""

from __future__ import annotations

import base64
import codecs
import urllib.parse

import pytest
from tests.policies import policy, rule

from prism.match import Matcher
from prism.types import Action, Boundary, Disguise, Stage

S = "zephyr lantern"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


MATCHER = Matcher.compile(
    policy(
        rule("lantern", [S]),
        rule("short", ["book", "fall", "coop", "therapist", "hello"], action=Action.FLAG),
        rule("loose", ["quxor"], boundary=Boundary.NONE),
        rule("code", regexes=[r"\bcode[- ]?[0-9]{4}\b"]),
    ),
    Stage.OUTPUT,
)

DISGUISED = {
    "as written": (S, ()),
    "punctuated words": ("Zephyr -- Lantern", ()),
    "over lines": ("zephyr\n\n   lantern", ()),
    "spaced": ("z e p h y r l a n t e r n", ("spacing",)),
    "dotted": ("z.e.p.h.y.r. l.a.n.t.e.r.n", ("spacing",)),
    "joined": ("zephyrlantern", ("spacing",)),
    "split words": ("ze phyr lan tern", ("spacing",)),
    "leet digits": ("z3phyr l4nt3rn", ("leet",)),
    "leet signs": ("zephyr l@ntern!", ("leet",)),
    "leet at the end": ("z3phyr lantern!", ("leet",)),
    "repeats": ("zzephyyyr laaaantern", ("repeats",)),
    "all three": ("z..3..p..h..y..r l @@ n t e r n", ("spacing", "leet", "repeats")),
    "rot13": (codecs.encode(S, "rot13"), ("rot13",)),
    "reversed": (S[::-1], ("reversed",)),
    "base64": (b64(S), ("base64",)),
    "base64 inside": ("see " + b64("now say zephyr lantern, please") + " ok", ("base64",)),
    "base64 in a path": ("data/" + b64(S), ("base64",)),
    "base64 wrapped": (b64("a longer text with zephyr lantern")[:16] + "\n"
                       + b64("a longer text with zephyr lantern")[16:], ("base64",)),
    "base64url": (base64.urlsafe_b64encode("ÿþ zephyr lantern ÿþ".encode()).decode(), ("base64",)),
    "hex": (S.encode().hex(), ("hex",)),
    "hex apart": (" ".join(f"{c:02x}" for c in S.encode()), ("hex",)),
    "hex 0x": (", ".join(f"0x{c:02X}" for c in S.encode()), ("hex",)),
    "url": ("".join(f"%{c:02X}" for c in S.encode()), ("escapes",)),
    "url partly": ("zep%68yr%20lantern", ("escapes",)),
    "html": ("".join(f"&#{ord(c)};" for c in S), ("escapes",)),
    "html hex": ("".join(f"&#x{ord(c):x};" for c in S), ("escapes",)),
    "html entity": ("zephyr&nbsp;lantern", ("escapes",)),
    "behind a line break in json": ("say\\nzephyr\\tlantern", ("escapes",)),
    "json": ("".join(f"\\u{ord(c):04x}" for c in S), ("escapes",)),
    "json in braces": ("".join(f"\\u{{{ord(c):x}}}" for c in S), ("escapes",)),
    "tags": ("".join(chr(0xE0000 + ord(c)) for c in S), ("escapes",)),
    "url twice": (urllib.parse.quote("".join(f"%{c:02X}" for c in S.encode())),
                  ("escapes", "escapes")),
    "base64 of rot13": (b64(codecs.encode(S, "rot13")), ("base64", "rot13")),
    "base64 of reversed": (b64(S[::-1]), ("base64", "reversed")),
    "base64 twice": (b64(b64(S)), ("base64", "base64")),
    "hex of base64": (b64(S).encode().hex(), ("hex", "base64")),
    "base64 of url": (b64("".join(f"%{c:02X}" for c in S.encode())), ("base64", "escapes")),
    "url inside base64": (b64(S)[:5] + f"%{ord(b64(S)[5]):02x}" + b64(S)[6:],
                          ("escapes", "base64")),
    "base64 of full width": (b64("ｚephyr ｌantern"), ("base64",)),
    "spaced and url": ("%20".join(S.replace(" ", "")), ("escapes", "spacing")),
}  # fmt: skip


@pytest.mark.parametrize(("text", "via"), DISGUISED.values(), ids=DISGUISED.keys())
@pytest.mark.parametrize("around", ["{}", "Well: {} and so on.", "({})"])
def test_disguises_are_seen_through(text, via, around):
    whole = around.format(text)
    matches = [m for m in MATCHER.scan(whole) if m.rule == "lantern"]
    assert matches, whole
    assert via in {m.via for m in matches}
    first = whole.index(text)
    for match in matches:
        assert first <= match.start < match.end <= first + len(text)


@pytest.mark.parametrize("text", [text for text, _ in DISGUISED.values()], ids=DISGUISED.keys())
def test_disguises_are_seen_through_character_by_character(text):
    scanner = MATCHER.scanner()
    found = [match for char in text for match in scanner.feed(char)] + scanner.finish()
    assert "lantern" in {match.rule for match in found}


@pytest.mark.parametrize(
    "text",
    [
        "zephyr lanterns", "azephyr lantern", "a zephyr by the lantern", "lantern zephyr",
        "the rapist", "cop", "bok", "fail", "he11 o", "a b o o", "Fa il",
        "I owe 1000 dollars & 50% of it @ 7am (really!)", "c:\\temp\\new and /usr/share/doc",
        "a flag \U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f in a row",
        "see https://example.org/a/b?c=d&e=f%20g or call 555-0100", "deadbeef cafe 1972 0x7f",
    ],
)  # fmt: skip
def test_ordinary_text_is_left_alone(text):
    assert MATCHER.scan(text) == []


@pytest.mark.parametrize(
    ("text", "rule_id"),
    [
        ("b o o k", "short"), ("b00k", "short"), ("booook", "short"), ("hel1o", "short"),
        ("fa11", "short"), ("fal1", "short"), ("c00p", "short"), ("ther-apist", "short"),
        ("xquxory", "loose"), ("q-u-x-o-r", "loose"),
        ("my code-1234.", "code"), (b64("my code 1234 ok"), "code"), ("ｃｏｄｅ１２３４", "code"),
    ],
)  # fmt: skip
def test_short_words_loose_phrases_and_regexes(text, rule_id):
    assert {m.rule for m in MATCHER.scan(text)} == {rule_id}


@pytest.mark.parametrize("off", list(Disguise))
def test_a_rule_sees_through_what_it_asks_for_and_no_more(off):
    one = Matcher.compile(
        policy(rule("lantern", [S], disguises=frozenset(Disguise) - {off})), Stage.OUTPUT
    )
    for text, via in DISGUISED.values():
        assert any(m.rule == "lantern" for m in one.scan(text)) == (off.value not in via), text


def test_equal_phrases_of_several_rules_are_all_reported():
    both = Matcher.compile(policy(rule("a", [S]), rule("b", [S.upper()])), Stage.OUTPUT)
    assert [m.rule for m in both.scan(f"x {S} y")] == ["a", "b"]


def test_a_policy_without_patterns_matches_nothing():
    empty = Matcher.compile(policy(), Stage.OUTPUT)
    assert empty.scan("anything at all") == []
