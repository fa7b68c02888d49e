"""p(x) of one request, and whether the engine may begin before it is settled.

What is judged in well under a millisecond is judged first: a task of its own would cost more than
it saves, and a prompt that is refused costs the engine nothing. What takes longer (a long prompt, a
model's opinion) is judged while the engine already reads the prompt; until the verdict is in,
nothing of the engine's answer is looked at, let alone shown.
"""

from __future__ import annotations

import asyncio
import logging
import time

from prism.http.errors import HttpError, Unavailable
from prism.http.family import Call
from prism.http.pool import INLINE, Pool
from prism.record.metrics import Metrics
from prism.session import Session

_log = logging.getLogger("prism.http")


class Admission:
    """Settles once whether an answer may go out: :attr:`refused`, :attr:`error`, or neither."""

    def __init__(self, session: Session, call: Call, pool: Pool, metrics: Metrics) -> None:
        self._session = session
        self._call = call
        self._pool = pool
        self._metrics = metrics
        self._waits = session.waits(call.chars)  # for a model
        self._begun = time.perf_counter()
        self._answered: float | None = None  # when the engine had something to say
        self._known = asyncio.Event()
        self.told = False
        self.settled = False
        self.refused = False
        self.error: HttpError | None = None

    @property
    def quick(self) -> bool:
        """Whether judging takes no longer than arranging for it to be done beside the engine."""
        return self._call.chars <= INLINE and not self._waits

    async def judge(self, *, beside: bool = False) -> None:
        """Have the prompt judged. Whatever goes wrong is an :attr:`error`, never an admission.

        ``beside``: while the engine is at work.
        """
        call, session = self._call, self._session
        try:
            decision = await self._pool.run(
                call.chars, lambda: session.check_prompt(call.messages), waits=self._waits
            )
            self.refused = decision.blocked
        except HttpError as error:  # no room to judge it in
            self.error = error
        except Exception:
            _log.exception("judging a prompt failed; its answer is withheld")
            self._metrics.failure("judge")
            self.error = Unavailable(
                "the prompt could not be judged; try again", code="judge_failed", retry_after=1
            )
        now = time.perf_counter()
        saved = 0.0
        if beside and not self.refused and self.error is None:
            saved = min(now, self._answered or now) - self._begun
        self._metrics.admission(now - self._begun, beside=beside, saved=saved)
        self.settled = True

    def answering(self) -> None:
        """Note that the engine has begun to answer: from now on it waits for the verdict."""
        if self._answered is None:
            self._answered = time.perf_counter()

    async def wait(self) -> None:
        """Wait until the verdict is in and what follows from it is done."""
        await self._known.wait()

    def tell(self) -> None:
        """Let those go on who wait."""
        self.told = True
        self._known.set()
