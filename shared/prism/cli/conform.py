"""``prism conform``: what others complained of, replayed against a running server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prism.cli.output import BAD_INPUT, Json, bad_input, print_json

if TYPE_CHECKING:
    from prism.conform import Report, Result


def conform(
    url: Annotated[
        str | None, typer.Argument(help="The moderated server, e.g. http://127.0.0.1:8000.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(help="The key to ask with.")] = None,
    tenant_key_2: Annotated[
        str | None, typer.Option(help="The key of a tenant with one rule more (see --policy-2).")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model to ask for [default: the first that is listed].")
    ] = None,
    upstream: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The scripted engine behind it, to ask what reached it."),
    ] = None,
    log: Annotated[Path | None, typer.Option(help="The server's log, to look for texts.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only checks whose names begin so; may be given again."),
    ] = None,
    patience: Annotated[
        float, typer.Option(min=1, help="Seconds until an answer counts as hanging.")
    ] = 60.0,
    latency_budget: Annotated[
        float, typer.Option(min=0, help="Seconds that moderation may add to a short request.")
    ] = 0.25,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report here, as a web page.")
    ] = None,
    serve_upstream: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            min=1,
            max=65535,
            help="Be the scripted engine on this port, for a server under test to stand before.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Where the scripted engine listens.")] = "127.0.0.1",
    policy: Annotated[
        bool, typer.Option("--policy", help="Print the policy to put the server under, and end.")
    ] = False,
    policy_2: Annotated[
        bool,
        typer.Option(
            "--policy-2", help="Print the second tenant's rule, to go below that policy, and end."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Replay what users of guardrails complained of, against any moderated server.

    The server has to block two made-up phrases (see --policy), and should stand in front of the
    scripted engine (--serve-upstream), which says what a check needs said. With llama.cpp or vLLM
    behind it, what only the scripted engine can say is reported as not applicable.

    Exit code 0: all that could be asked passed. 3: a check failed. 2: the server can't be tested,
    or a check could not be carried out.

    \b
    Example:
      prism conform --serve-upstream 9001 &
      prism conform --policy > conformance.yaml
      prism proxy --upstream http://127.0.0.1:9001 --policy conformance.yaml --port 8000 &
      prism conform http://127.0.0.1:8000 --upstream http://127.0.0.1:9001 --html report.html
    """
    from prism.conform.texts import POLICY, SECOND_RULE

    if policy or policy_2:
        typer.echo(SECOND_RULE if policy_2 else POLICY, nl=False)
        return
    if serve_upstream is not None:
        _serve(host, serve_upstream)
        return
    if url is None:
        bad_input("no URL: give that of the moderated server", as_json)
    from prism.http.upstream import AddressError, parse_address

    try:
        addresses = [None if text is None else str(parse_address(text)) for text in (url, upstream)]
    except AddressError as error:
        bad_input(str(error), as_json)
    if log is not None and not log.is_file():
        bad_input(f"{log}: no such file; --log takes the log that the server is writing", as_json)
    if html is not None and not html.parent.is_dir():
        bad_input(f"{html}: there is no such folder; --html takes the file to write", as_json)

    import asyncio

    from prism.conform import Options, run
    from prism.conform.target import NoTarget

    options = Options(
        url=str(addresses[0]).rstrip("/"),
        api_key=api_key,
        second_key=tenant_key_2,
        model=model,
        upstream=None if addresses[1] is None else addresses[1].rstrip("/"),
        log=None if log is None else str(log),
        patience=patience,
        latency_budget=latency_budget,
    )
    try:
        report = asyncio.run(run(options, only=only or (), tell=None if as_json else _tell))
    except NoTarget as error:
        bad_input(str(error), as_json)
    if not report.results:
        bad_input(f"no check's name begins with {' or '.join(only or ())}", as_json)
    if html is not None:
        _write(html, report, as_json)
    if as_json:
        print_json(report.as_dict())
    else:
        _sum_up(report)
        if html is not None:
            typer.echo(f"report: {html}")
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _tell(result: Result) -> None:
    typer.echo(
        f"{result.outcome.value:<14}  {result.check.name:<34}  {result.check.title}\n"
        f"{'':<16}{result.evidence}"
    )


def _sum_up(report: Report) -> None:
    told = ", ".join(f"{number} {outcome.value}" for outcome, number in report.counts.items())
    typer.echo(f"\n{told}")
    if report.exit_code == BAD_INPUT:
        typer.echo("not a result: something could not be carried out", err=True)


def _write(path: Path, report: Report, as_json: bool) -> None:
    from datetime import UTC, datetime

    from prism.conform.report import html

    try:
        path.write_text(html(report, datetime.now(UTC)), encoding="utf-8")
    except OSError as error:
        bad_input(f"{path}: {error.strerror}; --html takes the file to write", as_json)


def _serve(host: str, port: int) -> None:
    import uvicorn

    from prism.conform.upstream import Upstream

    typer.echo(f"prism: the scripted engine listens on http://{host}:{port}", err=True)
    uvicorn.run(
        Upstream().app, host=host, port=port, log_level="error", access_log=False, lifespan="off"
    )
