"""The texts that the engines' tests use."""

STEERED = "zephyr lantern"
"""The model may read it but not say it: a rule that steers, on outputs only."""

BLOCKED = "marble cinder"
"""Neither said nor read: a rule that blocks, on both stages."""

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
