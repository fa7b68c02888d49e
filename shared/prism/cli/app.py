"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from prism import __version__
from prism.cli import audit, bench, check, conform, proxy, scan, serve
from prism.cli import eval as eval_
from prism.cli.policy import compile as compile_
from prism.cli.policy import diff, lint, show, test
from prism.cli.tenant import add, disable, rotate
from prism.cli.tenant import list as list_tenants
from prism.cli.tenant import show as show_tenant
from prism.cli.watermark import detect as detect_watermark

SETTINGS = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    help="One moderation policy for every open LLM server.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings=SETTINGS,
)
policy = typer.Typer(
    help="Check, test, explain and compare policies.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=SETTINGS,
)
app.add_typer(policy, name="policy")
tenant = typer.Typer(
    help="Say who may use the server, under which policy, and how much.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=SETTINGS,
)
app.add_typer(tenant, name="tenant")
records = typer.Typer(
    help="Read back the log of decisions.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=SETTINGS,
)
app.add_typer(records, name="audit")
watermark = typer.Typer(
    help="Look for the watermark that a policy had models put into their texts.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=SETTINGS,
)
app.add_typer(watermark, name="watermark")

app.command("check")(check.check)
app.command("serve", context_settings=serve.CONTEXT)(serve.serve)
app.command("proxy")(proxy.proxy)
app.command("scan")(scan.scan)
app.command("eval")(eval_.evaluate)
app.command("conform")(conform.conform)
app.command("bench")(bench.bench)
policy.command("lint")(lint.lint)
policy.command("test")(test.run)
policy.command("show")(show.show)
policy.command("diff")(diff.diff)
policy.command("compile")(compile_.compile_)
records.command("verify")(audit.verify)
records.command("fingerprint")(audit.fingerprint)
tenant.command("add")(add.add)
tenant.command("rotate")(rotate.rotate)
tenant.command("show")(show_tenant.show)
tenant.command("list")(list_tenants.list_)
tenant.command("disable")(disable.disable)
watermark.command("detect")(detect_watermark.detect)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"prism {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """One moderation policy for every open LLM server."""
