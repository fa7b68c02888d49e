"""Personal data: what is found, what isn't, and that streams give what whole texts give.

All numbers are published samples, or computed from their checksums.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policies import policy, rule

from prism.match import Matcher
from prism.match.pii import PiiSet, Wanted
from prism.match.pii.kinds import CHECKED
from prism.moderator import Moderator
from prism.types import Action, Mode, Stage

EVERYTHING = PiiSet([Wanted(kind, (kind,), True) for kind in CHECKED])
PEM = (
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkK\nCwwNDg8Q\n"
    "-----END PRIVATE KEY-----"
)
JWT = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0."
    "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
)
FOUND = {
    "card": [
        "4242 4242 4242 4242", "4242424242424242", "5555-5555-5555-4444", "3782 822463 10005",
        "６０１１１１１１１１１１１１１７", "٤٢٤٢٤٢٤٢٤٢٤٢٤٢٤٢", "4242 4242\u200b 4242 4242",
        "3056 930009 0204", "6200000000000005", "3566002020360505",
    ],
    "iban": [
        "GB82 WEST 1234 5698 7654 32", "DE89370400440532013000",
        "fr14 2004 1010 0505 0001 3m02 606", "NO93 8601 1117 947",
    ],
    "email": [
        "ann@example.com", "o'brien@mail.example.co.uk", "first.last+tag@example.org",
        "ünal@exämple.de",
    ],
    "phone": [
        "+1 202-555-0123", "+44 20 7946 0018", "(202) 555-0123", "202.555.0123", "020 7946 0018",
        "01 99 00 12 34", "0044 20 7946 0018", "+49 (30) 23125 000",
    ],
    "ip": ["192.0.2.1", "198.51.100.77", "2001:db8::8a2e:370:7334", "::ffff:192.0.2.128"],
    "crypto": [
        "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
        "0x52908400098527886E0F7030069857D2E4169EE7",
    ],
    "api-key": [
        "AKIAIOSFODNN7EXAMPLE", "sk-" + "aB3dE5gH7j" * 3, "ghp_" + "0123456789abcdefghij" * 2,
        "SG." + "aB3dE5gH7jK1mN2p" + "." + "aB3dE5gH7jK1mN2p",
    ],
    "jwt": [JWT],
    "private-key": [PEM, PEM.replace("\n", "\\n"), PEM.replace("PRIVATE", "RSA PRIVATE")],
    "us-ssn": ["078-05-1120", "219 09 9999"],
    "uk-nino": ["AB 12 34 56 C", "ab123456c", "QQ123456C"],
    "de-steuer-id": ["36 574 261 809"],
    "fr-nir": ["2 95 10 99 126 111 93", "295109912611193"],
    "es-dni": ["54362315K", "54362315-k", "X-2482300-W", "x2482300w"],
    "it-codice-fiscale": ["RCCMNL83S18D969H", "rcc mnl 83s18 d969h"],
    "br-cpf": ["390.533.447-05", "39053344705"],
    "br-cnpj": ["16.727.230/0001-97", "16727230000197"],
    "pl-pesel": ["44051401359"],
    "cn-resident-id": ["360426199101010071", "11010519491231002X"],
}  # fmt: skip
ANNOUNCED = {
    "phone": [
        ("my phone number is ", "555 0123"), ("电话：", "55501234"), ("Tel.: ", "(30) 901820"),
    ],
    "password": [
        ("password: ", "hunter2"), ("The password is ", "Zephyr!99"),
        ('"api_key": "', "q8Zr01pLm3"),
        ("Authorization: Bearer ", "q8Zr01pLm3x"), ("mot de passe est ", "lanterne7!"),
    ],
    "us-ssn": [("Social security number: ", "078051120")],
    "de-steuer-id": [("Steuer-ID ", "36574261809")],
    "nl-bsn": [("BSN: ", "111222333"), ("burgerservicenummer is ", "1112.22.333")],
    "pt-nif": [("NIF ", "501964843")],
    "in-aadhaar": [("Aadhaar no. ", "234123412346"), ("aadhaar is ", "2341 2341 2346")],
}  # fmt: skip
NOT_FOUND = [
    "4242 4242 4242 4241", "1234567890123456", "0000 0000 0000 0000", "3.141592653589793",
    "GB82 WEST 1234 5698 7654 33", "XX82WEST12345698765432", "ann@example", "@example.com",
    "a @ b.com", "v1.2.3.4.5", "256.1.1.1", "127.0.0.1", "::1", "std::vector<int>", "a::b",
    "at 12:30:45", "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN3", "sk-your-api-key-goes-here-please",
    "sk-short", "eyJub3QgYSB0b2tlbg.abcdefghijkl.abc", "000-12-3456", "666-12-3456", "BG123456C",
    "54362315A", "36 574 261 800", "111222333", "501964843", "2341 2341 2346", "078051120",
    "the password is required", "password: ", "token: <your_t0ken>", "token=${T0KEN_2}",
    "In 2020, 35 people",
    "ISBN 978-3-16-148410-0", "2024-01-31 12:30", "1,234,567.89", "RCCMNL83S18D969A",
    "390.533.447-06", "5550123",
]  # fmt: skip


def found(text, kinds=EVERYTHING):
    scanner = kinds.scanner()
    matches = scanner.feed(text) + scanner.finish()
    return {(m.rule, text[m.start : m.end]) for m in matches}


@pytest.mark.parametrize(("kind", "text"), [(k, t) for k, ts in FOUND.items() for t in ts])
@pytest.mark.parametrize("around", ["{}", "It is {}.", "({}), and", "x={}\n"])
def test_found_as_a_whole(kind, text, around):
    only = PiiSet([Wanted(kind, (kind,), True)])
    spans = found(around.format(text), only)
    assert (kind, text) in spans
    assert all(part in text for _, part in spans)


@pytest.mark.parametrize(
    ("kind", "before", "text"), [(k, b, t) for k, bts in ANNOUNCED.items() for b, t in bts]
)
def test_found_behind_a_word_for_it_and_only_there(kind, before, text):
    only = PiiSet([Wanted(kind, (kind,), True)])
    spans = found(f"{before}{text}, thanks", only)
    assert (kind, text) in spans
    assert all(part in text for _, part in spans)
    assert found(f"zephyr lantern {text}, thanks", only) == set()


@pytest.mark.parametrize("text", NOT_FOUND)
def test_not_found(text):
    assert found(text) == set()


def test_every_kind_is_tried_here():
    assert {*FOUND, *ANNOUNCED} == set(CHECKED)


@pytest.mark.parametrize("kind", sorted(k for k in CHECKED if "-" in k and k[2] == "-"))
@pytest.mark.parametrize("length", range(8, 19))
def test_few_numbers_pass_for_a_national_id_by_chance(kind, length):
    chance = random.Random(f"{kind}{length}")
    only = PiiSet([Wanted(kind, (kind,), True)])
    numbers = ["".join(chance.choices("0123456789", k=length)) for _ in range(400)]
    assert sum(bool(found(number, only)) for number in numbers) <= 16


SAMPLES = [t for ts in FOUND.values() for t in ts] + [
    b + t for bts in ANNOUNCED.values() for b, t in bts
]
TEXTS = st.one_of(
    st.lists(
        st.sampled_from([*SAMPLES, *NOT_FOUND, " ", "\n", ". ", "-", "@", "é", "\u200b", "1", ":"]),
        max_size=5,
    ).map("".join),
    st.tuples(st.sampled_from(SAMPLES), st.integers(0, 60), st.text(max_size=2)).map(
        lambda t: t[0][: t[1]] + t[2] + t[0][t[1] :]
    ),
    st.text(alphabet="0123456789 -.()+@:abcGB82WESTskpassword=_/eyJ\n", max_size=80),
    st.text(max_size=30),
)


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.data())
def test_any_split_finds_the_same_and_holds_what_is_not_complete(text, data):
    cuts = data.draw(
        st.one_of(st.just(list(range(len(text)))), st.lists(st.integers(0, len(text)), max_size=6))
    )
    once = EVERYTHING.scanner()
    expected = {(m.rule, m.start, m.end) for m in once.feed(text) + once.finish()}
    scanner, matches, at, holds = EVERYTHING.scanner(), [], 0, []
    for cut in [*sorted(cuts), len(text)]:
        matches += scanner.feed(text[at:cut])
        at = cut
        holds.append((at, scanner.open_from()))
    matches += scanner.finish()
    assert {(m.rule, m.start, m.end) for m in matches} == expected
    for read, hold in holds:
        assert hold <= read
        assert not [m for m in expected if m[1] < hold and m[2] > read]


REDACTING = policy(
    rule("data", pii=("card", "iban", "email", "phone", "password", "private-key"),
         action=Action.REDACT, stages=frozenset({Stage.OUTPUT})),
)  # fmt: skip


def released(text, cuts):
    session, out, at = Moderator(REDACTING).session(), [], 0
    for cut in [*sorted(cuts), len(text)]:
        out.append(session.feed(text[at:cut]).text)
        at = cut
    return [*out, session.finish().text]


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.data())
def test_redaction_does_not_depend_on_the_split(text, data):
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    assert "".join(released(text, cuts)) == "".join(released(text, []))


def test_a_stream_of_single_characters_is_redacted():
    text = "Mail ann@example.com or pay 4242 4242 4242 4242 today."
    out = released(text, range(len(text)))
    assert "".join(out) == "Mail [redacted] or pay [redacted] today."


def test_what_cannot_be_personal_goes_out_at_once():
    kinds = PiiSet([Wanted("data", ("card", "iban", "email", "phone", "password", "jwt"), True)])
    scanner, read = kinds.scanner(), 0
    for word in ["In ", "2020, ", "35 people ", "walked ", "along ", "the ", "river, ", "slowly. "]:
        scanner.feed(word)
        read += len(word)
        assert scanner.open_from() == read


def test_only_what_may_still_grow_is_held():
    session = Moderator(REDACTING).session()
    assert session.feed("write to ann").text == "write to "
    assert session.feed(" or bob@").text == "ann or "
    assert session.feed("example.com").text == ""
    assert session.feed(", please").text == "[redacted], "
    assert session.finish().text == "please"


def test_a_key_cut_off_by_the_end_is_redacted_too():
    cut = PEM[:70]
    assert "".join(released(f"Here: {cut}", range(0, 70, 7))) == "Here: [redacted]"


def test_monitored_rules_hold_nothing():
    watched = policy(rule("data", pii=("email",), action=Action.REDACT, mode=Mode.MONITOR))
    session = Moderator(watched).session()
    assert session.feed("ann@example").text == "ann@example"
    session.feed(".com ")
    assert [f.rule for f in session.decision.findings] == ["data"]


def test_a_long_text_is_read_in_linear_work():
    noise = "7 3 1 9 - 4. (2) ann bob@ eyJ sk- -----BEGIN " * 2000
    text = noise + "4242 4242 4242 4242"
    assert ("card", "4242 4242 4242 4242") in found(text, PiiSet([Wanted("card", ("card",), True)]))


def test_phrases_and_personal_data_live_side_by_side():
    both = policy(rule("both", ["zephyr lantern"], pii=("email",)))
    matches = Matcher.compile(both, Stage.OUTPUT).scan("zephyr lantern, ann@example.com")
    assert [(m.start, m.end) for m in matches] == [(0, 14), (16, 31)]
