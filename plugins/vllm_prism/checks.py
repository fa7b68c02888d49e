"""Refuse to start where vLLM would skip the processor or the middleware.

vLLM leaves custom logits processors out, silently, in several configurations; then the class is
never made and can't object. So the objection is raised from ``vllm.general_plugins``, which vLLM
runs in every process before it builds a configuration: :func:`install` puts :func:`examine` behind
``EngineArgs.create_engine_config``, which the servers and the offline ``LLM`` go through alike.
``VLLM_PLUGINS`` can filter general plugins out but not logits processors; then the processor finds
that :func:`install` never ran and refuses every request.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prism.config import Settings
from prism.documents import ProblemsError
from prism.steer import stamp
from prism.steer.watermark import WatermarkKeyError
from vllm_prism import fronts, scannable, watermark
from vllm_prism.errors import UnprotectedError

if TYPE_CHECKING:
    from vllm.config import VllmConfig

logger = logging.getLogger("vllm.prism")

PROCESSOR = "vllm_prism:PrismLogitsProcessor"
_GRPC = frozenset({"vllm.entrypoints.grpc_server", "vllm.entrypoints.launchers.grpc_server"})
_PROCESSED = {"raw_logprobs": "processed_logprobs", "raw_logits": "processed_logits"}
_installed = False


class BeamSearchError(ValueError):
    """Beam search samples outside the engine, where no logits processor sees it."""

    def __init__(self) -> None:
        super().__init__(
            "PRISM refuses beam search: it bypasses logits processors, so nothing it generates "
            "could be moderated; use sampling (n, best-of in the client) instead"
        )


def install() -> None:
    """Entry point of ``vllm.general_plugins``: hook the checks in. Harmless when repeated."""
    global _installed
    if _installed:
        return
    from vllm.engine.arg_utils import EngineArgs

    # Processes started from here on must share the key.
    stamp.ensure_key()
    EngineArgs.create_engine_config = _examined(EngineArgs.create_engine_config)
    _refuse_beam_search()
    fronts.install()
    scannable.settle()
    _installed = True


def require_installed() -> None:
    """Raise where this process runs without the checks."""
    if not _installed:
        raise UnprotectedError(
            "its start-up checks were not run in this process",
            "add 'prism' to VLLM_PLUGINS, or unset it",
        )


def examine(config: VllmConfig) -> None:
    """Raise :class:`UnprotectedError` if vLLM would run ``config`` without the token layer."""
    from vllm.platforms import current_platform

    model = config.model_config
    if model is None:
        return
    if model.runner_type != "generate":
        raise UnprotectedError(
            f"the {model.runner_type} runner loads no logits processors",
            "serve a generating model (--runner generate)",
        )
    if current_platform.is_tpu():
        raise UnprotectedError("on TPU vLLM loads no logits processors", "use another platform")
    if model.is_diffusion:
        raise UnprotectedError(
            "a diffusion model does not sample token by token", "serve an autoregressive model"
        )
    if config.speculative_config is not None and not config.use_v2_model_runner:
        raise UnprotectedError(
            "with speculative decoding the V1 model runner skips logits processors found by "
            "entry point",
            "remove --speculative-config or use the V2 model runner "
            "(VLLM_USE_V2_MODEL_RUNNER=1, needs Triton)",
        )
    if model.skip_tokenizer_init:
        raise UnprotectedError(
            "without a tokenizer, tokens can't be read as text", "remove --skip-tokenizer-init"
        )
    if config.parallel_config.enable_batch_sharded_sampling:
        raise UnprotectedError(
            "with batch-sharded sampling a request's tokens are sampled on changing ranks",
            "remove --enable-batch-sharded-sampling",
        )
    if model.enable_trace_replay:
        raise UnprotectedError(
            "trace replay overwrites sampled tokens after every logits processor",
            "remove --enable-trace-replay",
        )


def adapt(config: VllmConfig) -> None:
    """Change what can be made safe instead of refused, and say so."""
    model = config.model_config
    if model is None:
        return
    mode = _PROCESSED.get(model.logprobs_mode)
    if mode is not None:
        logger.warning(
            "PRISM: logprobs mode %s would show what the policy masks; using %s",
            model.logprobs_mode,
            mode,
        )
        model.logprobs_mode = mode
    if config.scheduler_config.async_scheduling and not config.use_v2_model_runner:
        # Loaded by its entry point alone, the V1 runner would hand us -1 for sampled tokens.
        names = list(model.logits_processors or ())
        if PROCESSOR not in names:
            model.logits_processors = [*names, PROCESSOR]


def _examined(create: Callable[..., VllmConfig]) -> Callable[..., VllmConfig]:
    @functools.wraps(create)
    def create_engine_config(self: Any, *args: Any, **kwargs: Any) -> VllmConfig:
        try:
            _refuse_frontends()
            # What is wrong in a policy stops the start here, before weights are loaded.
            settings = Settings.from_env()
            watermark.configure(self, settings)
            config = create(self, *args, **kwargs)
            examine(config)
            watermark.examine(config, settings)
        except (ProblemsError, UnprotectedError, WatermarkKeyError) as error:
            if not _main_name().startswith("vllm"):
                raise
            # A server's operator needs the message, not the way to it.
            print(f"prism: {error}", file=sys.stderr, flush=True)
            raise SystemExit(2) from None
        adapt(config)
        # Numba came with the settings, and the next may be a worker in this very process.
        scannable.settle()
        return config

    return create_engine_config


def _main_name() -> str:
    """Return what this process runs: a module's name (``python -m``) or a command's."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec.name if spec is not None else Path(sys.argv[0]).name


def _refuse_frontends() -> None:
    if os.environ.get("VLLM_USE_RUST_FRONTEND", "0") not in ("", "0"):
        raise UnprotectedError(
            "the Rust front end runs no Python middleware and stamps no request",
            "unset VLLM_USE_RUST_FRONTEND",
        )
    if not _GRPC.isdisjoint(sys.modules) or _main_name() in _GRPC:
        raise UnprotectedError(
            "the gRPC server runs no middleware, so its requests would not be moderated as a whole",
            "remove --grpc and serve HTTP",
        )


def _refuse_beam_search() -> None:
    from vllm.entrypoints.generate.beam_search.offline import BeamSearchOfflineMixin
    from vllm.entrypoints.generate.beam_search.online import BeamSearchOnlineMixin

    def refuse(*_: Any, **__: Any) -> Any:
        raise BeamSearchError

    BeamSearchOfflineMixin.beam_search = refuse
    BeamSearchOnlineMixin.beam_search = refuse
