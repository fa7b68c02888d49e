"""``prism policy test``."""

from __future__ import annotations

from typing import Annotated

import typer

from prism.cli.output import DIFFERS, Json, print_json, reporting
from prism.cli.policy.lint import expand
from prism.cli.settings import server_models


def run(
    files: Annotated[
        list[str], typer.Argument(help="Policy files, shipped names, tests files, or folders.")
    ],
    as_json: Json = False,
) -> None:
    """Run the tests beside policies: NAME.yaml has its tests in NAME.tests.yaml.

    Exit code 0: all passed. 1: a test failed. 2: bad input.

    \b
    Example:
      prism policy test house.yaml
      prism policy test --json default strict
    """
    from prism.policy.testing import SUFFIX, load_suite, run_suite, suite_path

    outcomes = []
    with reporting(as_json):
        # A policy and its own tests file, as a shell's * gives them, are one suite.
        refs = {suite_path(ref): ref for ref in expand(files, f"*{SUFFIX}")}
        suites = [load_suite(ref) for ref in refs.values()]
        models = server_models()
        for suite in suites:
            outcomes += run_suite(suite, models)
    failed = [outcome for outcome in outcomes if not outcome.passed]
    if as_json:
        print_json(
            {
                "passed": len(outcomes) - len(failed),
                "failed": len(failed),
                "tests": [outcome.to_json() for outcome in outcomes],
            }
        )
    else:
        for outcome in failed:
            text = outcome.text if len(outcome.text) <= 70 else outcome.text[:67] + "…"
            fired = f" (fired: {', '.join(outcome.rules)})" if outcome.rules else ""
            typer.echo(
                f"{outcome.file}:{outcome.line}: {outcome.name}: {outcome.why}{fired}: {text!r}"
            )
        typer.echo(f"{len(outcomes) - len(failed)} passed, {len(failed)} failed")
    if failed:
        raise typer.Exit(DIFFERS)
