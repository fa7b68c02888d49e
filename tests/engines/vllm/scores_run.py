"""Runs the offline ``LLM`` with a sketch that has learnt a canary; prints what came out, as JSON.

The engine's process runs this module again, and there the processor learns it too: only when it is
made, because vLLM's set-up for the CPU stumbles over numba where that is loaded before.
"""

import json
import sys

from vllm import LLM, SamplingParams
from vllm.sampling_params import StructuredOutputsParams
from vllm_texts import CANARY, COPY_CANARY, HARMLESS

from vllm_prism import checks

_require = checks.require_installed


def learn() -> None:
    """Do what the processor does first, and put the sketch in the place of the shipped one."""
    from tests.scores import canary_sketch

    from prism.classify import sketch

    _require()
    learnt = canary_sketch(CANARY)
    sketch._shipped = lambda: learnt


checks.require_installed = learn


def main(model: str) -> None:
    llm = LLM(model, dtype="bfloat16", enforce_eager=True, max_model_len=512, max_num_seqs=8)
    greedy = SamplingParams(temperature=0, max_tokens=32)
    grammar = StructuredOutputsParams(regex=f"({CANARY}, ){{9}}")
    forced = SamplingParams(temperature=0, max_tokens=64, structured_outputs=grammar)
    results = llm.generate(
        [COPY_CANARY, HARMLESS, COPY_CANARY, HARMLESS],
        [greedy, greedy, forced, greedy],
        use_tqdm=False,
    )
    found = [{"text": r.outputs[0].text, "reason": r.outputs[0].finish_reason} for r in results]
    print("RESULT " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
