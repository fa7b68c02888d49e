"""PRISM in vLLM: a logits processor, a middleware and the start-up checks.

``PrismLogitsProcessor`` is found by its entry point, ``PrismMiddleware`` is named on the command
line (``--middleware vllm_prism.PrismMiddleware``). Both are loaded on first use: vLLM imports this
package in every process, also in those that need neither torch nor the middleware.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_prism.middleware import PrismMiddleware
    from vllm_prism.processor import PrismLogitsProcessor

__all__ = ["PrismLogitsProcessor", "PrismMiddleware"]

_HOME = {"PrismLogitsProcessor": "processor", "PrismMiddleware": "middleware"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
