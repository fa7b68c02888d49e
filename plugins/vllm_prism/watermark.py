"""vLLM's own watermark, switched on where a policy demands it.

vLLM carries the watermark in its V2 runner's sampler; PRISM gives it the key, sees that no client
switches it off, and refuses to start where it can't be carried.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Any

from prism.config import Settings
from prism.steer import stamp
from prism.steer.watermark import KEY_ENV, WatermarkKey, demanded
from vllm_prism.errors import UnprotectedError

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.sampling_params import SamplingParams


def configure(engine_args: Any, settings: Settings) -> None:
    """Give ``EngineArgs`` the watermark that a policy of ``settings`` demands.

    Raises :class:`UnprotectedError` where the command line names another key, and
    ``WatermarkKeyError`` where there is none at all.
    """
    if not demanded(settings.policies.values()):
        return
    from vllm.triton_utils import HAS_TRITON

    given = engine_args.watermark_config
    key = WatermarkKey.from_env() if given is None or _has_key() else None
    _require_v2(HAS_TRITON)
    if given is None:
        assert key is not None
        engine_args.watermark_config = {"key": key.value, "context_width": key.context_width}
        return
    theirs = given["key"] if isinstance(given, dict) else given.key
    if key is not None and key.value != theirs:
        raise UnprotectedError(
            f"--watermark-config names another key than {KEY_ENV}", "give one of them only"
        )


def examine(config: VllmConfig, settings: Settings) -> None:
    """Raise :class:`UnprotectedError` if a watermark is demanded that vLLM would not carry."""
    if not demanded(settings.policies.values()):
        return
    _require_v2(config.use_v2_model_runner)
    if getattr(config, "watermark_config", None) is None:
        raise UnprotectedError(
            "a policy demands a watermark and vLLM has no configuration for one",
            f"set {KEY_ENV}, or pass --watermark-config",
        )


def enforce(params: SamplingParams) -> None:
    """Switch the watermark on where the request's policy demands it, whatever the client says.

    Greedy decoding leaves nothing to choose, so vLLM samples it without.
    """
    settings = _settings()
    mark = stamp.current.get()
    policy = settings.policies.get(mark.digest) if mark is not None else None
    if (policy or settings.strictest).watermark == "required":
        params.watermarking = True
    elif params.watermarking is None and _has_key():
        # The key is there for other policies' sake; this one has not opted in.
        params.watermarking = False


def _require_v2(there: bool) -> None:
    if not there:
        raise UnprotectedError(
            "a policy demands a watermark, which vLLM has in its V2 model runner only, and that "
            "needs Triton (a GPU)",
            "serve on a GPU, use llama.cpp, or set `watermark: off` in the policy",
        )


@cache
def _settings() -> Settings:
    return Settings.from_env()


def _has_key() -> bool:
    return bool(os.environ.get(KEY_ENV, "").strip())
