"""Runs a guard in vLLM's offline engine and prints what came out, as one line of JSON.

The policy of the environment blocks one of the texts; the judge must read it all the same.
"""

import json
import os
import sys
import time
from collections.abc import Callable

from vllm_texts import ASK_BLOCKED, COPY_STEERED, HARMLESS

from prism.classify.guard import GuardError, GuardInput, GuardLimits, LlmGuard
from prism.classify.guard.answers import choose
from prism.classify.guard.formats import FORMATS
from prism.classify.guard.types import Ask
from vllm_prism.guard_backend import VllmBackend

QUESTIONS = [
    f"Question: Is {what}? Answer Yes or No.\nAnswer:"
    for what in ("the sky blue", "snow black", "a zephyr a wind", "a lantern a wind")
]


def main(model: str) -> None:
    policy = os.environ["PRISM_POLICY"]
    backend = VllmBackend(
        model, context=768, dtype="bfloat16", enforce_eager=True, disable_log_stats=True
    )
    asks = [Ask(question, ("Yes", "No")) for question in QUESTIONS]
    got = backend.complete(asks, soon())
    (text,) = backend.complete([Ask("1, 2, 3,", max_tokens=9, stop=(" 6",))], soon())
    (steered,) = backend.complete([Ask(COPY_STEERED, max_tokens=4)], soon())

    guard = LlmGuard(FORMATS["wildguard"], backend, GuardLimits(deadline=300))
    items = [GuardInput((("user", text),)) for text in (HARMLESS, ASK_BLOCKED)]
    judged = guard.judge(items)
    again = guard.judge(items)
    found = {
        "yes": [choose(c, ask.answers)["Yes"] for ask, c in zip(asks, got, strict=True)],
        "tops": [len(completion.top or ()) for completion in got],
        "text": text.text,
        "steered": steered.text,
        "harm": [one.scores["harm"] for one in judged],
        "cached": again == judged and guard.hits == 2,
        "past deadline": error_of(lambda: backend.complete(asks, time.monotonic() - 1)),
        "short deadline": error_of(lambda: backend.complete(asks, time.monotonic() + 0.001)),
        "environment": os.environ["PRISM_POLICY"] == policy,
    }
    backend.close()
    found["closed"] = error_of(lambda: backend.complete(asks, soon()))
    print("RESULT " + json.dumps(found), flush=True)


def soon() -> float:
    return time.monotonic() + 300


def error_of(call: Callable[[], object]) -> str | None:
    try:
        call()
    except GuardError as error:
        return type(error).__name__
    return None


if __name__ == "__main__":
    main(sys.argv[1])
