"""``prism policy lint``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prism.cli.output import BAD_INPUT, DIFFERS, Json, print_json, print_problems, reporting
from prism.documents import Problem, ProblemsError
from prism.policy.store import shipped_names


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

    Tests files, taxonomies and registers of marginal risk are checked too; a prism.yaml as the
    server would at its start, with its policies and tenants.
    Exit code 0: no errors. 2: errors. 1: warnings, with --strict.

    \b
    Example:
      prism policy lint house.yaml
      prism policy lint --floor strict --json policies/
      prism policy lint prism.yaml
    """
    from prism.policy.lint import lint as lint_file

    with reporting(as_json):
        refs = expand(files, "*.yaml")
    found = {ref: lint_file(ref, floor=floor) for ref in refs}
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
    """Return ``refs`` with folders replaced by the files in them, each once.

    Raises ``ProblemsError`` for a folder without any. A shipped name means the policy, whatever
    folder there is.
    """
    found: list[str] = []
    problems: list[Problem] = []
    for ref in refs:
        if ref in shipped_names() or not Path(ref).is_dir():
            found.append(ref)
        elif inside := sorted(map(str, Path(ref).glob(pattern))):
            found += inside
        else:
            fix = "name the folder that they are in; folders inside it aren't searched"
            problems.append(Problem(ref, 0, 0, "", f"has no file {pattern} in it", fix))
    if problems:
        raise ProblemsError(problems)
    return list(dict.fromkeys(found))
