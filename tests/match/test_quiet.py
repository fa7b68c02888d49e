"""A whole text that is called empty at once is one in which no reader finds anything."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.match.test_incremental import POLICY
from tests.match.test_incremental import TEXTS as HIDDEN
from tests.match.test_onepass import ORDINARY
from tests.match.test_skim import FEW, PHRASES, PROSE, SHORT, TEXTS
from tests.policies import policy, rule

from prism.match import Matcher, quiet
from prism.match.layers import Layer
from prism.text.normalise import code_points
from prism.types import Boundary, Disguise, Stage

WRITTEN = frozenset[Disguise]()
CODE = r"\bcode[- ]?[0-9]{4}\b"
MATCHERS = {
    "every disguise": Matcher(policy(rule("a", PHRASES)), Stage.OUTPUT),
    "as written": Matcher(policy(rule("a", PHRASES, disguises=WRITTEN)), Stage.OUTPUT),
    "short words": Matcher(policy(rule("a", SHORT)), Stage.OUTPUT),
    "base64": Matcher(
        policy(rule("a", PHRASES, disguises=frozenset({Disguise.BASE64}))), Stage.OUTPUT
    ),
    "hex": Matcher(policy(rule("a", PHRASES, disguises=frozenset({Disguise.HEX}))), Stage.OUTPUT),
    "regexes": Matcher(policy(rule("a", PHRASES), rule("c", regexes=[CODE])), Stage.OUTPUT),
    "within words": Matcher(policy(rule("a", ["quxor"], boundary=Boundary.NONE)), Stage.OUTPUT),
    "personal data": Matcher(policy(rule("a", PHRASES), rule("m", pii=["email"])), Stage.OUTPUT),
    "several rules": Matcher(POLICY, Stage.OUTPUT),
}
ENCODED = st.one_of(
    st.text("abefABwxyz019 -:x/+_", min_size=4, max_size=40),
    st.builds(
        lambda text, before, code: f"{before}{code(text)}",
        st.one_of(st.sampled_from([*PHRASES, "x book y", "code 1234"]), st.text(max_size=12)),
        st.sampled_from(["", "a", "é", "/", "0x", "-", "word "]),
        st.sampled_from([
            lambda text: text.encode("utf-8", "replace").hex(),
            lambda text: text.encode("utf-8", "replace").hex(" "),
            lambda text: base64.b64encode(text.encode("utf-8", "replace")).decode(),
            lambda text: base64.b64encode(text.encode("utf-8", "replace")).decode().rstrip("="),
        ]),
    ),
)  # fmt: skip
PIECES = st.lists(
    st.one_of(
        TEXTS.map(lambda pieces: "".join(piece + glue for piece, glue in pieces)),
        ENCODED, FEW, ORDINARY, HIDDEN, st.sampled_from([*PROSE, "code 1234", "a@b.example"]),
        st.text(max_size=20),
    ),
    max_size=3,
)  # fmt: skip


def placed(matches):
    return sorted((m.rule, m.start, m.end) for m in matches)


@pytest.mark.parametrize("matcher", MATCHERS.values(), ids=MATCHERS)
@settings(max_examples=150, deadline=None)
@given(pieces=PIECES, glue=st.sampled_from([" ", "", ", "]))
@example(pieces=["2e626f6f6b"], glue="")
@example(pieces=["a \ud800 book"], glue="")
def test_what_is_found_is_what_a_scanner_finds(matcher, pieces, glue):
    text = glue.join(pieces)
    scanner, single = matcher.scanner(), matcher.scanner()
    found = scanner.feed(text) + scanner.finish()
    assert matcher.found(text) == found
    singly = [match for char in text for match in single.feed(char)] + single.finish()
    assert placed(found) == placed(singly)


@pytest.mark.parametrize("name", [*[*MATCHERS][:-3], "personal data"])
def test_ordinary_text_is_called_empty_at_once(name, monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("a layer was made")

    monkeypatch.setattr(Layer, "__init__", fail)
    accented = "Un début très étrange, déjà vu; quelque œuvre d'été."
    for text in (*PROSE[:2], "It's at 10:30 on 2026-11-22.", "", "é", "日本語", accented[:24]):
        assert MATCHERS[name].found(text) == [], text


def test_a_regex_that_may_begin_is_asked_alone(monkeypatch):
    matcher = MATCHERS["regexes"]
    assert matcher.found(f"{PROSE[0]} a code 1234.")
    monkeypatch.delattr(Layer, "__init__")
    assert quiet.holds(matcher.patterns.tables.address, b"a code of honour") == quiet.BEGINS
    assert matcher.found("a code of honour") == []


@pytest.mark.parametrize(
    "text", ["b%6f%6f%6b", "\U000e0062ook", "book", "7a 65 70 68 79 72 20 6c 61", "b o o k"]
)
def test_what_may_hold_something_is_left_to_a_scanner(text):
    address = MATCHERS["every disguise"].patterns.tables.address
    assert quiet.holds(address, text.encode()) == quiet.UNSURE
    assert quiet.holds(address, f"{PROSE[0]} {text}, {PROSE[0]}".encode()) == quiet.UNSURE


@given(st.text(st.characters(min_codepoint=0, max_codepoint=0x10FFFF, exclude_categories=[])))
@example("\x7f\x80\u07ff\u0800\ud800\udfff\uffff\U00010000\U0010ffff")
def test_bytes_are_read_as_the_text_they_are_of(text):
    data = text.encode("utf-8", "surrogatepass")
    out = np.empty(len(data), np.int32)
    count = quiet._points(data, out)
    assert out[:count].tolist() == code_points(text).tolist()


def test_several_threads_may_ask_at_once():
    matcher = MATCHERS["regexes"]
    texts = [f"{PROSE[i % 2]} {'book' if i % 3 == 0 else 'x' * (i % 50)}" for i in range(300)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            said = list(pool.map(lambda text: bool(matcher.found(text)), texts))
            assert said == [i % 3 == 0 for i in range(300)]
