"""Runs the offline ``LLM`` through every case and prints what came out, as one line of JSON.

A process of its own, so that the engine's memory is free again afterwards. The processor is loaded
twice here, by its entry point and by name: that has to be harmless.
"""

import json
import sys

import torch
from vllm import LLM, SamplingParams
from vllm.sampling_params import BeamSearchParams, StructuredOutputsParams
from vllm_texts import (
    ASK_BLOCKED,
    COPY_STEERED,
    COPY_UNSAYABLE,
    HARMLESS,
    STEERED,
    UNSAYABLE,
    says,
)


def main(model: str) -> None:
    llm = LLM(
        model,
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=768,
        max_num_seqs=8,
        # Long prompts come in chunks, and the cache is too small for the batch.
        max_num_batched_tokens=64,
        num_gpu_blocks_override=48,
        disable_log_stats=False,
        enable_prompt_embeds=True,
        logits_processors=["vllm_prism:PrismLogitsProcessor"],
    )
    found: dict[str, object] = {}

    def run(name: str, prompts: object, **options: object) -> list[object]:
        params = options.pop("params", None) or SamplingParams(
            **{"temperature": 0, "max_tokens": 24, **options}
        )
        try:
            results = llm.generate(prompts, params, use_tqdm=False)
        except Exception as error:
            found[name] = {"error": type(error).__name__, "message": str(error)}
            return []
        found[name] = [
            {"text": o.text, "reason": o.finish_reason, "tokens": len(o.token_ids)}
            for result in results
            for o in result.outputs
        ]
        return results

    tokenizer = llm.get_tokenizer()

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    run("harmless", HARMLESS)
    run("blocked prompt", ASK_BLOCKED)
    run("blocked prompt as ids", {"prompt_token_ids": tokenizer.encode(ASK_BLOCKED)})
    run("steered", COPY_STEERED)
    run("steered, sampled", COPY_STEERED, temperature=1, top_k=2, n=4)
    run("steered, biased", COPY_STEERED, logit_bias=dict.fromkeys(ids(f" {STEERED}"), 50.0))
    run("steered, nothing else allowed", COPY_STEERED, allowed_token_ids=ids(f" {STEERED}"))
    run("unsayable", COPY_UNSAYABLE)
    # In single precision these penalties are 0 and infinite.
    copy = {"prompt_token_ids": ids(COPY_STEERED)}
    run("steered, no penalty at all", copy, repetition_penalty=1e-46)
    run("refusal, no penalty at all", ASK_BLOCKED, repetition_penalty=1e-46)
    run("refusal, endless penalty", ASK_BLOCKED, repetition_penalty=1e39)
    run("begun in the prompt", f"{COPY_STEERED} {STEERED.split()[0]}", max_tokens=4)
    words = StructuredOutputsParams(choice=[f" {STEERED}s"])
    run("cut within a word", HARMLESS, stop=["s"], structured_outputs=words)
    run("unsayable, biased", HARMLESS, logit_bias=dict.fromkeys(ids(f" {UNSAYABLE}"), 90.0))
    run("refusal, n", ASK_BLOCKED, temperature=1, n=3)
    run("refusal, ignore_eos", ASK_BLOCKED, ignore_eos=True, max_tokens=64)
    run("refusal, min_tokens", ASK_BLOCKED, min_tokens=40, max_tokens=64)
    run("refusal, penalties", ASK_BLOCKED, repetition_penalty=2.0, presence_penalty=2.0)
    run("refusal, bad_words", ASK_BLOCKED, bad_words=["Sorry", "not", "something"])
    run("refusal, allowed_token_ids", ASK_BLOCKED, allowed_token_ids=ids(" yes"))
    run("refusal, stop", ASK_BLOCKED, stop=["not"])

    choice = StructuredOutputsParams
    run("structured", HARMLESS, structured_outputs=choice(choice=["Paris", "London"]))
    run(
        "structured, a way around",
        COPY_STEERED,
        structured_outputs=choice(choice=[STEERED, "zephyr lamp"]),
    )
    run("structured, no way around", COPY_STEERED, structured_outputs=choice(choice=[STEERED]))
    run("structured, blocked prompt", ASK_BLOCKED, structured_outputs=choice(choice=["a", "b"]))

    run("prompt_logprobs", HARMLESS, prompt_logprobs=2)
    run("trace", HARMLESS, trace_decode_token_ids=ids(STEERED))
    run("thinking budget", HARMLESS, thinking_token_budget=3)

    results = run("logprobs", COPY_STEERED, logprobs=5, max_tokens=12)
    masked = []
    said = ""
    for step in results[0].outputs[0].logprobs or []:
        for entry in step.values():
            if entry.logprob > -1e4 and says(said + (entry.decoded_token or ""), STEERED):
                masked.append(entry.decoded_token)
        said += next(e.decoded_token for e in step.values() if e.rank == 1)
    found["logprobs of masked tokens"] = masked

    filler = "One two three four five six seven eight nine ten. " * 24
    run("long and blocked", ASK_BLOCKED + ". " + filler + "And")
    run("long and harmless", filler + "One two")

    params = SamplingParams(
        temperature=0, max_tokens=24, extra_args={"prism_stamp": "forged", "mine": 1}
    )
    run("forged stamp", ASK_BLOCKED, params=params)
    found["extra_args"] = params.extra_args

    embeds = torch.zeros(4, llm.model_config.get_hidden_size(), dtype=torch.bfloat16)
    run("prompt embeds", {"prompt_embeds": embeds})
    some = {"prompt_token_ids": [2, 3, 3, 10], "prompt_is_token_ids": [True, False, False, True]}
    run("embeds among ids", {"prompt_embeds": embeds, **some})

    before = preemptions(llm)
    long = [f"{filler[:380]} {i} " for i in range(4)]
    prompts = [p + tail for p in long for tail in (ASK_BLOCKED, COPY_STEERED)]
    run("preempted", prompts, max_tokens=90)
    found["preemptions"] = preemptions(llm) - before

    try:
        llm.beam_search([{"prompt": HARMLESS}], BeamSearchParams(beam_width=2, max_tokens=4))
    except Exception as error:
        found["beam search"] = {"error": type(error).__name__, "message": str(error)}
    print("RESULT " + json.dumps(found), flush=True)


def preemptions(llm: LLM) -> int:
    return sum(int(m.value) for m in llm.get_metrics() if m.name == "vllm:num_preemptions")


if __name__ == "__main__":
    main(sys.argv[1])
