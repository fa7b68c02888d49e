"""``prism policy show``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from prism.cli.output import Json, print_json, reporting


def show(
    files: Annotated[list[str], typer.Argument(help="Policy files or shipped names.")],
    floor: Annotated[
        str | None, typer.Option(help="Show them as they are in effect above this floor.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show policies in effect, after inheritance and floor, with where each value came from.

    \b
    Example:
      prism policy show house.yaml
      prism policy show --floor strict --json house.yaml
    """
    from prism.policy.compiler import compose_policy, load_policy
    from prism.policy.show import explain, to_yaml

    shown = []
    with reporting(as_json):
        for ref in files:
            policy = load_policy(ref, floor=floor)
            sources = tuple(compose_policy(r) for r in (ref, floor) if r is not None)
            shown.append((policy, explain(policy, sources)))
    if as_json:
        print_json(
            [
                {"id": policy.id, "digest": policy.digest, "values": [asdict(row) for row in rows]}
                for policy, rows in shown
            ]
        )
    else:
        typer.echo("---\n".join(to_yaml(policy, rows) for policy, rows in shown), nl=False)
