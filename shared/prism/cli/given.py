"""What commands that judge texts are given: the text, and the policy to judge it by."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from prism.cli.output import bad_input

if TYPE_CHECKING:
    from prism.policy.compiled import CompiledPolicy

MAX_BYTES = 16 * 1024 * 1024
Policy = Annotated[
    str | None,
    typer.Option(
        help="A policy file or a shipped name [default: PRISM_CONFIG, PRISM_POLICY, `default`]."
    ),
]
"""The option ``--policy``."""


def given_policy(ref: str | None, floor: str | None = None) -> CompiledPolicy:
    """Return the policy of the option, and without it the environment's.

    Raises ``ProblemsError``.
    """
    from prism.config import DEFAULT_POLICY, Settings
    from prism.policy.compiler import load_policy

    if ref is None and floor is None:
        return Settings.from_env().policy
    return load_policy(ref or DEFAULT_POLICY, floor=floor)


def given_text(text: str | None, as_json: bool) -> str:
    """Return ``text``; ``-`` or nothing reads standard input. Exits with 2 if it is wrong."""
    if text is not None and text != "-":
        if any("\ud800" <= char <= "\udfff" for char in text):  # how Python shows such bytes
            bad_input("the text is not valid UTF-8", as_json)
        return text
    # A process that was started with standard input closed has none at all.
    if sys.stdin is None or (text is None and sys.stdin.isatty()):
        bad_input("no text: give one, or - to read standard input", as_json)
    raw = sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        bad_input(f"standard input is larger than {MAX_BYTES // 1024 // 1024} MiB", as_json)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        bad_input(f"standard input is not valid UTF-8 (byte {error.start})", as_json)
