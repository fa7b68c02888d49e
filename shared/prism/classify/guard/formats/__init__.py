"""One small module a model: its published prompt template, and how its answer is read."""

from __future__ import annotations

from prism.classify.guard.formats.granite import GraniteGuardian3, GraniteGuardian33
from prism.classify.guard.formats.llama_guard import LLAMA_GUARD_3, LLAMA_GUARD_4
from prism.classify.guard.formats.qwen3guard import Qwen3Guard
from prism.classify.guard.formats.safeguard import GptOssSafeguard
from prism.classify.guard.formats.shieldgemma import ShieldGemma
from prism.classify.guard.formats.wildguard import WildGuard
from prism.classify.guard.types import Format

FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        LLAMA_GUARD_3,
        LLAMA_GUARD_4,
        Qwen3Guard(),
        ShieldGemma(),
        GraniteGuardian3(),
        GraniteGuardian33(),
        WildGuard(),
        GptOssSafeguard(),
    )
}
"""Every format, by the name that ``guard.format`` has for it."""

__all__ = ["FORMATS"]
