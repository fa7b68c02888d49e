"""One channel of one choice of an answer: what was read of it, what of that is still held back."""

from __future__ import annotations

from dataclasses import dataclass

from prism.classify.checkpoints import Checkpoints
from prism.match import Scanner

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
