"""For any text and any split into chunks, verdict, spans and hold-back equal the whole text's."""

from __future__ import annotations

import base64
import codecs

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policies import policy, rule

from prism.match import Matcher
from prism.moderator import Moderator
from prism.types import Action, Boundary, Stage

S = "zephyr lantern"
POLICY = policy(
    rule("lantern", [S, "velvet cartographer"]),
    rule("loose", ["quxor"], boundary=Boundary.NONE),
    rule("code", regexes=[r"\bcode[- ]?[0-9]{4}\b", "a{1,5}b", "(?:foo|foobar|barfo)"]),
)
MATCHER = Matcher.compile(POLICY, Stage.OUTPUT)
B64 = base64.b64encode(S.encode()).decode()
PIECES = [
    S, S.upper(), B64, base64.b64encode(b"xx zephyr lantern yy").decode(), S.encode().hex(),
    " ".join(f"{c:02x}" for c in S.encode()), "".join(f"%{c:02X}" for c in S.encode()),
    "".join(f"&#{ord(c)}" for c in S), "z e p h y r l a n t e r n", "z3phyr l4ntern!",
    codecs.encode(S, "rot13"), S[::-1], base64.b64encode(B64.encode()).decode(), "%257aephyr",
    "code-1234", "quxor", "zep%68yr lan&#116;ern", "ｚephyr \u200blantern", "\\u007aephyr lantern",
    B64[:5] + "%48" + B64[6:], B64[:12] + "\n" + B64[12:], "aab", "foobarfo",
]  # fmt: skip
GLUE = ["", " ", "\n", ". ", "/", "=", "I ", "the ", "%", "&", "\\", "0x", "é", "\u200b", "1", "#"]
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES + GLUE), max_size=6).map("".join),
    st.tuples(st.sampled_from(PIECES), st.integers(0, 40), st.text(max_size=2)).map(
        lambda t: t[0][: t[1]] + t[2] + t[0][t[1] :]
    ),
    st.text(alphabet="zephyr lantcodefob0123456789%&#;\\xuaquxé=/\n", max_size=60),
    st.text(max_size=30),
)


def whole(text):
    return {(m.rule, m.start, m.end, m.via) for m in MATCHER.scan(text)}


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.data())
def test_any_split_gives_the_whole_texts_matches_and_never_lets_one_go_early(text, data):
    cuts = data.draw(
        st.one_of(st.just(list(range(len(text)))), st.lists(st.integers(0, len(text)), max_size=6))
    )
    expected = whole(text)
    scanner = MATCHER.scanner()
    found, at, open_from = [], 0, []
    for cut in [*sorted(cuts), len(text)]:
        found += scanner.feed(text[at:cut])
        at = cut
        open_from.append((at, scanner.hold_from))
    found += scanner.finish()
    assert {(m.rule, m.start, m.end, m.via) for m in found} == expected
    assert scanner.read == len(text)
    for read, hold in open_from:
        assert hold <= read
        for rule_id, start, end, via in expected:
            # What is not complete at this point must not have been let go.
            assert not (start < hold and end > read), (rule_id, start, end, via, read, hold)


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.data())
def test_any_split_releases_the_same_text_and_no_character_of_a_blocked_match(text, data):
    moderator = Moderator(POLICY)

    def released(cuts):
        session, out, at = moderator.session(), [], 0
        for cut in [*sorted(cuts), len(text)]:
            out.append(session.feed(text[at:cut]).text)
            at = cut
        last = session.finish()
        return "".join([*out, last.text]), last.blocked

    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    once, blocked = released([])
    matches = whole(text)
    for split in (cuts, list(range(len(text)))):
        out, stopped = released(split)
        assert stopped == blocked
        # What was still open when a match was found stays back, so a stream may stop earlier.
        assert once.startswith(out) if blocked else out == once
    assert text.startswith(once)
    assert blocked == bool(matches)
    if matches:
        assert len(once) <= min(start for _, start, _, _ in matches)
    else:
        assert once == text


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.data())
def test_redaction_does_not_depend_on_the_split(text, data):
    moderator = Moderator(
        policy(*(rule(r.id, r.phrases, regexes=[x.pattern for x in r.regexes],
                      action=Action.REDACT, boundary=r.boundary) for r in POLICY.rules))
    )  # fmt: skip

    def released(cuts):
        session, out, at = moderator.session(), [], 0
        for cut in [*sorted(cuts), len(text)]:
            out.append(session.feed(text[at:cut]).text)
            at = cut
        return "".join([*out, session.finish().text])

    once = released([])
    assert released(data.draw(st.lists(st.integers(0, len(text)), max_size=6))) == once
    assert ("[redacted]" in once) == (bool(whole(text)) or "[redacted]" in text)


def test_text_that_cannot_become_a_match_goes_out_at_once():
    session = Moderator(POLICY).session()
    words = [
        "The",
        "weather",
        "in",
        "the",
        "old",
        "town",
        "was",
        "mild",
        "and",
        "people",
        "walked",
        "along",
        "the",
        "river.",
    ]
    late = 0
    for word in words:
        sent = session.feed(word + " ").text
        late += sent != word + " "
    assert late == 0


def test_a_beginning_is_held_and_then_released_when_it_comes_to_nothing():
    session = Moderator(POLICY).session()
    assert session.feed("light the zephyr ").text == "light the "
    assert session.feed("lan").text == ""
    assert session.feed("d rover").text == "zephyr land rover"
    assert not session.finish().blocked
