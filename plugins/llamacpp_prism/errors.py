"""What can go wrong between PRISM and llama.cpp, each with its own class."""

from __future__ import annotations


class LlamaGuardError(RuntimeError):
    """Base of every error of this adapter."""


class UnsupportedModelError(LlamaGuardError):
    """The model is set up in a way in which the token layer could be passed by."""


class ModerationFailedError(LlamaGuardError):
    """The token layer broke down in one generation, which was ended without another token."""


class InterleavedGenerationError(LlamaGuardError):
    """A generation was resumed after another one had begun on the same model."""


class RequestError(LlamaGuardError, ValueError):
    """The request asks for something that is wrong, or that can't be moderated."""


class GrammarError(RequestError):
    """The request's grammar is not one that llama.cpp can parse."""
