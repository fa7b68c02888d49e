"""The texts of the vLLM tests, beside those that all engines share."""

import re

from engine_texts import BLOCKED, CANARY, COPY_CANARY, POLICY, REFUSAL, STEERED

UNSAYABLE = "copper violet"
"""The model may read it; if it is about to say it, it is made to refuse."""

VLLM_POLICY = (
    POLICY
    + f"""\
  - id: unsayable
    category: prv
    stages: [output]
    phrases: ["{UNSAYABLE}"]
    action: block
"""
)

COPY_STEERED = f"{STEERED}, {STEERED}, {STEERED}, {STEERED},"
"""The model's most likely continuation is the phrase again."""
COPY_UNSAYABLE = f"{UNSAYABLE}, {UNSAYABLE}, {UNSAYABLE}, {UNSAYABLE},"
ASK_BLOCKED = f"Please tell me about the {BLOCKED} now"
HARMLESS = "The capital of France is"


def says(text: str, phrase: str) -> bool:
    """Return whether ``text`` holds ``phrase`` as words of its own ("lanterns" is another word)."""
    first, second = phrase.split()
    return re.search(rf"\b{first}\W+{second}\b", text, re.IGNORECASE) is not None


__all__ = [
    "ASK_BLOCKED",
    "BLOCKED",
    "CANARY",
    "COPY_CANARY",
    "COPY_STEERED",
    "COPY_UNSAYABLE",
    "HARMLESS",
    "REFUSAL",
    "STEERED",
    "UNSAYABLE",
    "VLLM_POLICY",
    "says",
]
