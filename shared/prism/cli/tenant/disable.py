"""``prism tenant disable``."""

from __future__ import annotations

from typing import Annotated

import typer

from prism.cli.output import Json, print_json, reporting
from prism.cli.tenant.common import Config, Name, store


def disable(
    name: Name,
    undo: Annotated[bool, typer.Option("--undo", help="Switch it on again.")] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Switch a tenant off: its requests are answered 403, about a second from now.

    Its file and keys stay, and answers that have begun end as usual. Exit code 0, or 2 if nothing
    has changed.

    \b
    Example:
      prism tenant disable acme
      prism tenant disable acme --undo
    """
    from prism.tenants import change

    with reporting(as_json):
        folder = store(config)
        if undo:
            change.enable(folder, name)
        else:
            change.disable(folder, name)
    status = "active" if undo else "disabled"
    if as_json:
        print_json({"tenant": name, "status": status})
    else:
        typer.echo(f"{name} is {status}")
