"""The watermark: one key, one detector, in every engine (opt-in by policy)."""

from prism.steer.watermark.detector import CAVEATS, Detection, detect
from prism.steer.watermark.key import KEY_ENV, WatermarkKey, WatermarkKeyError, demanded, key_for
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
