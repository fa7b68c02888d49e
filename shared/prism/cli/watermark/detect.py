"""``prism watermark detect``: how likely is it that a text carries a key's watermark?"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from prism.cli.given import given_text
from prism.cli.output import Json, bad_input, print_json

LARGEST_ID = 2**31 - 1
"""Engines keep token ids as signed 32-bit integers."""


def detect(
    text: Annotated[
        str | None, typer.Argument(help="The text; - or nothing reads standard input.")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="The model's tokenizer.json, or its GGUF file (needs llama-cpp-python)."),
    ] = None,
    ids: Annotated[
        bool, typer.Option("--ids", help="The text is a JSON list of token ids.")
    ] = False,
    key_env: Annotated[
        str, typer.Option(help="The environment variable that holds the 64-bit key.")
    ] = "PRISM_WATERMARK_KEY",
    context_width: Annotated[
        int, typer.Option(min=1, max=16, help="As when the text was made; vLLM's default is 4.")
    ] = 4,
    threshold: Annotated[
        float, typer.Option(min=1e-12, max=0.5, help="The p-value from which on it is detected.")
    ] = 0.01,
    as_json: Json = False,
) -> None:
    """Look for a key's watermark in a text, without the prompt.

    Prints the p-value, how many tokens were scored, and what that doesn't mean. Exit code 0
    whether or not it is found, 2 for bad input.

    \b
    Example:
      PRISM_WATERMARK_KEY=0x1234 prism watermark detect --tokenizer model/tokenizer.json - < a.txt
    """
    # Late: they take NumPy along, and `prism --help` doesn't need it.
    from prism.steer.watermark import CAVEATS, WatermarkKey, WatermarkKeyError
    from prism.steer.watermark import detect as look

    try:
        key = WatermarkKey.from_env(key_env, context_width)
    except WatermarkKeyError as error:
        bad_input(str(error), as_json)
    given = given_text(text, as_json)
    tokens = _ids(given, as_json) if ids else _tokenise(given, tokenizer, as_json)
    found = look(key, tokens, threshold)
    if as_json:
        report: dict[str, Any] = {
            "detected": found.detected,
            "p_value": found.p_value,
            "score": found.score,
            "tokens_scored": found.tokens,
            "tokens": len(tokens),
            "threshold": threshold,
            "caveats": list(CAVEATS),
        }
        print_json(report)
        return
    verdict = "watermark detected" if found.detected else "watermark not detected"
    typer.echo(f"{verdict}: p = {found.p_value:.3g} over {found.tokens} scored tokens")
    for caveat in CAVEATS:
        typer.echo(f"  - {caveat}")


def _ids(text: str, as_json: bool) -> list[int]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        bad_input("--ids: the input is not JSON; give a list like [12, 345]", as_json)
    if not isinstance(value, list) or not all(
        isinstance(i, int) and not isinstance(i, bool) and 0 <= i <= LARGEST_ID for i in value
    ):
        bad_input("--ids: the input is not a list of token ids like [12, 345]", as_json)
    return value


def _tokenise(text: str, path: Path | None, as_json: bool) -> list[int]:
    if path is None:
        bad_input("say how to read the text: --tokenizer FILE, or --ids", as_json)
    if not path.is_file():
        bad_input(f"--tokenizer: no such file: {path}", as_json)
    if path.suffix == ".gguf":
        return _tokenise_gguf(text, path, as_json)
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        bad_input(f"--tokenizer: {path} is no tokenizer.json: {error}", as_json)
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def _tokenise_gguf(text: str, path: Path, as_json: bool) -> list[int]:
    # By name: the policy engine imports no inference engine (docs/adr/0011-guard-backends.md).
    try:
        plugin = import_module("llamacpp_prism.tokenise")
    except ImportError:
        fix = "`pip install '.[llamacpp]'` in a clone of PRISM"
        bad_input(f"--tokenizer: a GGUF file needs llama-cpp-python: {fix}", as_json)
    try:
        ids: list[int] = plugin.tokenise(path, text)
    except ValueError as error:
        bad_input(f"--tokenizer: {error}", as_json)
    return ids
