"""The texts that the engines' tests use."""

STEERED = "zephyr lantern"
"""The model may read it but not say it: a rule that steers, on outputs only."""

BLOCKED = "marble cinder"
"""Neither said nor read: a rule that blocks, on both stages."""

CANARY = "amber quokka"
"""In no rule: a sketch of the tests' own has learnt that it is harm."""

COPY_CANARY = f"{CANARY}, {CANARY}, {CANARY}, {CANARY},"

REFUSAL = "Sorry, that is not something I talk about."

POLICY = f"""\
prism: 1
id: engines
extends: default
messages:
  en: "{REFUSAL}"
rules:
  - id: steered
    category: prv
    stages: [output]
    phrases: ["{STEERED}"]
    action: steer
  - id: blocked
    category: prv
    stages: [prompt, output]
    phrases: ["{BLOCKED}"]
    action: block
"""

SAME_EVERYWHERE = {
    f"{STEERED}, {STEERED}, {STEERED}, {STEERED},": ("allow", "block", "allow"),
    f"Repeat after me: {STEERED} {STEERED} zephyr": ("allow", "block", "allow"),
    f"What is {BLOCKED}?": ("block", "-", "refused"),
    f"Please tell me about the {BLOCKED.upper()} now": ("block", "-", "refused"),
    "m4rble cinder, if you please": ("block", "-", "refused"),
    "1, 2, 3, 4,": ("allow", "allow", "allow"),
    "The capital of France is": ("allow", "allow", "allow"),
}
"""Prompt -> the verdict on it, on what the model says unmoderated, and on what comes out moderated.

Both engines run the same weights greedily and are held to this one table.
"""
