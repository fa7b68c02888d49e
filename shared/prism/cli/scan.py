"""``prism scan``: a data set through a policy."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from prism.cli.given import Policy
from prism.cli.output import Json, bad_input, reporting

if TYPE_CHECKING:
    from prism.assure.scan import Line, Summary


def scan(
    source: Annotated[
        str, typer.Argument(metavar="IN.jsonl", help="The rows; .gz is read too, - is stdin.")
    ],
    target: Annotated[
        str, typer.Argument(metavar="OUT.jsonl", help="The results; - is standard output.")
    ],
    policy: Policy = None,
    config: Annotated[
        str | None, typer.Option(help="A configuration file: its guard, and its policy.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes [default: one per core].")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Replace OUT.jsonl instead of going on with it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Judge every row of a file.

    A row is {"id", "prompt"?, "response"?}; its result is {"id", "decision", "action", "score",
    "categories", "spans", "tiers", "policy"}. `score` is the overall probability of harm, of all
    of the response if there is one, else of the prompt; null where no score model is on. Results
    are in the order of the rows. A row without an id is named by its "line"; a bad row becomes
    {"id" or "line", "error"} and the run goes on. Run it again after an interruption, and it goes
    on where it stopped.

    Exit code 0: all rows done. 2: bad input.

    \b
    Example:
      prism scan --policy house.yaml --workers 4 texts.jsonl results.jsonl
      zcat texts.jsonl.gz | prism scan - - | jq .score
    """
    from prism.assure.batch import open_judge
    from prism.assure.scan import (
        STANDARD,
        ScanError,
        Summary,
        cores,
        numbered,
        opened,
        resume,
        write,
    )
    from prism.assure.scan import scan as run

    if target == STANDARD and sys.stdout is None:
        bad_input("standard output is closed: give a file for the results", as_json)
    same = target != STANDARD and source != STANDARD and Path(target).exists()
    if same and Path(source).exists() and Path(source).samefile(target):
        bad_input("IN.jsonl and OUT.jsonl are the same file", as_json)
    with reporting(as_json):
        judge, digest = open_judge(policy, config)
    summary = Summary()
    try:
        with ExitStack() as stack:
            lines = numbered(stack.enter_context(opened(source)))
            out = stack.enter_context(_output(target, fresh))
            if Path(target).is_file() and target != STANDARD and not fresh:
                summary.resumed = resume(Path(target), lines, digest)
            move = stack.enter_context(_progress(source, summary))
            for batch, results in run(lines, judge, policy, config, workers or cores()):
                write(out, results)
                for result in results:
                    summary.add(result)
                move(batch)
    except ScanError as error:
        bad_input(str(error), as_json)
    except BrokenPipeError:  # who reads the results has enough of them: no fault of the input's
        raise
    except OSError as error:
        bad_input(f"{error.filename or target}: {error.strerror or error}", as_json)
    _report(summary, as_json, aside=target == STANDARD)


@contextmanager
def _output(target: str, fresh: bool) -> Iterator[IO[bytes]]:
    if target == "-":
        yield sys.stdout.buffer
        return
    with Path(target).open("wb" if fresh else "ab") as out:
        yield out


@contextmanager
def _progress(source: str, summary: Summary) -> Iterator[Callable[[list[Line]], None]]:
    """Show a bar where standard error is a terminal; yield what moves it on."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda batch: None
        return
    plain = source != "-" and not source.endswith(".gz")
    total = Path(source).stat().st_size if plain else None
    rows = TextColumn("{task.fields[rows]} rows, {task.fields[errors]} errors")
    with Progress(BarColumn(), rows, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("scan", total=total, rows=0, errors=0)

        def move(batch: list[Line]) -> None:
            read = sum(len(raw) for _, raw in batch)
            rows = summary.resumed + summary.rows
            bar.update(task, advance=read, rows=rows, errors=summary.errors)

        yield move


def _report(summary: Summary, as_json: bool, *, aside: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(summary), indent=2), err=aside)
        return
    actions = ", ".join(f"{count} {action}" for action, count in sorted(summary.actions.items()))
    resumed = f" ({summary.resumed} done before)" if summary.resumed else ""
    errors = f"{summary.errors} bad row{'' if summary.errors == 1 else 's'}"
    detail = ", ".join(part for part in (actions, errors) if part)
    rows = f"{summary.rows} row{'' if summary.rows == 1 else 's'}"
    typer.echo(f"{rows}{resumed}: {detail}", err=True)
