# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN202
"""Where bytes stand in UTF-8: the automaton of its well-formed sequences (Unicode 17, table 3-7).

Bytes that are no UTF-8 are printed differently by every decoder: one "�" for each or for several, a
whole run of byte tokens made into "�", or nothing at all. What a reader finds in such a text is
therefore no one's to say. So the sampler keeps to UTF-8, and what it says is what any decoder
prints.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prism.jit import njit

STATES = 8
"""Between characters (0), and within one: one byte is due, two, two behind E0 or ED, three, three
behind F0 or F4."""
BROKEN = STATES
"""After a byte that no character goes on with; nothing leads out of it."""
_ONE, _TWO, _TWO_E0, _TWO_ED, _THREE, _THREE_F0, _THREE_F4 = range(1, STATES)


def _automaton() -> NDArray[np.uint8]:
    step = np.full((STATES + 1, 256), BROKEN, np.uint8)
    step[0, :0x80] = 0
    step[0, 0xC2:0xE0] = _ONE
    step[0, 0xE0:0xF0] = _TWO
    step[0, 0xE0], step[0, 0xED] = _TWO_E0, _TWO_ED
    step[0, 0xF1:0xF4] = _THREE
    step[0, 0xF0], step[0, 0xF4] = _THREE_F0, _THREE_F4
    step[_ONE, 0x80:0xC0] = 0
    step[_TWO, 0x80:0xC0] = step[_TWO_E0, 0xA0:0xC0] = step[_TWO_ED, 0x80:0xA0] = _ONE
    step[_THREE, 0x80:0xC0] = step[_THREE_F0, 0x90:0xC0] = step[_THREE_F4, 0x80:0x90] = _TWO
    return step.reshape(-1)


STEP = _automaton()
"""State times 256, plus the byte, to the next state."""


def follows(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the state behind each token from each state, ``[STATES, vocabulary]``."""
    result = np.zeros((STATES, len(offsets) - 1), np.uint8)
    _walk(data, offsets, result)
    return result


@njit(cache=True)
def _walk(data, offsets, result):
    for state in range(STATES):
        for token in range(len(offsets) - 1):
            at = np.uint8(state)
            for i in range(offsets[token], offsets[token + 1]):
                at = STEP[np.int64(at) * 256 + data[i]]
            result[state, token] = at
