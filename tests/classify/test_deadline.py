"""Model calls have a deadline each, and a bounded room to wait in."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time

import pytest
from tests.policies import policy, rule
from tests.scores import FakeEncoder, FakeGuard, models

from prism.classify import Busy, DeadlineError
from prism.classify.deadline import ModelPool
from prism.classify.models import ModelLimits
from prism.moderator import Moderator
from prism.types import Action, Stage, TierState

HARM = rule("harm", category="harm", thresholds={Stage.PROMPT: 0.8, Stage.OUTPUT: 0.8})


class Gate:
    """Work that begins, says so, and goes on when it is let."""

    def __init__(self):
        self.begun, self.open = threading.Semaphore(0), threading.Event()

    def __call__(self):
        self.begun.release()
        self.open.wait(60)
        return "done"


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.open.set()


def beside(work):
    """Run ``work`` in a thread; return the thread and where its outcome will be."""
    outcome = []

    def run():
        try:
            outcome.append(work())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def test_the_answer_and_the_error_come_back():
    pool = ModelPool(1, 0)
    assert pool.run(lambda: 42, 5) == 42
    with pytest.raises(ZeroDivisionError):
        pool.run(lambda: 1 // 0, 5)

    def late():
        raise TimeoutError("the model's own")

    with pytest.raises(TimeoutError, match="the model's own"):
        pool.run(late, 5)
    assert pool.run(lambda: 43, 5) == 43
    assert pool.inside == 0


def test_work_is_done_in_as_many_threads_as_there_is_work():
    pool = ModelPool(3, 10)
    barrier = threading.Barrier(3)
    threads = [beside(lambda: pool.run(lambda: barrier.wait(60), 60)) for _ in range(3)]
    for thread, _ in threads:
        thread.join()
    assert sorted(outcome[0] for _, outcome in threads) == [0, 1, 2]


def test_a_late_answer_is_none(gate):
    pool = ModelPool(1, 1)
    with pytest.raises(DeadlineError, match=r"no answer within 0\.05 s"):
        pool.run(gate, 0.05)
    assert pool.inside == 1  # the thread is still at it
    # What only waited is dropped, not done later.
    done = []
    with pytest.raises(DeadlineError):
        pool.run(lambda: done.append(1), 0.05)
    gate.open.set()
    assert pool.run(lambda: "next", 10, patient=True) == "next"
    assert done == []


def test_a_full_room_turns_away_and_comes_free_again(gate):
    pool = ModelPool(1, 1)
    first, one = beside(lambda: pool.run(gate, 20))
    assert gate.begun.acquire(timeout=60)
    second, two = beside(lambda: pool.run(lambda: "second", 20))
    while pool.inside < 2:
        time.sleep(0.001)
    with pytest.raises(Busy, match="try again"):
        pool.run(lambda: "third", 20)
    with pytest.raises(DeadlineError, match="came free"):
        pool.run(lambda: "third", 0.05, patient=True)
    patient, three = beside(lambda: pool.run(lambda: "third", 20, patient=True))
    gate.open.set()
    for thread in (first, second, patient):
        thread.join()
    assert (one, two, three) == (["done"], ["second"], ["third"])


def test_a_forked_process_has_threads_of_its_own():
    pool = ModelPool(1, 0)
    assert pool.run(os.getpid, 10) == os.getpid()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=lambda: theirs.send(pool.run(os.getpid, 10)))
    child.start()
    assert ours.poll(20)
    assert ours.recv() == child.pid
    child.join()


@pytest.mark.parametrize("on_tier_failure", ["close", "open"])
@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("tier", ["encoder", "guard"])
def test_a_model_that_is_late_has_failed(gate, tier, stage, on_tier_failure):
    slow = models(
        encoder=FakeEncoder(during=gate) if tier == "encoder" else FakeEncoder(),
        guard=FakeGuard(during=gate) if tier == "guard" else FakeGuard(),
        limits=ModelLimits(deadline_ms=50),
        guard_deadline=-0.95,  # and the second that a guard is given on top
    )
    tiers = ("sketch", "encoder", "guard")
    moderator = Moderator(policy(HARM, tiers=tiers, on_tier_failure=on_tier_failure), slow)
    check = moderator.check_prompt if stage is Stage.PROMPT else moderator.check_output
    decision = check("[s5] [e5] [g5]")
    assert decision.tiers[f"{stage.value}.{tier}"] is TierState.FAILED
    assert decision.action is (Action.BLOCK if on_tier_failure == "close" else Action.FLAG)
    assert decision.scores["harm"] == pytest.approx(0.5)  # the word of those that are left


def test_a_prompt_is_turned_away_where_an_answer_waits(gate):
    made = models(
        encoder=FakeEncoder(during=gate),
        limits=ModelLimits(workers=1, waiting=0, deadline_ms=60_000),
    )
    moderator = Moderator(policy(HARM, tiers=("sketch", "encoder")), made)
    first, one = beside(lambda: moderator.check_prompt("[s5]"))
    assert gate.begun.acquire(timeout=60)
    with pytest.raises(Busy):
        moderator.check_prompt("[s5]")
    assert not moderator.check_prompt("a mild text").blocked  # the sketch settles it
    second, two = beside(lambda: moderator.check_output("[s5] [e9]"))
    gate.open.set()
    first.join()
    second.join()
    assert not one[0].blocked
    assert two[0].blocked
