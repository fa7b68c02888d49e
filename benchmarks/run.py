"""Measure everything, side by side, and write it down.

    make bench                                       # or:
    python benchmarks/run.py [--only PART ...] [--quick] [--json FILE] [--report]

Every case of every part runs in a process of its own; what is compared runs in turn within one.
Rows are written to the file as they come. A part that is measured again replaces what the file says
of it once it is complete, so a run can be interrupted and parts be repeated. ``--report`` renders
the file into docs/benchmarks.md. The engines' parts (llamacpp, vllm) need the engines and the 270M
model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from bench.parts import NAMES, part
from bench.report import render, told
from bench.rows import Book, Row
from bench.settings import GGUF, Case, Settings

_MARK = "ROW "
DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"


class CaseError(Exception):
    """A case's process ended badly."""


def main() -> None:
    """Run what was asked for."""
    options = _options()
    if options.case is not None:
        _inside(options)
        return
    settings = Settings(
        str(options.model), options.policy, options.quick, options.rounds,
        tuple(options.phrases), tuple(options.peers),
    )  # fmt: skip
    book = Book(options.json)
    failed = [name for name in options.only or NAMES if not run(name, settings, book)]
    if options.report:
        if options.json is None:
            raise SystemExit("--report needs --json FILE")
        render({"machine": book.machine, "parts": book.parts}, DOCUMENT)
    if failed:
        raise SystemExit(f"not complete: {', '.join(failed)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=NAMES, help="parts; all, if none is named")
    parser.add_argument("--quick", action="store_true", help="see that it works; no figures")
    parser.add_argument("--json", type=Path, help="the file of results")
    parser.add_argument("--report", action="store_true", help="write docs/benchmarks.md from it")
    parser.add_argument("--model", type=Path, default=GGUF, help="a GGUF file")
    parser.add_argument("--policy", default="default", help="a policy file or a shipped name")
    parser.add_argument("--rounds", type=int, default=0, help="instead of each part's own")
    parser.add_argument(
        "--phrases", type=_counts, default=(), help="how many, instead of 100,1000,10000,100000"
    )
    parser.add_argument("--peers", nargs="*", default=(), help="which; all, if none is named")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def _counts(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def run(name: str, settings: Settings, book: Book) -> bool:
    """Run one part; return whether it is complete."""
    begun = time.monotonic()
    errors = []
    book.begin(name, quick=settings.quick)
    try:
        print(f"\n{name}: {part(name).TITLE}", flush=True)
        cases = part(name).cases(settings)
    except ImportError as error:  # an engine that isn't installed: the other parts need none
        cases, errors = [], [str(error)]
        print(f"  {error}", file=sys.stderr, flush=True)
    for case in cases:
        try:
            for row in _apart(name, settings, case):
                book.add(name, row)
                print(f"  {told(asdict(row))}", flush=True)
        except CaseError as error:
            errors.append(str(error))
            print(f"  {error}", file=sys.stderr, flush=True)
    book.end(name, time.monotonic() - begun, errors)
    return not errors


def _apart(name: str, settings: Settings, case: Case) -> Iterator[Row]:
    """Run a case in another process; yield its rows as it says them."""
    command = [sys.executable, __file__, "--case", name, settings.dump(), json.dumps(case)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(_MARK):
                yield Row(**json.loads(line.removeprefix(_MARK)))
    if process.returncode:
        raise CaseError(f"{name} {json.dumps(case)}: exit code {process.returncode}")


def _inside(options: argparse.Namespace) -> None:
    name, settings, case = options.case
    for row in part(name).measure(Settings.load(settings), json.loads(case)):
        print(_MARK + json.dumps(asdict(row)), flush=True)


if __name__ == "__main__":
    main()
