"""Runs the bare ``LLM`` (under a policy that only monitors) and prints its texts as JSON."""

import json
import sys

from engine_texts import SAME_EVERYWHERE
from vllm import LLM, SamplingParams


def main(model: str) -> None:
    llm = LLM(model, dtype="bfloat16", enforce_eager=True, max_model_len=256, max_num_seqs=8)
    params = SamplingParams(temperature=0, max_tokens=16)
    results = llm.generate(list(SAME_EVERYWHERE), params, use_tqdm=False)
    texts = [result.outputs[0].text for result in results]
    print("RESULT", json.dumps(dict(zip(SAME_EVERYWHERE, texts, strict=True))))


if __name__ == "__main__":
    main(sys.argv[1])
