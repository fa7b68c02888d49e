"""Long texts are judged in overlapping windows: no text is cut off unseen."""

from __future__ import annotations

from prism.classify.guard.types import NOT_SHOWN, GuardInput, Talk

OVERLAP = 0.1
CONTEXT = 1 / 3
"""Of the window's length: how much of what was said before is shown along with the judged text."""


def talks(item: GuardInput, window: int) -> list[Talk]:
    """Return what the model is shown: one ``Talk`` for each ``window`` characters to be judged.

    Raises ``ValueError`` where there is nothing to judge.
    """
    turns = [("agent" if role == "assistant" else "user", text) for role, text in item.messages]
    if item.response is not None:
        turns.append(("agent", item.response))
    if not turns:
        raise ValueError("a GuardInput has a message or a response")
    who, text = turns[-1]
    before = _recent(turns[:-1], int(window * CONTEXT))
    if who == "agent" and not any(speaker == "user" for speaker, _ in before):
        before.insert(0, ("user", NOT_SHOWN))
    return [Talk((*before, (who, part))) for part in split(text, window)]


def split(text: str, window: int) -> list[str]:
    """Return ``text`` in pieces of at most ``window`` characters, each overlapping the next."""
    if len(text) <= window:
        return [text]
    step = window - int(window * OVERLAP)
    starts = range(0, len(text) - window + step, step)
    return [text[start : start + window] for start in starts]


def _recent(turns: list[tuple[str, str]], room: int) -> list[tuple[str, str]]:
    kept: list[tuple[str, str]] = []
    for who, text in reversed(turns):
        if room <= 0:
            break
        # The end of what was said leads on to the judged text.
        kept.append((who, text[-room:]))
        room -= len(text)
    return kept[::-1]
