"""The cascade's operating points: when a tier's word is enough.

One place for all of them; each says what it was measured on.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from prism.types import Stage

# Measured on held-out English rows of the training's sources (docs/models/): of the texts that the
# encoder alone catches at 1 % of everyday traffic, the sketch hands on 99.6 % of 752 prompts and
# 99.1 % of 459 outputs, and with them 22 % of everyday prompts (`inj` included) and 24 % of
# everyday answers. A prompt's bar is just below what was measured for 99 %, 0.049.
_SKIP: Mapping[Stage, Mapping[str, float]] = MappingProxyType(
    {
        Stage.PROMPT: MappingProxyType({"harm": 0.04, "inj": 0.02}),
        Stage.OUTPUT: MappingProxyType({"harm": 0.04}),
    }
)
_SKIP_OTHER = 0.1  # a rule on a category of its own asks the encoder from here on

GUARD_FROM, GUARD_TO = 0.15, 0.9
"""Between these the encoder's word is not enough, and a guard is asked where there is one."""


def skip(stage: Stage, category: str) -> float:
    """Return from which score of the sketch on a text is not surely harmless."""
    return _SKIP[stage].get(category, _SKIP_OTHER)
