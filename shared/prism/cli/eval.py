"""``prism eval``: how right a policy's scores are, on labelled texts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prism.cli.output import Json, bad_input, print_json, reporting

if TYPE_CHECKING:
    from prism.assure.dataset import Answers, Dataset

INTERVALS = ("auprc", "recall_at_fpr")
"""Measures whose intervals fit on a terminal; the report has all."""


def evaluate(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA.jsonl…", help='Rows {"prompt"?, "response"?, "label", …}; .gz too.'
        ),
    ],
    policy: Annotated[
        list[str] | None,
        typer.Option(help="A policy file or a shipped name; twice to compare two."),
    ] = None,
    results: Annotated[
        list[str] | None,
        typer.Option(help="Results of `prism scan` instead of a policy; twice to compare."),
    ] = None,
    html: Annotated[str | None, typer.Option(help="Write a report with plots here.")] = None,
    score: Annotated[
        str, typer.Option(help="Which score is measured: harm, or a category such as inj.")
    ] = "harm",
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="From which score on a text counts as unsafe.")
    ] = 0.5,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamplings for the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the resamplings.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure AUPRC, F1 and recall at 1 % false positives, with 95 % intervals.

    Rows have `label` 1 (unsafe) or 0 (safe), of the response if there is one, and may have
    `category` and `lang`: figures are overall, per file, per category (against all safe rows) and
    per language. With two policies or results, the difference is told too. See docs/evaluation.md.

    Exit code 0: measured. 2: bad input.

    \b
    Example:
      prism eval --policy default --html report.html texts.jsonl more.jsonl.gz
      prism eval --policy default --policy house.yaml texts.jsonl
      prism eval --results mine.jsonl --results theirs.jsonl --json texts.jsonl
    """
    from prism.assure.dataset import Dataset
    from prism.assure.evaluate import Options
    from prism.assure.evaluate import evaluate as measure
    from prism.assure.report import html as report
    from prism.assure.scan import ScanError

    if len(policy or []) + len(results or []) > 2:
        bad_input("at most two policies or results can be compared", as_json)
    if html is not None and not Path(html).parent.is_dir():  # said before the work, not after
        bad_input(f"--html: no such folder: {Path(html).parent}", as_json)
    try:
        dataset = Dataset.read_all(data)
        systems = _systems(policy or [], results or [], dataset, score, as_json)
        result = measure(dataset, systems, Options(score, threshold, bootstrap, seed))
        if html is not None:
            Path(html).write_text(report(result), encoding="utf-8")
    except (ScanError, OSError) as error:
        bad_input(str(error), as_json)
    if as_json:
        for system in result["systems"]:  # plots need these, people and programs don't
            del system["curve"], system["cost"]["single_ms_sample"]
        print_json(result)
    else:
        _print(result, html)


def _systems(
    policies: list[str], results: list[str], dataset: Dataset, score: str, as_json: bool
) -> list[Answers]:
    from prism.assure.batch import open_judge
    from prism.assure.dataset import ask, read_results

    systems = [read_results(path, dataset.examples, score) for path in results]
    refs: list[str | None] = [*policies] or ([] if results else [None])
    for ref in refs:
        with reporting(as_json):
            judge, _ = open_judge(ref, None)
        called = ref or "the configured policy"
        with _progress(called, len(dataset.examples)) as done:
            systems.append(ask(judge, called, dataset.examples, score, done))
    return systems


@contextmanager
def _progress(called: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar where standard error is a terminal; yield what moves it on."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(called, total=total)
        yield lambda count: bar.update(task, advance=count)


def _print(result: dict[str, Any], html: str | None) -> None:
    from rich.console import Console
    from rich.table import Table

    from prism.assure.report import TITLES

    data = result["data"]
    typer.echo(
        f"{data['measured']} texts, {data['unsafe']} unsafe ({data['unlabelled']} rows without "
        f"label, {data['bad']} bad, {data['without_score']} without score)"
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True, max_width=40)
    for title in ("unsafe", "safe", *TITLES.values()):
        table.add_column(title, justify="right", no_wrap=True)
    for system in result["systems"]:
        _row(table, system["name"], system["overall"], sure=True)
        for kind, members in system["groups"].items():
            for name, measures in members.items():
                _row(table, f"  {kind} {name}", measures)
    if result["difference"] is not None:
        _row(table, "second less first", result["difference"]["overall"], sure=True)
    Console(width=170, highlight=False).print(table)
    if html is not None:
        typer.echo(f"report: {html}")


def _row(table: Any, name: str, measures: dict[str, Any], *, sure: bool = False) -> None:
    from rich.markup import escape

    from prism.assure.report import TITLES

    cells = []
    for key in TITLES:
        measure = measures[key]
        cell = "-" if measure is None else f"{measure['value']:.3f}"
        if sure and measure is not None and measure["interval"] and key in INTERVALS:
            low, high = measure["interval"]
            cell += f" [{low:.3f}, {high:.3f}]"
        cells.append(escape(cell))
    counts = [str(measures.get(key, "")) for key in ("unsafe", "safe")]
    table.add_row(escape(name), *counts, *cells)
