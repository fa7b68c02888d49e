"""The text that a command is about: an argument, or standard input."""

from __future__ import annotations

import sys

from prism.cli.output import bad_input

MAX_BYTES = 16 * 1024 * 1024


def given_text(text: str | None, as_json: bool) -> str:
    """Return ``text``; ``-`` or nothing reads standard input. Exits with 2 if it is wrong."""
    if text is not None and text != "-":
        if any("\ud800" <= char <= "\udfff" for char in text):  # how Python shows such bytes
            bad_input("the text is not valid UTF-8", as_json)
        return text
    if text is None and sys.stdin.isatty():
        bad_input("no text: give one, or - to read standard input", as_json)
    raw = sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        bad_input(f"standard input is larger than {MAX_BYTES // 1024 // 1024} MiB", as_json)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        bad_input(f"standard input is not valid UTF-8 (byte {error.start})", as_json)
