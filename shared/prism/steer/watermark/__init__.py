"""The watermark: one key, one detector, in every engine (opt-in by policy).

What needs numba is loaded on first use. vLLM's worker goes through the attributes of every module
that is loaded when it starts on a CPU, and fails at llvmlite's, which numba brings along.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from prism.steer.watermark.key import KEY_ENV, WatermarkKey, WatermarkKeyError, demanded, key_for

if TYPE_CHECKING:
    from prism.steer.watermark.detector import CAVEATS, Detection, detect
    from prism.steer.watermark.sampler import Sampling, Watermark

__all__ = [
    "CAVEATS",
    "KEY_ENV",
    "Detection",
    "Sampling",
    "Watermark",
    "WatermarkKey",
    "WatermarkKeyError",
    "demanded",
    "detect",
    "key_for",
]

_HOME = {
    "CAVEATS": "detector",
    "Detection": "detector",
    "detect": "detector",
    "Sampling": "sampler",
    "Watermark": "sampler",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
