"""How one engine fared with the prompts that all engines are given."""

from __future__ import annotations

from collections.abc import Callable

from engine_texts import REFUSAL, SAME_EVERYWHERE

from prism.moderator import Moderator
from prism.types import Decision


def verdicts(
    moderator: Moderator,
    unmoderated: Callable[[str], str],
    moderated: Callable[[str], tuple[str, str]],
) -> dict[str, tuple[str, str, str]]:
    """Return the table of ``SAME_EVERYWHERE`` as this engine fills it.

    ``unmoderated`` gives the bare engine's text; ``moderated`` text and finish reason.
    """
    table = {}
    for prompt in SAME_EVERYWHERE:
        asked = _verdict(moderator.check_prompt(prompt))
        bare = "-" if asked == "block" else _judge(moderator, unmoderated(prompt))
        text, reason = moderated(prompt)
        out = (
            "refused" if (text, reason) == (REFUSAL, "content_filter") else _judge(moderator, text)
        )
        table[prompt] = (asked, bare, out)
    return table


def _judge(moderator: Moderator, text: str) -> str:
    return _verdict(moderator.check_output(text))


def _verdict(decision: Decision) -> str:
    # A steered phrase that comes out counts as a block: that is what the text layer makes of it.
    # What is only flagged passes, and what is flagged is the text layer's matter, not the engine's.
    return "block" if decision.action >= 3 else "allow"
