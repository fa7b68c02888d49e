"""``prism audit``: is the log of decisions all there, and as it was written?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prism.cli.given import given_text
from prism.cli.output import DIFFERS, Json, bad_input, print_json

if TYPE_CHECKING:
    from prism.record.chain import Head, Keys

KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", help="The log's key [default: PRISM_AUDIT_KEY, if it is set]."),
]


def verify(
    file: Annotated[Path, typer.Argument(help="The log, as prism.yaml names it.")],
    key_file: KeyFile = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="SEQ:DIGEST",
            help="The last line of what was moved away: the log goes on from there.",
        ),
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="SEQ:DIGEST", help="A line that must be in it: the head of an earlier run."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Follow the chain of an audit log through all its parts, and check every line's seal.

    Finds lines that were changed, put in, taken out or cut off. Without the key the chain is
    followed alone: whoever can write the files can also chain them anew. Note the head that is
    printed where they can't, and give it as --expect next time. Exit code 0, 1 if anything is
    wrong, 2 if the log can't be read.

    \b
    Example:
      prism audit verify audit.jsonl --key-file audit.key
      prism audit verify audit.jsonl --expect 4711:9f86d081884c7d65...
    """
    from prism.record.verify import verify as read_back

    keys = _keys(key_file, as_json)
    begin, wanted = _head(start, as_json), _head(expect, as_json)
    try:
        report = read_back(file, keys, start=begin, expect=wanted)
    except OSError as error:
        bad_input(f"can't read {error.filename or file}: {error.strerror}", as_json)
    if as_json:
        print_json(report.as_dict())
    else:
        for flaw in report.flaws:
            typer.echo(str(flaw), err=True)
        untold = report.flaws_in_all - len(report.flaws)
        if untold:
            typer.echo(f"... and {untold} more", err=True)
        lines = f"{report.lines} line{'' if report.lines == 1 else 's'}"
        seals = "seals checked" if report.seals else "seals not checked: no key"
        typer.echo(f"{'ok' if report.ok else 'NOT AS WRITTEN'}: {lines}, {seals}")
        typer.echo(f"head {report.head}")
    if not report.ok:
        raise typer.Exit(DIFFERS)


def fingerprint(
    text: Annotated[str, typer.Argument(help="The text, or - for standard input.")],
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Print a text's fingerprint as the audit log has it, to look for the line it is in.

    A log holds the fingerprints of a request's whole prompt (`prompt`: all messages, a line break
    between them), of its last user message (`last_user`) and of every channel of its answer
    (`0.content`), as they went out.

    \b
    Example:
      grep $(prism audit fingerprint "What is a zephyr lantern?" --key-file audit.key) audit.jsonl
    """
    keys = _keys(key_file, as_json)
    if keys is None:
        bad_input("a fingerprint needs the log's key: set PRISM_AUDIT_KEY or --key-file", as_json)
    found = keys.fingerprint_of(given_text(text, as_json))
    if as_json:
        print_json({"fingerprint": found})
    else:
        typer.echo(found)


def _keys(path: Path | None, as_json: bool) -> Keys | None:
    from prism.config import AUDIT_KEY_ENV
    from prism.record.chain import MIN_KEY, Keys

    text = os.environ.get(AUDIT_KEY_ENV)
    if path is not None:
        try:
            text = path.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not plain text"
            bad_input(f"can't read {path}: {reason}", as_json)
    if text is None:
        return None
    if len(text.strip()) < MIN_KEY:
        bad_input(f"the key is shorter than {MIN_KEY} characters", as_json)
    return Keys(text.strip().encode())


def _head(text: str | None, as_json: bool) -> Head | None:
    from prism.record.chain import Head

    if text is None:
        return None
    try:
        return Head.parse(text)
    except ValueError as error:
        bad_input(str(error), as_json)
