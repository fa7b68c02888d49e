"""A model that would go in circles around a phrase is set back, and nothing handed out is lost.

The engine here is a few lines: a model made of a list of wishes, greedy, that can take tokens back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policies import REFUSAL, policy, rule

from prism.policy.compiled import CompiledPolicy
from prism.steer.circles import WATCHED
from prism.steer.guard import TokenGuard
from prism.steer.rewind import HELD, MOST, TRIES, Rewinder
from prism.steer.state import State
from prism.steer.vocabulary import Vocabulary
from prism.types import Action

POLICY = policy(rule("lantern", ["zephyr lantern"], action=Action.STEER))
Wish = Callable[[list[int]], Sequence[int]]
"""From the output so far to the tokens that the model would like to say next, best first."""


class Engine:
    """Decodes greedily, holds back and goes back as the rewinder says."""

    def __init__(self, vocabulary: Vocabulary, want: Wish, rules: CompiledPolicy = POLICY) -> None:
        self.guard = TokenGuard(rules, vocabulary)
        self.vocabulary = vocabulary
        self.want = want
        self.row = self.guard.row([])
        self.rewinder = Rewinder(vocabulary)
        self.forbidden: dict[int, set[int]] = {}
        self.handed: list[int] = []
        self.back: list[int] = []
        self.most_held = 0

    def run(self, steps: int) -> str:
        output: list[int] = []
        for _ in range(steps):
            token = self.sample(output)
            output.append(token)
            if self.row.refusing:
                self.rewinder.give_up()
            self.handed += self.rewinder.push(token)
            self.most_held = max(self.most_held, self.rewinder.held)
            if (place := self.rewinder.place) is not None:
                assert place.length >= len(self.handed)  # what is out is never taken back
                assert output[place.length] == place.token
                self.back.append(place.length)
                self.forbidden.setdefault(place.length, set()).add(place.token)
                output = output[: place.length]
                self.rewinder.rewind()
                self.row.rewind(output)
            assert self.handed == output[: len(self.handed)]
            assert len(self.handed) + self.rewinder.held == len(output)
            if token in self.vocabulary.eos_ids:
                assert not self.rewinder.held
                break
        self.handed += self.rewinder.stop()
        assert self.handed == output
        return self.vocabulary.bytes_of(output).decode("utf-8", "replace")

    def sample(self, output: list[int]) -> int:
        self.row.advance(output)
        logits = np.zeros(self.vocabulary.size, np.float32)
        logits[self.guard.eos] = 1.0
        for rank, token in enumerate(self.want(output)):
            logits[token] = max(logits[token], 100.0 - rank)
        logits[list(self.forbidden.get(len(output), ()))] = -np.inf
        if self.row.apply(logits):
            self.rewinder.kept_from(self.row.state, len(output))
        return int(np.argmax(logits))


class Stubborn(Engine):
    """Says the same over and over, and doesn't mind what is forbidden."""

    def __init__(self, vocabulary: Vocabulary, said: str) -> None:
        self.cycle = vocabulary.encode(said)
        lantern = vocabulary.encode(" lantern")[0]
        super().__init__(vocabulary, lambda output: [lantern, self.next(output)])

    def next(self, output: list[int]) -> int:
        return self.cycle[len(output) % len(self.cycle)]

    def sample(self, output: list[int]) -> int:
        token = super().sample(output)
        return token if self.row.refusing else self.next(output)


def looping(vocabulary: Vocabulary, begin: str, *others: str) -> Wish:
    """Want ``begin`` and the phrase's end; kept from that, a comma and all again.

    Kept from the beginning, the model says one of ``others``.
    """
    start, *ways = [vocabulary.encode(text) for text in (begin, *others)]
    (comma,), lantern = vocabulary.encode(","), vocabulary.encode(" lantern")[0]

    def want(output: list[int]) -> list[int]:
        ends = [i for i, token in enumerate(output) if token == comma]
        word = output[ends[-1] + 1 :] if ends else output
        wanted = [lantern] if word == start else []
        wanted += [
            way[len(word)]
            for way in (start, *ways)
            if len(way) > len(word) and way[: len(word)] == word
        ]
        return [*wanted, comma] if word else wanted

    return want


def test_a_loop_is_left_where_the_phrase_begins(vocabulary):
    engine = Engine(vocabulary, looping(vocabulary, " zephyr", " lamp"))
    text = engine.run(60)
    # Twice it was said before it was known to be a circle; never again.
    assert text.startswith(" zephyr, zephyr, lamp, ")
    assert text.count("zephyr") - text.count("zephyr, zephyr") <= 3
    assert "zephyr lantern" not in text
    assert REFUSAL not in text
    assert engine.back


def test_another_spelling_of_the_beginning_is_forbidden_too(vocabulary):
    engine = Engine(vocabulary, looping(vocabulary, " zephyr", " Zephyr", " z3phyr", " lamp"))
    text = engine.run(40)
    assert text.startswith(" zephyr, zephyr, lamp, ")
    assert len(set(engine.back)) < len(engine.back)  # several tokens at one place


def test_who_has_nothing_else_to_say_is_stopped_as_before(vocabulary):
    engine = Stubborn(vocabulary, " zephyr,")
    text = engine.run(400)
    assert len(engine.back) == MOST
    assert max(engine.back.count(place) for place in engine.back) == TRIES
    assert text.endswith(f"\n\n{REFUSAL}")
    assert "lantern" not in text


def test_ordinary_text_is_held_for_nothing(vocabulary):
    words = vocabulary.encode(" the zephyr shone on the zephyr, the zephyr, the zephyr, the zephyr")
    engine = Engine(vocabulary, lambda output: words[len(output) :][:1])
    text = engine.run(100)
    assert text == " the zephyr shone on the zephyr, the zephyr, the zephyr, the zephyr"
    assert engine.most_held == 0
    assert not engine.back


def test_a_model_that_repeats_something_else_goes_on(vocabulary):
    first = vocabulary.encode(" zephyr")
    lantern, again = vocabulary.encode(" lantern")[0], vocabulary.encode(" lamp,")
    engine = Engine(
        vocabulary,
        lambda output: (
            first[len(output) :][:1]
            or ([lantern] if len(output) == len(first) else [])
            + [again[(len(output) - len(first)) % len(again)]]
        ),
    )
    text = engine.run(WATCHED)
    assert not engine.back
    assert text.count("lamp") > 8


def test_who_comes_back_another_way_each_time_is_left_alone(vocabulary):
    phrase = vocabulary.encode(" zephyr lantern")
    words = [vocabulary.encode(f" {n} the zephyr") for n in range(20)]
    lantern = phrase[len(vocabulary.encode(" zephyr"))]

    def want(output: list[int]) -> list[int]:
        at = 0
        for word in words:
            if len(output) < at + len(word):
                return [word[len(output) - at]]
            at += len(word)
            if len(output) == at:
                return [lantern, vocabulary.encode(",")[0]]
            at += 1
        return []

    engine = Engine(vocabulary, want)
    text = engine.run(400)
    assert not engine.back
    assert text.count("zephyr") == len(words)


def test_the_watch_ends(vocabulary):
    rewinder, state = Rewinder(vocabulary), State(TokenGuard(POLICY, vocabulary).output)
    state.feed(vocabulary, np.array(vocabulary.encode(" zephyr"), np.int64))
    rewinder.kept_from(state, 5)
    begun = vocabulary.encode(" zeph")
    comma = vocabulary.encode(",")
    for token in (comma * WATCHED)[:WATCHED]:
        assert rewinder.push(token) == [token]
    held = [rewinder.push(token) for token in begun]
    assert [token for tokens in held for token in tokens] == begun
    assert rewinder.held == 0


def test_what_is_held_comes_out_once_and_in_order_at_every_end(vocabulary):
    guard = TokenGuard(POLICY, vocabulary)
    begun = vocabulary.encode("zeph")
    lead = vocabulary.encode(", x, ")

    def watching() -> Rewinder:
        rewinder, state = Rewinder(vocabulary), guard.row([]).state
        state.feed(vocabulary, np.array(vocabulary.encode(" zephyr"), np.int64))
        rewinder.kept_from(state, 3)
        for token in lead:
            assert rewinder.push(token) == [token]
        for token in begun:
            assert rewinder.push(token) == []
        assert rewinder.held == len(begun)
        return rewinder

    other = vocabulary.encode(" q")
    (eos,) = vocabulary.eos_ids
    assert watching().stop() == begun
    assert watching().push(eos) == [*begun, eos]
    going = watching()
    assert [t for token in other for t in going.push(token)] == [*begun, *other]
    assert going.stop() == []
    refusing = watching()
    refusing.give_up()
    assert refusing.push(other[0]) == [*begun, other[0]]
    assert refusing.push(other[0]) == [other[0]]


def test_no_more_is_held_than_the_bound(vocabulary):
    guard, rewinder = TokenGuard(POLICY, vocabulary), Rewinder(vocabulary)
    state = guard.row([]).state
    state.feed(vocabulary, np.array(vocabulary.encode(" zephyr"), np.int64))
    rewinder.kept_from(state, 1)
    out: list[int] = []
    stretched = [*vocabulary.encode(", zeph"), *vocabulary.encode("h") * (2 * HELD)]
    for token in stretched:  # a letter said over and over keeps the attempt open
        out += rewinder.push(token)
        assert rewinder.held <= HELD
    assert rewinder.held == HELD
    assert out + rewinder.stop() == stretched


def test_no_character_is_cut_in_two(vocabulary):
    assert len(vocabulary.encode("é")) == 2  # bytes
    engine = Engine(
        vocabulary,
        looping(vocabulary, " éclair", " lamp", " ela"),
        policy(rule("lantern", ["éclair lantern"], action=Action.STEER)),
    )
    text = engine.run(80)
    assert engine.back
    assert text.startswith(" éclair, éclair, ")
    assert "\ufffd" not in text[:-1]  # it ends where the last step does
    assert text.count("éclair") == 2


def test_nothing_open_is_nothing_to_go_back_to(vocabulary):
    # A phrase that one token holds whole: the mask is at its start already.
    rewinder = Rewinder(vocabulary)
    rewinder.kept_from(State(TokenGuard(POLICY, vocabulary).output), 0)
    for token in vocabulary.encode(" the, the, the, the, the, the,"):
        assert rewinder.push(token) == [token]


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_whatever_is_wanted_the_text_is_sound(vocabulary, data):
    pieces = ["zephyr", " ze", "phyr", " lantern", ",", " and", " lan", " Zephyr", "z3phyr"]
    cycle = data.draw(st.lists(st.sampled_from(pieces), min_size=1, max_size=5))
    flat = [token for piece in cycle for token in vocabulary.encode(piece)]
    more = data.draw(st.lists(st.sampled_from(flat), max_size=4))
    engine = Engine(vocabulary, lambda output: [flat[len(output) % len(flat)], *more])
    engine.run(WATCHED)
    judge = State(engine.guard.output)
    assert not judge.feed(vocabulary, np.array(engine.handed, np.int64))
    assert not judge.end()
    assert len(engine.back) <= MOST
