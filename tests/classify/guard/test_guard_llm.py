"""A guard put together: rounds, batches, what is asked only once, and what failure does."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Sequence
from math import log

import pytest

from prism.classify.guard import (
    GuardError,
    GuardInput,
    GuardLimits,
    GuardTimeout,
    GuardUnreachable,
    GuardUnreadable,
    LlmGuard,
)
from prism.classify.guard.cache import KeyedCache
from prism.classify.guard.formats import FORMATS
from prism.classify.guard.types import Ask, Completion


class Scripted:
    """A back end that answers as a test says, and keeps the batches that it was asked."""

    def __init__(self, answer: Callable[[Ask], Completion]) -> None:
        self.answer = answer
        self.batches: list[list[Ask]] = []
        self.until: list[float] = []
        self.closed = False

    def complete(self, asks: Sequence[Ask], until: float) -> list[Completion]:
        self.batches.append(list(asks))
        self.until.append(until)
        return [self.answer(ask) for ask in asks]

    def close(self) -> None:
        self.closed = True


def by_word(ask: Ask) -> Completion:
    """Unsafe, by category 2, where the lantern is spoken of."""
    if ask.answers == ("safe", "unsafe"):
        bad = 0.9 if "lantern" in ask.prompt else 0.01
        return Completion("", {"unsafe": log(bad), "safe": log(1 - bad)})
    return Completion("", {"2": 0.0})


def user(text: str, *rules: tuple[str, str]) -> GuardInput:
    return GuardInput((("user", text),), rules=rules)


@pytest.fixture
def backend() -> Scripted:
    return Scripted(by_word)


@pytest.fixture
def guard(backend: Scripted) -> LlmGuard:
    return LlmGuard(FORMATS["llama-guard-3"], backend, GuardLimits(deadline=60))


def test_items_come_back_in_order(guard):
    judged = guard.judge([user("zephyr"), user("lantern"), user("wind")])
    assert [round(g.scores["harm"], 2) for g in judged] == [0.01, 0.9, 0.01]
    assert judged[1].scores["ncr"] == pytest.approx(0.9)
    assert guard.judge([]) == []


def test_a_round_is_one_batch(guard, backend):
    guard.judge([user("zephyr"), user("lantern"), user("another lantern")])
    assert [len(batch) for batch in backend.batches] == [3, 2]


def test_the_same_conversation_is_asked_once(guard, backend):
    twice = guard.judge([user("zephyr"), user("zephyr")])
    assert twice[0] == twice[1]
    assert [len(batch) for batch in backend.batches] == [1]
    assert guard.judge([user("zephyr")]) == twice[:1]
    assert len(backend.batches) == 1
    assert (guard.hits, guard.misses) == (1, 1)


def test_who_said_it_makes_a_difference(guard, backend):
    guard.judge([user("zephyr"), GuardInput((), "zephyr"), GuardInput((("user", "x"),), "zephyr")])
    assert [len(batch) for batch in backend.batches] == [3]


def test_rules_are_judged_beside_the_categories(guard, backend):
    item = user("of a lantern", ("kites", "No kites."), ("lamps", "No lamps."))
    (judged,) = guard.judge([item])
    assert dict(judged.rules) == pytest.approx({"kites": 0.9, "lamps": 0.9})
    assert [len(batch) for batch in backend.batches] == [3, 1]
    # Another rule id with the same words, and one more rule: only that is new.
    guard.judge([user("of a lantern", ("toys", "No kites."), ("fire", "No fire."))])
    assert [len(batch) for batch in backend.batches] == [3, 1, 1]


def test_a_long_text_has_the_worst_of_its_windows(backend):
    guard = LlmGuard(FORMATS["llama-guard-3"], backend, GuardLimits(deadline=60, window=200))
    (judged,) = guard.judge([user(f"{list(range(300))} lantern", ("kites", "No kites."))])
    assert judged.scores["harm"] == pytest.approx(0.9)
    assert judged.rules["kites"] == pytest.approx(0.9)
    assert len(backend.batches[0]) > 10


def test_a_format_without_rules(backend):
    guard = LlmGuard(FORMATS["wildguard"], backend)
    assert not guard.takes_rules
    with pytest.raises(GuardError, match="wildguard can't judge plain-language rules"):
        guard.judge([user("zephyr", ("kites", "No kites."))])
    assert not backend.batches


def test_the_deadline_reaches_the_back_end_and_ends_between_rounds(backend):
    guard = LlmGuard(FORMATS["llama-guard-3"], backend, GuardLimits(deadline=0.05))

    def slow(ask: Ask) -> Completion:
        time.sleep(0.1)
        return by_word(ask)

    backend.answer = slow
    start = time.monotonic()
    with pytest.raises(GuardTimeout, match=r"within 0\.05 s"):
        guard.judge([user("lantern")])
    assert len(backend.batches) == 1
    assert start < backend.until[0] <= time.monotonic()


def test_what_was_settled_before_an_error_is_not_asked_again(guard, backend):
    def fails_on_lanterns(ask: Ask) -> Completion:
        if not ask.prompt.endswith("\n\n"):
            raise GuardTimeout("late")
        return by_word(ask)

    backend.answer = fails_on_lanterns
    with pytest.raises(GuardTimeout):
        guard.judge([user("zephyr"), user("lantern")])
    guard.judge([user("zephyr")])
    assert [len(batch) for batch in backend.batches] == [2, 1]
    backend.answer = by_word
    assert guard.judge([user("lantern")])[0].scores["harm"] == pytest.approx(0.9)


def test_an_answer_that_cant_be_read_is_an_error_and_is_not_kept(guard, backend):
    backend.answer = lambda _: Completion("zephyr", {"zephyr": 0.0})
    for _ in range(2):
        with pytest.raises(GuardUnreadable):
            guard.judge([user("zephyr")])
    assert len(backend.batches) == 2


def test_a_back_end_that_loses_answers_is_found_out(guard, backend):
    backend.complete = lambda asks, until: []
    with pytest.raises(GuardUnreadable, match="1 questions, 0 answers"):
        guard.judge([user("zephyr")])


def test_whatever_a_back_end_raises_is_a_guard_error(guard, backend):
    def breaks(ask: Ask) -> Completion:
        raise ZeroDivisionError("zephyr lantern")

    backend.answer = breaks
    with pytest.raises(GuardUnreachable, match=r"^the guard failed: ZeroDivisionError$"):
        guard.judge([user("zephyr")])


def test_threads_share_a_guard(guard):
    found: list[float] = []

    def ask(number: int) -> None:
        text = "lantern" if number % 2 else "zephyr"
        found.append(round(guard.judge([user(f"{text} {number // 4}")])[0].scores["harm"], 2))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0.01] * 20 + [0.9] * 20


def test_close_and_name(guard, backend):
    assert guard.name == "llama-guard-3"
    assert guard.takes_rules
    assert guard.categories[0] == "harm"
    assert LlmGuard(FORMATS["wildguard"], backend, name="second").name == "second"
    guard.close()
    assert backend.closed


# -- the cache


def test_the_cache_is_bounded_and_forgets_the_unused():
    cache: KeyedCache[int] = KeyedCache(2)
    one, two, three = (cache.key([word]) for word in ("one", "two", "three"))
    cache.put(one, 1)
    cache.put(two, 2)
    assert cache.get(one) == 1
    cache.put(three, 3)
    assert (cache.get(one), cache.get(two), cache.get(three)) == (1, None, 3)
    assert len(cache) == 2


def test_a_cache_of_nothing():
    cache: KeyedCache[int] = KeyedCache(0)
    cache.put(cache.key(["x"]), 1)
    assert cache.get(cache.key(["x"])) is None


def test_keys_are_of_this_process_and_of_the_parts_as_they_are():
    here: KeyedCache[int] = KeyedCache(9)
    there: KeyedCache[int] = KeyedCache(9)
    assert here.key(["a", "b"]) == here.key(["a", "b"])
    assert here.key(["a", "b"]) != there.key(["a", "b"])
    assert len({here.key(parts) for parts in (["ab"], ["a", "b"], ["", "ab"], ["ab", ""])}) == 4
    assert here.key(["\ud800"])  # half a pair: text that a client may send


def test_a_guard_keeps_no_text(guard):
    marker = "zephyr lantern " + "of a kind " * 3
    guard.judge([user(marker)])
    gc.collect()
    entries = guard._cache._entries
    assert entries
    assert all(type(key) is bytes and len(key) == 32 for key in entries)
    assert marker not in repr(entries)
