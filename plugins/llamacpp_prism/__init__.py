"""PRISM in llama.cpp: ``guard`` for scripts, ``python -m llamacpp_prism`` for serving."""

from llamacpp_prism.engine import guard
from llamacpp_prism.errors import (
    GrammarError,
    InterleavedGenerationError,
    LlamaGuardError,
    ModerationFailedError,
    RequestError,
    UnsupportedModelError,
)

__all__ = [
    "GrammarError",
    "InterleavedGenerationError",
    "LlamaGuardError",
    "ModerationFailedError",
    "RequestError",
    "UnsupportedModelError",
    "guard",
]
