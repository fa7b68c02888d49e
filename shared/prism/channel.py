"""One channel of one choice of an answer: what was read of it, what of that is still held back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prism.classify.checkpoints import Checkpoints
from prism.match import Scanner
from prism.types import Match

REDACTED = "[redacted]"


@dataclass(slots=True)
class Channel:
    """The text of a channel that may not go out yet. Offsets are code points of the channel."""

    scanner: Scanner
    marks: Checkpoints | None = None
    held: str = ""
    base: int = 0  # offset of held[0]
    unread: str = ""  # the end of held: it waits for a checkpoint before it to be settled
    redactions: list[tuple[int, int]] | None = None
    failed: bool = False
    plain: bool = False  # patterns alone read it, and have begun to

    def token(self, data: bytes) -> list[Match] | Literal[True] | None:
        """Let patterns read a few characters of ASCII, where that can be done sooner than others.

        Returns what they found, or ``None`` where nothing was read. ``True``: nothing is held, and
        what was read may go out.
        """
        try:
            matches = self.scanner.token(data)
        except Exception:
            self.held += data.decode("ascii")  # for a policy that opens on failure
            raise
        if matches is None:
            return None
        if matches is True and not self.held and not self.redactions:
            self.base += len(data)
            return True
        self.held += data.decode("ascii")
        return [] if matches is True else matches

    def flow(self) -> str:
        """Cut what patterns, which found nothing more, don't hold."""
        limit, end = self.scanner.hold_from, self.base + len(self.held)
        if limit < end or self.redactions:
            return self.take(limit)
        text, self.held, self.base = self.held, "", end
        return text

    def take(self, limit: int) -> str:
        """Cut what lies before ``limit`` from the held text, redactions done."""
        if not self.redactions and limit >= self.base + len(self.held):  # as a rule
            text, self.held, self.base = self.held, "", self.base + len(self.held)
            return text
        spans = sorted(self.redactions or [])
        out: list[str] = []
        position = self.base
        for start, end in spans:
            if start < limit < end:
                limit = max(start, position)  # a redaction goes out as a whole
            if end > limit or end <= position:
                continue
            if start >= position:
                out.append(self.held[position - self.base : start - self.base])
                out.append(REDACTED)
            position = max(position, end)
        limit = max(limit, position)
        out.append(self.held[position - self.base : limit - self.base])
        self.held = self.held[limit - self.base :]
        self.base = limit
        if spans:
            self.redactions = [span for span in spans if span[1] > limit]
        return "".join(out)


def mark(marks: Checkpoints, text: str, limit: int, *, blocked: bool) -> None:
    """Let the score tiers read ``text`` too; of a blocked choice only what may still go out."""
    if not blocked:
        marks.read(text)
    elif limit > marks.position:
        marks.read(text[: limit - marks.position])
        marks.glance()
