"""The guarantee: whatever is sampled, the text so far is never one that the policy blocks."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
from tests.masks import banned_of, printed
from tests.policies import REFUSAL, policy, rule

from prism.moderator import Moderator
from prism.steer.guard import TokenGuard
from prism.steer.vocabulary import Vocabulary
from prism.types import Action, Boundary, Disguise, Mode, Stage

POLICY = policy(
    rule("lantern", ["zephyr lantern", "velvet cartographer"]),
    rule("book", ["book"], action=Action.STEER),
    rule("loose", ["krzq"], boundary=Boundary.NONE, action=Action.STEER),
    rule("hello", ["привет мир"]),
    rule("flagged", ["lamp"], action=Action.FLAG),
    rule("watched", ["lane"], mode=Mode.MONITOR),
)
MODERATOR = Moderator(POLICY)
PIECES = [
    "Zephyr", " ze", "phyr", " lan", "lant", "tern", "z3", "yr", " ", "  ", "l", "a", "n", "t", "e",
    "r", "vel", "vet", " cart", "ographer", "k", "rz", "q", "при", "вет", " м", "ир", "\u200b", "b",
    "o", "oo", "0", ".", " book", "s", "ｚ", "-", "Z", "rr", "é", "zephyr", "\n", "!", "kk",
]  # fmt: skip


def blocked(data: bytes | str) -> bool:
    """The oracle: the whole text, judged by the text layer's phrases."""
    matches = MODERATOR.scanner(Stage.OUTPUT)
    text = data if isinstance(data, str) else data.decode("utf-8", "replace")
    encoded = {"base64", "hex", "escapes"}
    found = [m for m in matches.feed(text) + matches.finish() if not encoded & set(m.via)]
    return any(MODERATOR.stopping(m.rule) for m in found)


def random_ids(vocabulary, rng):
    ids = []
    for _ in range(rng.randint(0, 8)):
        piece = rng.choice(PIECES)
        some = vocabulary.encode(piece)
        if rng.random() < 0.3:  # raw bytes instead of the tokenizer's own segmentation
            raw = piece.encode()
            by_bytes = {vocabulary.bytes_of([i]): i for i in range(vocabulary.size)}
            if all(bytes((b,)) in by_bytes for b in raw):
                some = [by_bytes[bytes((b,))] for b in raw]
        if rng.random() < 0.2:
            some = some[:-1]
        ids += some
    if rng.random() < 0.3:  # the first bytes of a character
        raw = rng.choice("жß€😀\U0010fffd퟿\u0800\U00010000").encode()
        ids += [byte_token(vocabulary, byte) for byte in raw[: rng.randint(1, len(raw) - 1)]]
    return ids


def byte_token(vocabulary, byte):
    sizes = np.diff(vocabulary.offsets)
    some = np.flatnonzero(sizes == 1)
    return int(some[vocabulary.data[vocabulary.offsets[some]] == byte][0])


def standing(data):
    """Where ``data`` stands in UTF-8: "whole", "within" a character, or "broken"."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return "within" if error.reason == "unexpected end of data" else "broken"
    return "whole"


def may_be_said(vocabulary, so_far, token):
    """The oracle of a mask: what the text would be, and whether it would be UTF-8."""
    own = vocabulary.bytes_of([token])
    behind = standing(so_far + own)
    if standing(so_far) == "within":
        going_on = bool(own) and not vocabulary.control[token] and behind != "broken"
        return token in vocabulary.eos_ids or (going_on and not blocked(so_far + own))
    if vocabulary.control[token]:
        return True
    mixed = behind == "broken" and bool(own.decode(errors="ignore"))
    return not mixed and not blocked(so_far + own)


def test_the_mask_is_exactly_what_brute_force_says(vocabulary):
    guard = TokenGuard.compile(POLICY, vocabulary)
    rng = random.Random(7)
    masked = within = 0
    for _ in range(160):
        ids = random_ids(vocabulary, rng)
        so_far = vocabulary.bytes_of(ids)
        if blocked(so_far):
            continue
        row = guard.row([])
        row.advance(ids)
        if standing(so_far) == "broken":
            assert row.refusing, so_far
            continue
        banned = banned_of(row.step(), vocabulary.size)
        expected = [i for i in range(vocabulary.size) if not may_be_said(vocabulary, so_far, i)]
        assert banned == expected, so_far
        masked += len(banned)
        within += standing(so_far) == "within"
    assert masked > 0
    assert within > 10


def test_whatever_is_said_past_utf8_ends_in_the_refusal(vocabulary):
    """Every token from every kind of state: if the text is UTF-8 no more, the row refuses."""
    guard = TokenGuard.compile(POLICY, vocabulary)
    ends = 0
    for before in (b"zep", b"", "ж".encode()[:1], "€".encode()[:1], "😀".encode()[:2], b"\xe0"):
        ids = [byte_token(vocabulary, byte) for byte in before]
        for token in range(vocabulary.size):
            data = before + vocabulary.bytes_of([token])
            if vocabulary.control[token] or blocked(data):
                continue
            row = guard.row([])
            row.advance([*ids, token])
            assert row.refusing == (standing(data) == "broken"), data
            ends += row.refusing
    assert ends > 2 * vocabulary.size


def test_no_decoder_prints_a_phrase(vocabulary):
    """A sampler that loves bytes, held to how engines print what is no UTF-8."""
    guard = TokenGuard.compile(POLICY, vocabulary)
    rng = np.random.default_rng(5)
    single = np.flatnonzero(np.diff(vocabulary.offsets) == 1)
    wanted = [vocabulary.encode(p) for p in ("zephyr", " zep", "hyr", " lantern", "book", "bo")]
    refused = 0
    for _ in range(80):
        row, ids = guard.row([]), []
        for _ in range(16):
            logits = rng.normal(size=vocabulary.size).astype(np.float32)
            logits[rng.choice(single, 8)] += 4
            for token in wanted[rng.integers(len(wanted))][:1]:
                logits[token] += 7
            row.advance(ids)
            refused += row.refusing
            if row.refusing:
                break
            row.step().write(logits)
            ids.append(int(np.argmax(logits)))
            for text in printed(vocabulary, ids):
                assert not blocked(text), (text, [vocabulary.bytes_of([i]) for i in ids])
    assert refused > 0


@pytest.mark.parametrize("decoy", [b"\xffx", b"\xff\xd0\xb6", b"\x80x", b"x\xff", b"\xd0x"])
def test_a_decoy_among_bytes_that_are_no_characters_ends_the_answer(vocabulary, decoy):
    """SentencePiece prints "zephyr", FF, 78, " lantern" as "zephyr�� lantern"."""
    guard = TokenGuard.compile(POLICY, vocabulary)
    ids = [*vocabulary.encode("the zephyr"), *(byte_token(vocabulary, byte) for byte in decoy)]
    row = guard.row([])
    kept = False
    for length in range(len(ids) + 1):
        row.advance(ids[:length])
        if row.refusing or (length < len(ids) and row.step().bans(ids[length])):
            kept = True
            break
    assert kept


def test_no_sampler_reaches_a_blocked_text(vocabulary):
    guard = TokenGuard.compile(POLICY, vocabulary)
    rng = np.random.default_rng(3)
    wanted = [vocabulary.encode(p) for p in PIECES]
    likely = np.array(sorted({i for ids in wanted for i in ids}))
    steered = 0
    for _ in range(60):
        row, ids = guard.row([]), []
        for _ in range(25):
            logits = rng.normal(size=vocabulary.size).astype(np.float32)
            logits[likely] += 4
            row.advance(ids)
            plain = int(np.argmax(logits))
            step = row.step()
            step.write(logits)
            ids.append(int(np.argmax(logits)))
            steered += plain != ids[-1]
            assert not blocked(vocabulary.bytes_of(ids)), vocabulary.bytes_of(ids)
    assert steered > 0


def test_a_token_at_a_time_equals_all_at_once(vocabulary):
    guard = TokenGuard.compile(POLICY, vocabulary)
    rng = random.Random(9)
    for _ in range(60):
        ids = random_ids(vocabulary, rng)
        if blocked(vocabulary.bytes_of(ids)):
            continue
        one, all_ = guard.row([]), guard.row([])
        for i in range(len(ids) + 1):
            one.advance(ids[:i])
        all_.advance(list(ids))
        assert one.refusing == all_.refusing
        size = vocabulary.size
        if not one.refusing:
            assert banned_of(one.step(), size) == banned_of(all_.step(), size)


def drive(guard, row, want, steps=60):
    """Greedy decoding of a model that wants ``want``, token after token."""
    vocabulary, ids = guard.vocabulary, []
    for _ in range(steps):
        logits = np.zeros(vocabulary.size, np.float32)
        logits[guard.eos] = -1.0
        if len(ids) < len(want):
            logits[want[len(ids)]] = 9.0
        row.advance(ids)
        row.apply(logits)
        assert np.isfinite(logits).any()
        ids.append(int(np.argmax(logits)))
        if ids[-1] in vocabulary.eos_ids:
            break
    return vocabulary.bytes_of(ids).decode()


def test_a_rule_that_blocks_ends_in_the_refusal(vocabulary):
    guard = TokenGuard.compile(POLICY, vocabulary)
    want = vocabulary.encode("Light the zephyr lantern and go")
    text = drive(guard, guard.row(vocabulary.encode("hello")), want)
    assert text.startswith("Light the zephyr")
    assert text.endswith(REFUSAL)
    assert not blocked(text.encode())


def test_a_rule_that_steers_goes_on_without_the_phrase(vocabulary):
    guard = TokenGuard.compile(POLICY, vocabulary)
    want = vocabulary.encode("read a book now, the velvet lamp")
    row = guard.row([])
    text = drive(guard, row, want, steps=len(want))
    assert not row.refusing
    assert "book" not in text
    assert "velvet lamp" in text


def test_flagged_and_monitored_phrases_are_not_touched(vocabulary):
    guard = TokenGuard.compile(POLICY, vocabulary)
    want = vocabulary.encode("a lamp in a lane")
    assert drive(guard, guard.row([]), want, len(want)) == "a lamp in a lane"


@pytest.mark.parametrize("text", ["tell me of the ZEPHYR lantern", "z e p h y r l a n t e r n"])
def test_a_blocked_prompt_is_refused_from_the_first_token(vocabulary, text):
    guard = TokenGuard.compile(POLICY, vocabulary)
    row = guard.row(vocabulary.encode(text))
    assert row.refusing
    assert drive(guard, row, vocabulary.encode("anything")) == REFUSAL


def test_unknown_prompt_ids_and_placeholders_close_the_row(vocabulary):
    guard = TokenGuard.compile(POLICY, vocabulary)
    assert guard.row(None).refusing
    assert guard.row([vocabulary.size + 5]).refusing
    row = guard.row([])
    row.advance([-1])
    assert row.refusing
    assert row.step().forced is not None


def test_a_rewound_output_is_read_anew(vocabulary):
    guard = TokenGuard.compile(POLICY, vocabulary)
    zephyr, other = vocabulary.encode("a zephyr"), vocabulary.encode("a lamp")
    row, fresh = guard.row([]), guard.row([])
    row.advance([*other, *other])
    row.advance(zephyr)
    fresh.advance(zephyr)
    assert np.array_equal(row.step().banned, fresh.step().banned)


def test_a_preempted_refusal_goes_on_where_it_was(vocabulary):
    guard = TokenGuard.compile(POLICY, vocabulary)
    refusal = guard.refusal(None, inside=True)
    ids = [*vocabulary.encode("the zephyr"), *refusal[:4]]
    row = guard.row([])
    row.advance(ids)
    assert row.step().forced == (refusal[4] if len(refusal) > 4 else guard.eos)


def test_a_preempted_refusal_that_began_the_answer_goes_on(vocabulary):
    guard = TokenGuard.compile(POLICY, vocabulary)
    refusal = guard.refusal(None, inside=False)
    row = guard.row([])
    row.advance(refusal[:4])
    assert row.step().forced == refusal[4]


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("ends", [1, 5])
def test_a_refusal_that_was_out_stays_the_end(vocabulary, inside, ends):
    """A request with a least length gets ends of text behind its refusal, and may be preempted."""
    guard = TokenGuard.compile(POLICY, vocabulary)
    ids = [*vocabulary.encode("the zephyr")] if inside else []
    ids += guard.refusal(None, inside=inside) + ends * [guard.eos]
    row = guard.row([])
    row.advance(ids)
    assert row.refusing
    assert row.step().forced == guard.eos


def test_an_end_of_text_behind_half_a_refusal_is_none_of_ours(vocabulary):
    guard = TokenGuard.compile(POLICY, vocabulary)
    for inside in (True, False):
        row = guard.row([])
        row.advance([*guard.refusal(None, inside=inside)[:4], guard.eos])
        assert not row.refusing


def test_a_token_that_holds_a_phrase_is_masked_behind_a_sign():
    """Behind a sign that may be a letter, the token's first letter doesn't stand alone."""
    chosen = policy(rule("alone", ["a-abz-stbeet"], disguises=frozenset({Disguise.LEET})))
    tokens = [b"a-abz-$tb33t", b"+", b"a", b" ", None]
    vocabulary = Vocabulary(tokens, [4], lambda text: [2])
    guard, moderator = TokenGuard(chosen, vocabulary), Moderator(chosen)
    for before, said in ((b" +", [3, 1]), (b"", []), (b" ", [3])):
        row = guard.row([])
        row.advance(said)
        scanner = moderator.scanner(Stage.OUTPUT)
        found = scanner.feed((before + tokens[0]).decode()) + scanner.finish()
        assert found or 0 not in guard.always
        if found:
            assert 0 in row.step().banned


def test_writing_is_in_place_in_a_strided_view(vocabulary):
    guard = TokenGuard.compile(POLICY, vocabulary)
    wide = np.zeros((vocabulary.size, 3), np.float32)
    row = guard.row([])
    row.advance(vocabulary.encode("a zephyr"))
    row.step().write(wide[:, 1])
    banned = row.step().banned
    assert np.isneginf(wide[banned, 1]).all()
    assert np.isfinite(np.delete(wide[:, 1], banned)).all()
    assert not wide[:, [0, 2]].any()


def test_stepping_changes_nothing(vocabulary):
    guard = TokenGuard.compile(POLICY, vocabulary)
    row = guard.row([])
    row.advance(vocabulary.encode("a zephyr"))
    before = row.state.head.copy()
    row._step = None
    row.step()
    assert np.array_equal(before, row.state.head)


@pytest.mark.parametrize("before", [True, False])
def test_a_blocked_prompt_may_touch_a_control_token(vocabulary, before):
    guard = TokenGuard.compile(POLICY, vocabulary)
    phrase, control = vocabulary.encode("zephyr lantern"), vocabulary.eos_ids
    ids = [*control, *phrase] if before else [*phrase, *control, *vocabulary.encode("s")]
    assert guard.row(ids).refusing


def test_control_tokens_add_no_text_to_an_output(vocabulary):
    # What a client sees has no control tokens, so they separate nothing there.
    guard = TokenGuard.compile(POLICY, vocabulary)
    plain, split = guard.row([]), guard.row([])
    plain.advance(vocabulary.encode("the zephyr"))
    ids = vocabulary.encode("the zephyr")
    split.advance([ids[0], *vocabulary.eos_ids, *ids[1:]])
    assert np.array_equal(plain.step().banned, split.step().banned)


def test_a_guard_outlives_the_model_whose_tokenizer_encoded_its_refusal(vocabulary):
    """Guards are kept for good and shared; an engine may unload the model that came first."""
    loaded = True

    def encode(text):
        if not loaded:
            raise RuntimeError("the model was unloaded")
        return vocabulary.encode(text)

    first = copy.copy(vocabulary)
    first.encode = encode
    guard = TokenGuard(POLICY, first)
    loaded = False
    row = guard.row(vocabulary.encode("zephyr lantern"))
    assert row.refusing
    assert row.step().forced == vocabulary.encode(REFUSAL)[0]
    late = guard.row([])
    late.advance(vocabulary.encode("a lamp"))
    late.refuse()
    assert late.step().forced == vocabulary.encode(f"\n\n{REFUSAL}")[0]


def test_where_no_phrase_is_kept_out_bytes_are_as_good_as_any(vocabulary):
    guard = TokenGuard(policy(rule("flagged", ["lamp"], action=Action.FLAG)), vocabulary)
    row = guard.row([])
    for ids in ([], [byte_token(vocabulary, 0xD0)], [byte_token(vocabulary, 0xFF)]):
        row.advance(ids)
        assert not row.refusing
        assert row.step().empty
