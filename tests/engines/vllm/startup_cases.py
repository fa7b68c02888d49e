"""Builds vLLM's configuration in every way that must be refused; prints what was said, as JSON.

No weights are loaded: the refusal comes before.
"""

import json
import os
import sys
import types
from pathlib import Path

from vllm.engine.arg_utils import EngineArgs

from vllm_prism import checks


def attempt(model: str, **options: object) -> dict[str, object]:
    args = {"model": model, "dtype": "bfloat16", "enforce_eager": True, "max_model_len": 256}
    try:
        config = EngineArgs(**{**args, **options}).create_engine_config()
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {
        "logprobs_mode": config.model_config.logprobs_mode,
        "logits_processors": config.model_config.logits_processors,
        "async": config.scheduler_config.async_scheduling,
        "v2": config.use_v2_model_runner,
    }


def main(model: str) -> None:
    found = {
        "plain": attempt(model),
        "raw logits": attempt(model, logprobs_mode="raw_logits"),
        "speculative": attempt(
            model, speculative_config={"method": "ngram", "num_speculative_tokens": 2}
        ),
        "pooling": attempt(model, runner="pooling"),
        "no tokenizer": attempt(model, skip_tokenizer_init=True),
    }
    os.environ["VLLM_USE_RUST_FRONTEND"] = "1"
    found["rust"] = attempt(model)
    del os.environ["VLLM_USE_RUST_FRONTEND"]
    # vLLM imports this module, and only then, when it is told to serve gRPC.
    name = "vllm.entrypoints.launchers.grpc_server"
    sys.modules[name] = types.ModuleType(name)
    found["grpc"] = attempt(model)
    del sys.modules[name]
    policy = os.environ["PRISM_POLICY"]
    os.environ["PRISM_POLICY"] = "/nowhere/policy.yaml"
    found["no policy"] = attempt(model)
    os.environ["PRISM_POLICY"] = str(Path(policy).with_name("marked.yaml"))
    found["watermark without a key"] = attempt(model)
    os.environ["PRISM_WATERMARK_KEY"] = "42"
    found["watermark"] = attempt(model)
    del os.environ["PRISM_WATERMARK_KEY"]
    os.environ["PRISM_POLICY"] = policy
    # The CPU platform switches asynchronous scheduling off, so it's switched on by hand here.
    config = EngineArgs(model=model, max_model_len=256).create_engine_config()
    config.scheduler_config.async_scheduling = True
    for _ in range(2):
        checks.adapt(config)
    found["async"] = config.model_config.logits_processors
    print("RESULT " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
