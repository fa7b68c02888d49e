"""What a prompt leaves open where the output begins: the first words of a phrase.

A text to continue may end in the middle of a phrase, and a session's earlier outputs come back as
prompts. So an output is read from behind the prompt's last text, with a separator between the two:
then whatever begins in the output itself is found as at the start of a text. What of a phrase is
broken off within a word is found where the rule sees through spacing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prism.match.kernel import ALONE, COUNT, GAPS, READ, SIGNS, open_from
from prism.match.phrases import PhraseSet
from prism.steer.state import State
from prism.steer.vocabulary import Vocabulary

TAIL = 512
"""Tokens of the prompt that are looked at, from its end."""
_CHARACTER = 4
"""Tokens that a character may be spelled in."""
_ROLE = re.compile(rb"\s*\w+\s*\n\s*")
"""What a chat template puts between a control token and an answer: whose turn it is."""


def behind(phrases: PhraseSet, vocabulary: Vocabulary, prompt: Sequence[int]) -> State | None:
    """Return where an output begins that goes on where ``prompt`` ends, token ids ``[length]``.

    ``None`` where nothing is open there: the output begins as a text does. Control tokens stand
    between turns, and nothing is open across one.
    """
    if phrases.empty:
        return None
    tail, after_control = _tail(vocabulary, prompt)
    if after_control and _ROLE.fullmatch(vocabulary.bytes_of(tail)):
        return None
    state = State(phrases)
    state.feed(vocabulary, tail)
    state.feed_space()
    for view in (GAPS, SIGNS):
        # The output's first letter is its own, though the prompt's last be the same, and alone.
        last = int(state.head[2 + 4 * view + COUNT]) - 1
        state.ring[view, last & (state.ring.shape[1] - 1), ALONE] = 0
    first = open_from(phrases.plain, phrases.squeezed, state.head, state.ring)
    return state if first < state.head[READ] else None


def within_character(vocabulary: Vocabulary, prompt: Sequence[int]) -> bool:
    """Return whether ``prompt`` breaks off within a character, or in bytes that are none.

    Some engines print the whole of it with the output, others none: what is said can't be told.
    Decoders read on across control tokens, which print nothing, and some make all of a run of
    single bytes into "�" when the output adds one.
    """
    tail, known = _text(vocabulary, prompt)
    ids = tail[known]
    sizes = vocabulary.offsets[ids + 1] - vocabulary.offsets[ids]
    longer = np.flatnonzero(sizes > 1)
    run = len(ids) - (longer[-1] + 1 if len(longer) else 0)
    text = vocabulary.bytes_of(ids[-(run + _CHARACTER) :])
    first = min(len(text) - run, len(text) - 1)  # errors before it are none of the output's
    while text:
        try:
            text.decode()
        except UnicodeDecodeError as error:
            if error.end > first:
                return True
            text, first = text[error.end :], first - error.end
        else:
            return False
    return False


def _tail(vocabulary: Vocabulary, prompt: Sequence[int]) -> tuple[NDArray[np.int64], bool]:
    """Return the last tokens of text, and whether a control token is before them."""
    ids, text = _text(vocabulary, prompt)
    stops = np.flatnonzero(~text)
    return (ids[stops[-1] + 1 :], True) if len(stops) else (ids, False)


def _text(
    vocabulary: Vocabulary, prompt: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the last tokens, and which of them are text."""
    ids = np.asarray(prompt[-TAIL:], np.int64)
    text = (ids >= 0) & (ids < vocabulary.size)
    text[text] = ~vocabulary.control[ids[text]]
    return ids, text
