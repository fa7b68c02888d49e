"""The guard tier: a model made for moderation judges what the cheaper tiers are unsure of."""

from prism.classify.guard.llm import GuardLimits, LlmGuard
from prism.classify.guard.types import (
    HARM,
    Backend,
    Format,
    Guard,
    GuardError,
    GuardInput,
    GuardScores,
    GuardTimeout,
    GuardUnreachable,
    GuardUnreadable,
)

__all__ = [
    "HARM",
    "Backend",
    "Format",
    "Guard",
    "GuardError",
    "GuardInput",
    "GuardLimits",
    "GuardScores",
    "GuardTimeout",
    "GuardUnreachable",
    "GuardUnreadable",
    "LlmGuard",
]
