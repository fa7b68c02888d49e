"""What APIs whose answers are lists of blocks share: one judge's channels, one per block.

Clients put the text blocks of an answer together, so a text block is judged with the text before it
in front: a phrase begun in one block and ended in the next is found, too.
"""

from __future__ import annotations

import re
from typing import Any

from prism.http.errors import UpstreamShape
from prism.http.judge import Judge

_BEFORE = 8_192
# Characters of earlier blocks that a text block is judged with.
_MARK = re.compile(r"[!-~]{1,512}")
_WORD = re.compile(r"[a-z_]{1,64}")


class Channels:
    """An answer's channels. Each is fed, finished once, and silent after that."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.spoke = False  # something that a reader sees went out
        self.pieces = 0  # of the engine's: at least one token each
        self._finished: set[str] = set()
        self._said = ""
        self._skip: dict[str, int] = {}

    @property
    def blocked(self) -> bool:
        """Whether nothing more may go out."""
        return bool(self.judge.blocked)

    def begin(self, channel: str) -> None:
        """Open a channel of readable text, with the text of earlier blocks in front of it."""
        if self._said:
            before = self._said[-_BEFORE:]
            released = self.judge.feed(0, channel, before)
            self._skip[channel] = max(0, len(before) - len(released))

    def feed(self, channel: str, text: object) -> str:
        """Judge the next piece of a channel; return what may go out now."""
        if not isinstance(text, str):
            raise UpstreamShape(f"the engine's {channel} is not a string", code="upstream_shape")
        if channel in self._finished:
            raise UpstreamShape("the engine went on with what it had ended", code="upstream_shape")
        self.pieces += 1
        return self._feed(channel, text)

    def finish(self, channel: str) -> str:
        """Judge the end of a channel; return the rest that may go out."""
        if channel in self._finished:
            return ""
        self._finished.add(channel)
        return self._out(channel, self.judge.finish(0, channel))

    def scan(self, channel: str, text: object) -> str:
        """Judge a short text that comes whole: a name, an id."""
        if not isinstance(text, str):
            raise UpstreamShape(f"the engine's {channel} is not a string", code="upstream_shape")
        return self._feed(channel, text) + self.finish(channel)

    def refused(self) -> bool:
        """Whether the answer is the token layer's refusal; note it if so."""
        if self.judge.ends_in_refusal(0):
            self.judge.refuse(0)
            return True
        return False

    def _feed(self, channel: str, text: str) -> str:
        return self._out(channel, self.judge.feed(0, channel, text))

    def _out(self, channel: str, text: str) -> str:
        skip = self._skip.get(channel, 0)
        if skip:
            self._skip[channel] = max(0, skip - len(text))
            text = text[skip:]
        kind = channel.rpartition(".")[2]
        if kind == "text":
            self._said = (self._said + text)[-2 * _BEFORE :]
        if text.strip() and kind in ("text", "refusal", "name", "arguments"):
            self.spoke = True
        return text


def word(value: Any) -> str | None:
    """Return a word of the API's own (a reason, a status), or ``None``. Text of a model is none."""
    if value is None:
        return None
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise UpstreamShape("the engine's reason is unknown", code="upstream_shape")
    return value


def mark(value: Any) -> str:
    """Return an identifier as the engine gave it, or ``""`` for what may read as words."""
    return value if isinstance(value, str) and _MARK.fullmatch(value) else ""


def label(value: Any) -> str:
    """Return a model's name as the engine gave it."""
    return value if isinstance(value, str) and len(value) <= 512 else ""
