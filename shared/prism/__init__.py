"""PRISM: one independent moderation policy engine for open LLM inference engines.

The public surface is what ``__all__`` names. It is loaded on first use, so that ``prism --help``
and engines' start-up don't pay for the compiled kernels.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prism.decide import decide
    from prism.moderator import Moderator
    from prism.policy import PolicyError, load_policy
    from prism.session import Session
    from prism.types import Action, Decision, Finding, Mode, Released, Stage, TierState

__version__ = "0.1.0"
__all__ = [
    "Action",
    "Decision",
    "Finding",
    "Mode",
    "Moderator",
    "PolicyError",
    "Released",
    "Session",
    "Stage",
    "TierState",
    "__version__",
    "decide",
    "load_policy",
]
_HOME = {
    "decide": "prism.decide",
    "Moderator": "prism.moderator",
    "Session": "prism.session",
    "PolicyError": "prism.policy",
    "load_policy": "prism.policy",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME.get(name, "prism.types")), name)
