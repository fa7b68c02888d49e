"""The policy that the HTTP tests hold their engine to; its phrases are made up."""

from __future__ import annotations

from prism.http.selftest import Timing

MESSAGE = "This house does not say that."
POLICY = f"""
prism: 1
id: http-tests
messages:
  en: {MESSAGE}
  de: Das sagt man hier nicht.
rules:
  - id: everywhere
    category: prv
    stages: [prompt, output]
    phrases: [zephyr lantern]
    action: block
  - id: asked
    category: fra
    stages: [prompt]
    phrases: [gibbous teapot]
    action: block
  - id: said
    category: cyb
    stages: [output]
    phrases: [marzipan gasket]
    action: block
  - id: softened
    category: pii
    stages: [output]
    phrases: [walnut ferry]
    action: redact
  - id: noted
    category: tox
    stages: [prompt, output]
    phrases: [plaid thunder]
    action: flag
"""
FAST = Timing(first_retry=0.02, last_retry=0.2, probe=10.0, recheck=0.2)
