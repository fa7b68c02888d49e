"""What the front end does to a request's sampling parameters before they travel to the worker.

Runs in the request's own context, where the middleware has left the tenant's stamp, on every route
and offline. It must be idempotent, because parameter objects are reused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prism.steer import stamp
from vllm_prism import checks, watermark
from vllm_prism.errors import UnmoderatableError

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams

_REPETITION_PENALTIES = 1e-6, 1e6


def prepare(params: SamplingParams) -> None:
    """Stamp ``params`` and close what would get round the logits processor."""
    checks.require_installed()
    if params.prompt_logprobs or params.prompt_logprob_token_ids is not None:
        raise UnmoderatableError(
            "prompt_logprobs",
            "it shows the model's distribution before masking; 0 (the prompt's own tokens) is "
            "allowed, as is logprobs",
        )
    if params.trace_decode_token_ids:
        raise UnmoderatableError(
            "trace_decode_token_ids", "it overwrites sampled tokens after the policy was applied"
        )
    if params.thinking_token_budget is not None:
        raise UnmoderatableError(
            "thinking_token_budget", "it forces tokens after the policy was applied"
        )
    # A forced refusal must be able to end.
    params.ignore_eos = False
    # V1 multiplies masked logits by it, in single precision: -inf times 0 is NaN, the likeliest.
    least, most = _REPETITION_PENALTIES
    params.repetition_penalty = min(max(params.repetition_penalty, least), most)
    watermark.enforce(params)
    args = dict(params.extra_args or {})
    args.pop(stamp.FIELD, None)
    if (mark := stamp.current.get()) is not None:
        args[stamp.FIELD] = stamp.sign(mark)
    params.extra_args = args or None


def stamp_of(params: SamplingParams) -> stamp.Stamp | None:
    """Return the verified stamp of ``params``, in the worker."""
    return stamp.verify((params.extra_args or {}).get(stamp.FIELD))
