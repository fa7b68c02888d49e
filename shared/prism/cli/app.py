"""The commands, put together."""

from __future__ import annotations

from typing import Annotated, Any

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


def _group(about: str, *examples: str, **more: Any) -> typer.Typer:
    """Return a command that has others, with its help: what it is about, and lines to try."""
    lines = "\n".join(f"  {example}" for example in examples)
    return typer.Typer(
        help=f"{about}\n\n\b\nExample:\n{lines}",
        no_args_is_help=True,
        rich_markup_mode=None,
        context_settings=SETTINGS,
        **more,
    )


app = _group(
    "One moderation policy for every open LLM server.",
    'prism check "Where is the zephyr lantern?"',
    "prism serve --model model.gguf",
    pretty_exceptions_enable=False,
    add_completion=False,
)
policy = _group(
    "Check, test, explain and compare policies.",
    "prism policy lint house.yaml",
    "prism policy test house.yaml",
)
tenant = _group(
    "Say who may use the server, under which policy, and how much.",
    "prism tenant add acme --requests-per-minute 600",
    "prism tenant list",
)
records = _group(
    "Read back the log of decisions.",
    "prism audit verify audit.jsonl --key-file audit.key",
)
watermark = _group(
    "Look for the watermark that a policy had models put into their texts.",
    "prism watermark detect --tokenizer model/tokenizer.json - < answer.txt",
)
app.add_typer(policy, name="policy")
app.add_typer(tenant, name="tenant")
app.add_typer(records, name="audit")
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
    """Take the options that belong to no command; the help is the group's own, above."""
