"""From which probability on the sketch alone may end an answer: the token layer's operating points.

A policy's thresholds are meant for the best tier that judges a text; the sketch alone is less
precise. So in the token layer the higher of threshold and operating point holds. To measure anew,
after the sketch was trained: ``python -m training.token_scores --data FOLDER``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SKETCH = "6c6beafe6530690e438a29d5b2d5cd6776d62e5faa65c36a4d2760e74ba36fa4"
"""The digest of the sketch that was measured."""

# Measured on texts that the sketch has not learnt from: the least point of 0.9, 0.95, 0.98, 0.99
# and 0.995 that ends at most one in 2,500 of 30,488 everyday texts, one in 1,000 of 7,622 sentences
# said over and over, and one in 200 of 1,781 harmless answers to people who ask for harm. At 0.9
# `harm` ends 0.03 % of the everyday texts, 0.08 % of the loops, 0.4 % of those answers, and 7 % of
# 176 answers that people call harmful. An answer counts by its highest score at
# all places where it is looked at.
_DEFAULT = 0.9
_LEAST: Mapping[str, float] = MappingProxyType({"vcr": 0.95})


def least(category: str) -> float:
    """Return the least probability at which the token layer acts on ``category``."""
    return _LEAST.get(category, _DEFAULT)
