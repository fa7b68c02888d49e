"""In processes that have this folder on PYTHONPATH, vLLM finds no plugin of this project's.

vLLM loads what is installed; no option of it leaves a logits processor out, so the bare arm of the
benchmark is told that nothing is there. Worker processes inherit the path.
"""

from __future__ import annotations

import importlib.metadata as metadata
from typing import Any

_OWN = "prism-serving"
_all = metadata.entry_points


def _others(**params: Any) -> Any:
    found: Any = _all(**params)
    if not str(params.get("group", "")).startswith("vllm."):
        return found
    return metadata.EntryPoints(e for e in found if e.dist is None or e.dist.name != _OWN)


metadata.entry_points = _others
