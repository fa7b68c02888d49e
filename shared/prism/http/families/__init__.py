"""API families: one small module each, behind one protocol."""

from __future__ import annotations

from prism.http.families.anthropic_messages import COUNT_TOKENS, MESSAGES
from prism.http.families.llamacpp_native import NATIVE
from prism.http.families.openai_chat import CHAT
from prism.http.families.openai_completions import COMPLETIONS
from prism.http.family import Family

FAMILIES: tuple[Family, ...] = (CHAT, COMPLETIONS, MESSAGES, COUNT_TOKENS, NATIVE)

__all__ = ["FAMILIES", "Family"]
