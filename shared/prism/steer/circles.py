"""Whether an output goes in circles, as a greedy model may where a mask keeps it from a phrase."""

from __future__ import annotations

from collections.abc import Sequence

TIMES = 4
"""How often in a row the same tokens must have come …"""
TOKENS = 32
"""… and how many they must be together."""
LONGEST = 32
"""Tokens of a circle, at most."""
LOOK = 16
"""Tokens between looks, once a mask has changed what the model wanted most."""
WATCHED = 8 * LOOK
"""Tokens from there on in which a circle is put down to the mask. Models repeat themselves for
other reasons, too."""


def circle(output: Sequence[int]) -> Sequence[int]:
    """Return the tokens in which ``output`` ends several times over; none where it doesn't.

    Constant time, whatever the output's length.
    """
    tail = list(output[-LONGEST * TIMES :])
    for size in range(1, min(LONGEST, len(tail) // TIMES) + 1):
        times = max(TIMES, -(-TOKENS // size))
        span = size * times
        if span <= len(tail) and tail[-span:-size] == tail[size - span :]:
            return tail[-size:]
    return []


def stuck(output: Sequence[int], turned: int) -> bool:
    """Return whether ``output`` goes in circles around what a mask changed at length ``turned``.

    The word before it is in the circle then, the beginning of what the model was kept from.
    """
    found = circle(output[max(0, turned - LONGEST) :])
    return bool(found) and (turned == 0 or output[turned - 1] in found)
