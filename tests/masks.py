"""What the tests ask of a mask: which tokens it bans, and how decoders print what it lets through.

A run of bytes that are no UTF-8 is printed by every decoder in its own way.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

from prism.steer.row import Step
from prism.steer.vocabulary import Vocabulary


def banned_of(step: Step, size: int) -> list[int]:
    """Return the tokens that ``step`` bans, of a vocabulary of ``size``, ascending."""
    banned = np.ones(size, np.bool_)
    if step.forced is not None:
        banned[step.forced] = False
    elif step.allowed is not None:
        banned[step.allowed] = False
    else:
        banned[:] = False
        banned[step.banned] = True
    return np.flatnonzero(banned).tolist()


def printed(vocabulary: Vocabulary, ids: Iterable[int]) -> set[str]:
    """Return ``ids`` as decoders print them: bytes one by one, left out, or by the run."""
    pieces = [vocabulary.bytes_of([i]) for i in ids if not vocabulary.control[i]]
    data = b"".join(pieces)
    runs = []
    for single, run in itertools.groupby(pieces, lambda piece: len(piece) == 1):
        joined = b"".join(run)
        try:
            runs.append(joined.decode())
        except UnicodeDecodeError:
            runs.append("\ufffd" * len(joined) if single else joined.decode(errors="replace"))
    return {data.decode(errors="replace"), data.decode(errors="ignore"), "".join(runs)}
