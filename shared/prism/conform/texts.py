"""The phrases that a server under test has to be configured to block. All are made up."""

from __future__ import annotations

ASKED = "gibbous teapot"
"""Blocked when it is asked. No card says it."""

SAID = "marzipan gasket"
"""Blocked when it is said. No request holds it, but where an engine is told word for word."""

SECOND = "plaid thunder"
"""Said and asked freely, but blocked for the holder of the second key."""

STEMS = ("marzi", "gask")
"""What a client must not see of ``SAID`` if the server holds back what may become a match."""

POLICY = f"""\
prism: 1
id: conformance
messages:
  en: This is withheld.
rules:
  - id: asked
    category: prv
    stages: [prompt]
    phrases: [{ASKED}]
    action: block
  - id: said
    category: prv
    stages: [output]
    phrases: [{SAID}]
    action: block
"""

SECOND_RULE = f"""\
  - id: second
    category: prv
    stages: [prompt, output]
    phrases: [{SECOND}]
    action: block
"""
