"""PRISM: one independent moderation policy engine for open LLM inference engines."""

__version__ = "0.1.0"
