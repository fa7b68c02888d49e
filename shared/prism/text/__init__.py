"""Text before matching: normalisation, and the decoding of disguises."""

from prism.text.normalise import normalise_phrase

__all__ = ["normalise_phrase"]
