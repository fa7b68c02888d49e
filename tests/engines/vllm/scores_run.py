"""Runs the offline ``LLM`` with a sketch that has learnt a canary; prints what came out, as JSON.

The engine runs in this process (``VLLM_ENABLE_V1_MULTIPROCESSING=0``), as debuggers want it: with
everything of PRISM's loaded before it, Numba too; and so the sketch put here is its own.
"""

import json
import sys

from tests.scores import canary_sketch
from vllm import LLM, SamplingParams
from vllm.sampling_params import StructuredOutputsParams
from vllm_texts import CANARY, COPY_CANARY, HARMLESS

from prism.classify import sketch


def main(model: str) -> None:
    learnt = canary_sketch(CANARY)
    sketch._shipped = lambda: learnt
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
