"""The secret that a watermark is made and found with."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prism.policy.compiled import CompiledPolicy

CONTEXT_WIDTH = 4
"""Tokens that choose the random numbers of the next one; vLLM's default."""

KEY_ENV = "PRISM_WATERMARK_KEY"
_LARGEST = 2**64 - 1


class WatermarkKeyError(ValueError):
    """The key is missing or is no 64-bit number. ``fix`` says what to do."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(f"{message}; {fix}")
        self.fix = fix


@dataclass(frozen=True, slots=True)
class WatermarkKey:
    """A 64-bit key, as ``key`` in vLLM's ``--watermark-config``. Never shown by ``repr``."""

    value: int = field(repr=False)
    context_width: int = CONTEXT_WIDTH

    def __post_init__(self) -> None:
        if not 0 <= self.value <= _LARGEST:
            raise WatermarkKeyError(
                "the watermark key does not fit in 64 bits",
                "make one with `python -c 'import secrets; print(secrets.randbits(64))'`",
            )
        if not 1 <= self.context_width <= 16:
            raise WatermarkKeyError(
                f"a context of {self.context_width} tokens is out of range", "use 1 to 16, say 4"
            )

    @classmethod
    def parse(cls, text: str, context_width: int = CONTEXT_WIDTH) -> WatermarkKey:
        """Read a key written in decimal, or in hexadecimal after ``0x``."""
        try:
            value = int(text.strip(), 0)
        except ValueError:
            raise WatermarkKeyError(
                "the watermark key is not a number", "write it in decimal, or as 0x…"
            ) from None
        return cls(value, context_width)

    @classmethod
    def from_env(
        cls,
        name: str = KEY_ENV,
        context_width: int = CONTEXT_WIDTH,
        environ: Mapping[str, str] = os.environ,
    ) -> WatermarkKey:
        """Read the key from an environment variable. Raises :class:`WatermarkKeyError`."""
        text = environ.get(name, "")
        if not text.strip():
            raise WatermarkKeyError(
                f"the environment has no {name}", f"set {name} to the secret 64-bit key"
            )
        return cls.parse(text, context_width)


def demanded(policies: Iterable[CompiledPolicy]) -> bool:
    """Return whether one of the policies demands a watermark."""
    return any(policy.watermark == "required" for policy in policies)


def key_for(policies: Iterable[CompiledPolicy]) -> WatermarkKey | None:
    """Return the environment's key if a policy demands one; raises where there is none."""
    return WatermarkKey.from_env() if demanded(policies) else None
