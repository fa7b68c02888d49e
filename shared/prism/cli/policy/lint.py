"""``prism policy lint``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prism.cli.output import BAD_INPUT, DIFFERS, Json, print_json, print_problems


def lint(
    files: Annotated[
        list[str], typer.Argument(help="Policy files, shipped names, or folders of them.")
    ],
    floor: Annotated[
        str | None, typer.Option(help="Check them as they are in effect above this floor.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on warnings.")] = False,
    as_json: Json = False,
) -> None:
    """Say what is wrong with policies: file, line, column, key, and what would be right.

    Tests files, taxonomies and registers of marginal risk are checked too.
    Exit code 0: no errors. 2: errors. 1: warnings, with --strict.

    \b
    Example:
      prism policy lint house.yaml
      prism policy lint --floor strict --json tenants/
    """
    from prism.policy.lint import lint as lint_file

    found = {ref: lint_file(ref, floor=floor) for ref in expand(files, "*.yaml")}
    problems = [problem for each in found.values() for problem in each]
    errors = sum(problem.severity == "error" for problem in problems)
    if as_json:
        print_json(
            {
                "errors": errors,
                "warnings": len(problems) - errors,
                "files": {ref: [p.to_json() for p in each] for ref, each in found.items()},
            }
        )
    else:
        print_problems(problems)
        typer.echo(
            f"{_count(len(found), 'file')}: {_count(errors, 'error')}, "
            f"{_count(len(problems) - errors, 'warning')}"
        )
    if errors:
        raise typer.Exit(BAD_INPUT)
    if strict and problems:
        raise typer.Exit(DIFFERS)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def expand(refs: list[str], pattern: str) -> list[str]:
    """Return ``refs`` with folders replaced by the files in them, each once."""
    found: list[str] = []
    for ref in refs:
        inside = sorted(map(str, Path(ref).glob(pattern))) if Path(ref).is_dir() else []
        found += inside or [ref]
    return list(dict.fromkeys(found))
