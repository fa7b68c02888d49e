"""Model calls in a few threads, each with a deadline and all with a bounded waiting room.

A thread that is late can't be stopped, only left alone: its place stays taken until it comes back,
so a model that hangs fills the room, and the room turns people away instead of growing.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

T = TypeVar("T")
_Job = tuple["Future[Any]", Callable[[], Any]]


class Busy(Exception):
    """Every model thread and every waiting place is taken; try again soon."""


class DeadlineError(TimeoutError):
    """A model did not answer in time."""


class ModelPool:
    """``workers`` threads, started when first needed, and ``waiting`` places to wait in."""

    def __init__(self, workers: int, waiting: int, name: str = "prism-model") -> None:
        self._workers = workers
        self._room = workers + waiting
        self._name = name
        self._begin()
        _pools.add(self)

    def _begin(self) -> None:
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._free = threading.Condition()
        self._inside = 0
        self._started = 0

    @property
    def inside(self) -> int:
        """How many calls run or wait."""
        return self._inside

    def run(self, work: Callable[[], T], deadline: float, *, patient: bool = False) -> T:
        """Return ``work()``, done in another thread.

        ``deadline`` in seconds counts the waiting too. ``patient``: wait for room until then;
        otherwise raises ``Busy`` at once. Raises ``DeadlineError``, and what ``work`` raises.
        """
        end = time.monotonic() + deadline
        future: Future[T] = Future()
        self._enter(end if patient else None)
        self._jobs.put((future, work))
        try:
            return future.result(max(0.0, end - time.monotonic()))
        except FutureTimeout:
            if future.done():  # the work's own exception, or an answer in the last moment
                return future.result()
            future.cancel()  # not begun: the worker will drop it
            raise DeadlineError(f"no answer within {deadline:g} s") from None

    def _enter(self, end: float | None) -> None:
        with self._free:
            while self._inside >= self._room:
                left = 0.0 if end is None else end - time.monotonic()
                if end is None:
                    raise Busy("every model thread is busy and nobody else may wait; try again")
                if left <= 0:
                    raise DeadlineError("no model thread came free in time")
                self._free.wait(left)
            self._inside += 1
            if self._started < min(self._workers, self._inside):
                self._started += 1
                # Daemons: a model that hangs must not keep the process from ending.
                name = f"{self._name}-{self._started}"
                threading.Thread(target=self._serve, name=name, daemon=True).start()

    def _serve(self) -> None:
        while True:
            future, work = self._jobs.get()
            result: Any = None
            failure: BaseException | None = None
            begun = future.set_running_or_notify_cancel()
            if begun:
                try:
                    result = work()
                except BaseException as error:
                    failure = error
            with self._free:  # before the answer: who has it may ask again at once
                self._inside -= 1
                self._free.notify()
            if failure is not None:
                future.set_exception(failure)
            elif begun:
                future.set_result(result)
            del future, work, result, failure


_pools: weakref.WeakSet[ModelPool] = weakref.WeakSet()


def _begin_all() -> None:
    for pool in list(_pools):
        pool._begin()


# A forked process has none of its parent's threads, and would wait for them in vain.
os.register_at_fork(after_in_child=_begin_all)
