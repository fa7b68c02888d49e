"""The score models and their cascade."""

from __future__ import annotations

from prism.classify.deadline import Busy, DeadlineError

__all__ = ["Busy", "DeadlineError"]
