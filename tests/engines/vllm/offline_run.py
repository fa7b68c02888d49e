"""Runs the offline ``LLM`` through every case and prints what came out, as one line of JSON.

A process of its own, so that the engine's memory is free again afterwards. The processor is loaded
twice here, by its entry point and by name: that has to be harmless.
"""

import json
import sys

import torch
from vllm import LLM, SamplingParams
from vllm.sampling_params import BeamSearchParams, StructuredOutputsParams
from vllm_forcing import WANTED
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
        logits_processors=["vllm_forcing:Forcing", "vllm_prism:PrismLogitsProcessor"],
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

    known = tokenizer.get_vocab()

    def spelled(*parts: str | int) -> list[int]:
        """Token ids of texts, and of bytes."""
        own = [ids(part) if isinstance(part, str) else [known[f"<0x{part:02X}>"]] for part in parts]
        return [token for some in own for token in some]

    def forced(name: str, wanted: list[int], **options: object) -> None:
        options = {"max_tokens": len(wanted) + 2, "temperature": 0, **options}
        params = SamplingParams(extra_args={WANTED: wanted}, **options)
        results = run(name, HARMLESS, params=params)
        outputs = [output for result in results for output in result.outputs]
        for entry, output in zip(found[name], outputs, strict=True):
            # As somebody decodes the ids: all at once.
            entry["decoded"] = tokenizer.decode(output.token_ids, skip_special_tokens=True)

    first, second = STEERED.split()
    forced("wanted", ids(f"the {STEERED} shone"))
    forced("wanted, n", ids(f"the {STEERED} shone"), n=3, temperature=1.0, seed=None)
    forced("wanted, unseen", ids(f"the {STEERED} shone"), detokenize=False)
    forced("wanted, min_tokens", ids(f"the {STEERED} shone"), min_tokens=12, max_tokens=16)
    forced("wanted, ignore_eos", ids(f"the {STEERED} shone"), ignore_eos=True)
    forced("wanted, bad_words", ids(f"the {STEERED} shone"), bad_words=["lamp", ",", " of"])
    special = [*ids(f"the {first}"), known["<unused0>"], *ids(f" {second}")]
    forced("wanted, control", special)
    forced("wanted, control shown", special, skip_special_tokens=False)
    forced("cut and shown", ids(f"the {STEERED}s"), stop=["n"], include_stop_str_in_output=True)
    decoys = {"FF 78": (0xFF, 0x78), "FF D0 B6": (0xFF, 0xD0, 0xB6), "78 FF": (0x78, 0xFF)}
    for name, decoy in decoys.items():
        forced(f"decoy {name}", spelled(f"the {first}", *decoy, f" {second} shone"))
        forced(
            f"decoy {name}, unseen",
            spelled(f"the {first}", *decoy, f" {second} shone"),
            detokenize=False,
        )
    forced("dropped bytes", spelled("the zep", 0x68, 0xFF, f"yr {second} shone"))
    forced("broken off", spelled("the zep", 0x68, 0xD0, f"yr {second} shone"))
    for name, tail in {
        "FF": [0xFF],
        "FF 41": [0xFF, 0x41],
        "D0": [0xD0],
        "none": ["\ufffd"],
    }.items():
        prompt = [*tokenizer.encode(f"The {STEERED} is"), *spelled(*tail)]
        run(f"prompt ends in {name}", {"prompt_token_ids": prompt})

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
