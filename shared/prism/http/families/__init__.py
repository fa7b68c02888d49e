"""API families: one small module each, behind one protocol."""

from __future__ import annotations

from prism.http.families.openai_chat import CHAT
from prism.http.families.openai_completions import COMPLETIONS
from prism.http.family import Family

FAMILIES: tuple[Family, ...] = (CHAT, COMPLETIONS)

__all__ = ["FAMILIES", "Family"]
