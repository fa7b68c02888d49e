"""Whose a hit is: the rules behind each pattern and each entry of compiled phrases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prism.types import Disguise

Owner = tuple[str, tuple[str, ...]]
"""A rule's id, and the disguise (ROT13, reversal) the pattern stands for."""
_VIAS: tuple[tuple[str, ...], ...] = (
    (), (Disguise.ROT13.value,), (Disguise.REVERSED.value,),
    (Disguise.ROT13.value, Disguise.REVERSED.value),
)  # fmt: skip


class Owners(Sequence[list[Owner]]):
    """Whose each pattern, or each entry, is: numbers, spelled out where one is asked for.

    Those of ``only`` these rules are told, of all where it is ``None``.
    """

    def __init__(
        self,
        rules: tuple[str, ...],
        bounds: NDArray[np.int32],
        codes: NDArray[np.int32],
        only: frozenset[str] | None = None,
    ) -> None:
        self._rules = rules
        self._bounds = bounds
        self._codes = codes
        self._only = frozenset(rules) if only is None else only

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: Any) -> Any:
        codes = self._codes[self._bounds[index] : self._bounds[index + 1]].tolist()
        if not codes:
            raise IndexError(index)
        owners = [(self._rules[code >> 2], _VIAS[code & 3]) for code in codes]
        return [owner for owner in owners if owner[0] in self._only]

    def only(self, rules: frozenset[str]) -> Owners:
        """Return the same with ``rules`` as the only owners."""
        return Owners(self._rules, self._bounds, self._codes, rules & self._only)

    def among(self, rules: Iterable[str]) -> NDArray[np.bool_]:
        """Return, per pattern or entry, whether one of ``rules`` owns it."""
        wanted = self._only.intersection(rules)
        if wanted.issuperset(self._rules):
            return np.ones(len(self), np.bool_)
        marked = np.array([rule in wanted for rule in self._rules], np.bool_)
        some = np.zeros(len(self._codes) + 1, np.int32)
        np.cumsum(marked[self._codes >> 2], out=some[1:])
        result: NDArray[np.bool_] = some[self._bounds[1:]] > some[self._bounds[:-1]]
        return result
