"""One request's session, as API families use it. It never lets an error out as text."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable
from hmac import HMAC
from typing import TYPE_CHECKING, Literal

from prism.record.metrics import Metrics
from prism.types import Action, Decision

if TYPE_CHECKING:
    from prism.session import Session

_log = logging.getLogger("prism.http")

_MOST_ERRORS = 10_000
# Characters of errors in one answer; what is beyond them is withheld.

_GOES_ON = re.compile(
    r'"(?:finish_reason|stop_reason|done_reason)"\s*:\s*null'
    r'|"(?:done|stop)"\s*:\s*false'
    r'|"type"\s*:\s*"(?:content_block_delta|content-delta|response\.\w+\.delta)"'
)
_ENDS = re.compile(r'"(?:finish_reason|stop_reason|done_reason)"\s*:\s*"')


def may_end(data: str) -> bool:
    """Whether an event of a stream may be a channel's last, as far as a glance can tell.

    A wrong guess changes no verdict: it decides in which thread the event is judged.
    """
    return _GOES_ON.search(data) is None or _ENDS.search(data) is not None


class Judge:
    """q(Y) for one answer. ``feed`` and ``finish`` return what may go out now."""

    def __init__(
        self,
        session: Session,
        *,
        check: Callable[[str], Decision],
        refusals: tuple[str, ...] = (),
        keep_alternatives: bool = False,
        metrics: Metrics,
        fingerprint: Callable[[], HMAC] | None = None,
    ) -> None:
        self.session = session
        self._check = check
        self.message = session.message
        self.keep_alternatives = keep_alternatives
        self.blocked: set[int] = set()
        self.refused: set[int] = set()  # choices that the token layer refused
        self.scanned: Counter[str] = Counter()  # characters per kind of channel
        self.held = 0
        self._refusals = tuple(text for text in refusals if text)
        self._tail = max(map(len, self._refusals), default=0)
        self._tails: dict[tuple[int, str], str] = {}
        self._metrics = metrics
        self._fingerprint = fingerprint
        self._prints: dict[tuple[int, str], HMAC] = {}
        self._wait = True
        self._errors = ""  # texts of errors that went out
        self.never_waits = session.never_waits

    def waits(self, chars: int, *, ends: bool = True) -> bool:
        """Whether judging ``chars`` more characters may wait for a model: then do it in a thread.

        ``ends``: whether a channel may end with them. What is fed after an answer of no never
        waits, until this is asked again.
        """
        self._wait = self.session.waits(chars, ends=ends)
        return self._wait

    def feed(self, choice: int, channel: str, text: str) -> str:
        """Judge the next piece of a channel."""
        kind = channel.rpartition(".")[2]
        self.scanned[kind] += len(text)
        return self._release(choice, channel, text)

    def token(self, choice: int, channel: str, data: bytes) -> str | Literal[True] | None:
        """Do ``feed`` with a few characters of ASCII, sooner, where that can be.

        Returns ``None`` where ``feed`` has to judge them: nobody has. ``True``: all may go out.
        """
        if choice in self.blocked:
            return None
        session = self.session
        try:
            released = session.token(data, choice, channel)
        except Exception:  # whatever it was, unjudged text stays here
            return self._failed(choice)
        if released is None:
            return None
        kind = channel if "." not in channel else channel.rpartition(".")[2]
        self.scanned[kind] += len(data)
        if released is True:
            if self._fingerprint is not None or self._tail:
                self._told(choice, channel, data.decode("ascii"))
            return True
        self.held += max(0, len(data) - len(released))
        if session.blocked(choice):
            self.blocked.add(choice)
        if released:
            self._told(choice, channel, released)
        return released

    def finish(self, choice: int, channel: str) -> str:
        """Judge the end of a channel."""
        return self._release(choice, channel, None)

    def scan(self, choice: int, channel: str, text: str) -> str:
        """Judge a channel that comes whole."""
        return self.feed(choice, channel, text) + self.finish(choice, channel)

    def passes(self, text: str) -> bool:
        """Whether a text outside the answer proper (an error) may go out as it is."""
        try:
            return self._check(text).action < Action.REDACT
        except Exception:
            _log.exception("judging an error failed; it is withheld")
            self._metrics.failure("judge")
            return False

    def allows(self, text: str) -> bool:
        """Whether a few words around the answer (a header, a stop string) may go out."""
        try:
            return self.session.allows(text)
        except Exception:
            _log.exception("judging words around an answer failed; they are withheld")
            self._metrics.failure("judge")
            return False

    def passes_error(self, text: str) -> bool:
        """Whether an error's text may go out, together with those of errors before it."""
        together = "\n".join(filter(None, (self._errors, text)))
        if len(self._errors) > _MOST_ERRORS or not self.passes(together):
            return False
        self._errors = together
        return True

    def ends_in_refusal(self, choice: int) -> bool:
        """Whether a channel of the choice ends in exactly a refusal that the token layer forces."""
        return any(
            tail.endswith(self._refusals)
            for (index, _), tail in self._tails.items()
            if index == choice
        )

    def fingerprints(self) -> dict[str, str]:
        """Return, per choice and channel, the keyed fingerprint of the text that was released."""
        return {
            f"{choice}.{channel}": made.hexdigest()
            for (choice, channel), made in self._prints.items()
        }

    def refuse(self, choice: int) -> None:
        """Note that the token layer refused the choice."""
        self.refused.add(choice)
        self.session.block(choice)

    def block(self, choice: int) -> None:
        """Stop the choice for a reason that its family has."""
        self.blocked.add(choice)
        self.session.block(choice)

    def _release(self, choice: int, channel: str, text: str | None) -> str:
        if choice in self.blocked:
            return ""
        session = self.session
        try:
            if text is None:
                released = session.end(choice, channel)
            else:
                released = session.flow(text, choice, channel, wait=self._wait)
                if len(released) < len(text):
                    self.held += len(text) - len(released)
        except Exception:  # whatever it was, unjudged text stays here
            return self._failed(choice)
        if session.blocked(choice):
            self.blocked.add(choice)
        if released:
            self._told(choice, channel, released)
        return released

    def _failed(self, choice: int) -> str:
        _log.exception("judging an answer failed; it is withheld")
        self._metrics.failure("judge")
        self.blocked.add(choice)
        return ""

    def _told(self, choice: int, channel: str, text: str) -> None:
        """Note what goes out."""
        if self._fingerprint is not None:
            made = self._prints.setdefault((choice, channel), self._fingerprint())
            made.update(text.encode("utf-8", "surrogatepass"))
        if self._tail:
            key = (choice, channel)
            self._tails[key] = (self._tails.get(key, "") + text)[-self._tail :]
