"""``prism tenant show``."""

from __future__ import annotations

from typing import Any

import typer

from prism.cli.output import Json, print_json, reporting
from prism.cli.tenant.common import Config, Name, describe, store


def show(name: Name, config: Config = None, as_json: Json = False) -> None:
    """Show a tenant: policy in effect, limits and keys, never what the keys are.

    ``held by floor`` lists rules of the floor that the tenant's own policy lacks or would loosen;
    they hold for it all the same. Exit code 0, or 2 if there is no such tenant or it is wrong.

    \b
    Example:
      prism tenant show acme
      prism tenant show acme --config prism.yaml --json
    """
    from prism.tenants import change

    with reporting(as_json):
        folder = store(config)
        data = describe(folder, folder.read(change.known(folder, name)))
    if as_json:
        print_json(data)
        return
    for label, text in _lines(data):
        typer.echo(f"{label + ':':<15}{text}")


def _lines(data: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [("tenant", data["tenant"])]
    if data["title"]:
        lines.append(("title", data["title"]))
    lines += [("status", data["status"]), ("file", data["file"]), ("policy", _policy(data))]
    if data["mode"]:
        lines.append(("mode", data["mode"]))
    if "canary" in data:
        canary = data["canary"]
        share = f"{canary['share']:.1%} of requests"
        lines.append(("canary", f"{canary['id']} ({canary['digest'][:12]}), {share}"))
    if data["held_by_floor"]:
        lines.append(("held by floor", ", ".join(data["held_by_floor"])))
    lines += [("limit", f"{key} {value}") for key, value in data["limits"].items()]
    for key in data["keys"]:
        ends = f", ends {key['expires']}" if key["expires"] else ""
        state = "" if key["live"] else ", expired"
        lines.append(("key", f"{key['id']}, made {key['created']}{ends}{state}"))
    if not data["keys"]:
        lines.append(("key", "none"))
    return lines


def _policy(data: dict[str, Any]) -> str:
    return f"{data['policy']['id']} ({data['policy']['digest'][:12]})"
