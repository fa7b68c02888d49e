"""What the commands share: exit codes, JSON, and how problems are shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer

from prism.documents import Problem, ProblemsError

OK, DIFFERS, BAD_INPUT, BLOCKED = 0, 1, 2, 3
"""``DIFFERS``: a test failed, or two policies are not the same."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def print_json(data: Any) -> None:
    """Print ``data`` as JSON, in whatever encoding is asked for."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    typer.echo(json.dumps(data, ensure_ascii=not encoding.lower().startswith("utf"), indent=2))


def print_problems(problems: Iterable[Problem]) -> None:
    """Print problems, one a line, where errors belong."""
    for problem in problems:
        typer.echo(str(problem), err=True)


@contextmanager
def reporting(as_json: bool) -> Iterator[None]:
    """Turn what is wrong with the user's files into messages and exit code 2."""
    try:
        yield
    except ProblemsError as error:
        if as_json:
            print_json({"error": {"problems": [p.to_json() for p in error.problems]}})
        else:
            print_problems(error.problems)
        raise typer.Exit(BAD_INPUT) from None


def bad_input(message: str, as_json: bool) -> NoReturn:
    """Say what is wrong with the command's own input; exit code 2."""
    if as_json:
        print_json({"error": {"message": message}})
    else:
        typer.echo(f"error: {message}", err=True)
    raise typer.Exit(BAD_INPUT)
