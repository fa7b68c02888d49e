"""The text layer in vLLM's API server: ``--middleware vllm_prism.PrismMiddleware``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prism.http.family import Detokenise
from prism.http.middleware import PrismMiddleware as _Middleware
from vllm_prism import checks


class PrismMiddleware(_Middleware):
    """Both layers must be live before this server is healthy: the text's and the token's.

    vLLM names no arguments for a middleware; what it must know of the server (tokenizer, API keys)
    stands in the application's state, which the first scope carries.
    """

    def __init__(self, app: Any) -> None:
        checks.require_installed()
        self._engine: Any = app
        self._begun = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI connection."""
        if not self._begun:
            self._begin(scope["app"].state)
        await super().__call__(scope, receive, send)

    def _begin(self, state: Any) -> None:
        import vllm.envs as envs

        config = state.vllm_config
        checks.examine(config)
        super().__init__(
            self._engine,
            layers=("text", "token"),
            engine="vllm",
            detokenise=_detokenise(config.model_config),
            processed_logprobs=config.model_config.logprobs_mode.startswith("processed"),
            api_keys=[key for key in state.args.api_key or [envs.VLLM_API_KEY] if key],
        )
        self._begun = True


def _detokenise(model_config: Any) -> Detokenise:
    """Return a function from token ids to text that threads can share with vLLM's renderer."""
    from vllm.tokenizers import get_tokenizer

    # A tokenizer of our own: the renderer's is busy in threads of its own.
    tokenizer = get_tokenizer(
        model_config.tokenizer,
        runner_type=model_config.runner_type,
        tokenizer_mode=model_config.tokenizer_mode,
        revision=model_config.tokenizer_revision,
        trust_remote_code=model_config.trust_remote_code,
    )

    def detokenise(ids: Sequence[int], *, special: bool = True) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=not special))

    return detokenise
