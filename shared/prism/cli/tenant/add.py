"""``prism tenant add``."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated

import typer

from prism.cli.output import Json, print_json, reporting
from prism.cli.tenant.common import Config, Lifetime, Name, policy_data, seconds, shown, store, tell


class ModeChoice(StrEnum):
    """What becomes of the tenant's own rules."""

    ENFORCE = "enforce"
    MONITOR = "monitor"


def add(
    name: Name,
    policy: Annotated[
        str | None,
        typer.Option(help="A policy file or a shipped name [default: the server's own policy]."),
    ] = None,
    mode: Annotated[
        ModeChoice | None,
        typer.Option(help="monitor: record what its rules would do; the floor holds all the same."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Who that is, for people.")] = None,
    requests: Annotated[
        int | None, typer.Option("--requests-per-minute", min=1, help="Requests a minute.")
    ] = None,
    streams: Annotated[
        int | None, typer.Option("--concurrent-streams", min=1, help="Answers at once.")
    ] = None,
    chars: Annotated[
        int | None,
        typer.Option("--chars-per-minute", min=1, help="Characters a minute, in and out."),
    ] = None,
    expires: Lifetime = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Add a tenant and print its key. The key is shown this once and kept only as a hash.

    The key alone goes to standard output; everything else to standard error. A running server
    knows the tenant about a second later. Exit code 0, or 2 if nothing was added.

    The configuration is --config, or $PRISM_CONFIG, or prism.yaml; it names the folder of tenants.

    \b
    Example:
      prism tenant add acme --policy strict --requests-per-minute 600
      prism tenant add demo --mode monitor --expires 30d --json
    """
    from prism.tenants import change
    from prism.tenants.keys import PEPPER_FILE

    limits = {
        "requests_per_minute": requests,
        "concurrent_streams": streams,
        "chars_per_minute": chars,
    }
    lifetime = seconds(expires, "--expires", as_json)
    with reporting(as_json):
        folder = store(config)
        pepper = folder.folder / PEPPER_FILE
        had_pepper = pepper.exists()
        added = change.add(
            folder,
            name,
            now=time.time(),
            title=title,
            policy=policy,
            mode=mode.value if mode is not None else None,
            limits={key: value for key, value in limits.items() if value is not None},
            lifetime=lifetime,
        )
    if pepper.exists() and not had_pepper:
        tell(f"made {shown(pepper)}: keep a copy apart; without it no key works")
    if as_json:
        print_json(
            {
                "tenant": name,
                "file": shown(added.path),
                "key": added.key.text,
                "key_id": added.key.id,
                "policy": policy_data(added.tenant.policy),
            }
        )
        return
    effective = added.tenant.policy
    tell(f"added {name} in {shown(added.path)}: policy {effective.id} ({effective.digest[:12]})")
    tell("its key, shown this once:")
    typer.echo(added.key.text)
