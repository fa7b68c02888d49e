"""Long scans leave the event loop, and there is only so much room to wait.

A prompt of a megabyte takes tens of milliseconds; while one thread works on it the loop goes on
serving everybody else's tokens. When the waiting room is full a request is turned away (503 with
Retry-After): back-pressure, never an unmoderated answer.

What may wait for a model leaves the loop, too, whatever its length. Such threads do nothing but
wait; how many models may run at once, and for how long, is theirs to say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from prism.classify.deadline import Busy
from prism.http.errors import Unavailable

T = TypeVar("T")

INLINE = 8_192
"""Characters that are judged right on the event loop: well under a millisecond."""

WAITING = 64
"""Threads that wait for models."""


class Pool:
    """A few threads and a bounded waiting room."""

    def __init__(self, workers: int = 2, waiting: int = 32) -> None:
        self._workers = workers
        self._room = workers + waiting
        self._inside = 0
        self._limiter: anyio.CapacityLimiter | None = None
        self._waiters: anyio.CapacityLimiter | None = None

    async def run(
        self, size: int, work: Callable[[], T], *, patient: bool = False, waits: bool = False
    ) -> T:
        """Return ``work()``; in a thread if ``size`` is large, or if it ``waits`` for a model.

        ``patient`` is for answers that have begun: they wait (and slow the engine down) instead
        of being turned away.
        """
        if waits:
            if self._waiters is None:
                self._waiters = anyio.CapacityLimiter(WAITING)
            try:
                return await anyio.to_thread.run_sync(work, limiter=self._waiters)
            except Busy:
                raise Unavailable(
                    "every model that judges is busy; try again soon",
                    code="judges_busy",
                    retry_after=1,
                ) from None
        if size <= INLINE:
            return work()
        if self._inside >= self._room and not patient:
            raise Unavailable(
                "too many long texts are being judged; try again soon",
                code="judges_busy",
                retry_after=1,
            )
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._workers)
        self._inside += 1
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._limiter)
        finally:
            self._inside -= 1
