"""Transcripts as text: plain, or subtitles (SRT, WebVTT), whose cues cut sentences into lines."""

from __future__ import annotations

import re

from prism.http.families.values import judged_lines
from prism.http.judge import Judge

_TIME = r"(?:\d{1,4}:)?\d{2}:\d{2}[.,]\d{3}"
_TIMING = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s+[a-z]+:[\w%.,-]+)*\s*")
_LINE_END = re.compile(r"\r\n|\r|\n")
_HEAD = re.compile(r"\ufeff?WEBVTT\s*")
_NUMBER = re.compile(r"\s*\d{1,7}\s*")


class Subtitles:
    """A text, as lines that are said and lines that time them."""

    def __init__(self, text: str) -> None:
        # SRT and WebVTT end lines in three ways; what ends one stays at its end.
        self._lines = _LINE_END.sub("\n", text).split("\n")
        self._ends = [*_LINE_END.findall(text), ""]
        timed = any(map(_TIMING.fullmatch, self._lines))
        self._said = [n for n, _ in enumerate(self._lines) if not timed or self._is_said(n)]

    def judged(self, judge: Judge) -> str:
        """Return the text as it may go out. What is said is judged as one text, over all cues.

        What is redacted over several cues leaves none of them whole, so it blocks.
        """
        said = [self._lines[n] for n in self._said]
        released = judged_lines(judge, 0, "text", said)
        if released is None:
            judge.block(0)
            return ""
        lines = list(self._lines)
        for number, line in zip(self._said, released, strict=True):
            lines[number] = line
        return "".join(map("".join, zip(lines, self._ends, strict=True)))

    def _is_said(self, number: int) -> bool:
        line = self._lines[number]
        if not line.strip() or _TIMING.fullmatch(line) or (not number and _HEAD.fullmatch(line)):
            return False
        after = self._lines[number + 1] if number + 1 < len(self._lines) else ""
        return not (_NUMBER.fullmatch(line) and _TIMING.fullmatch(after))
