"""``prism policy compile``."""

from __future__ import annotations

from typing import Annotated

import typer

from prism.cli.output import Json, print_json, reporting


def compile_(
    files: Annotated[list[str], typer.Argument(help="Policy files or shipped names.")],
    floor: Annotated[
        str | None, typer.Option(help="Compile them as they are in effect above this floor.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the digest of policies in effect; with --json the whole canonical form.

    Two policies with the same digest do the same on every text.

    \b
    Example:
      prism policy compile house.yaml
      prism policy compile --json default > default.compiled.json
    """
    from prism.policy.canonical import canonical
    from prism.policy.compiler import load_policy

    with reporting(as_json):
        compiled = [(ref, load_policy(ref, floor=floor)) for ref in files]
    if as_json:
        print_json([{"id": p.id, "digest": p.digest, **canonical(p)} for _, p in compiled])
    else:
        for ref, policy in compiled:
            typer.echo(f"{policy.digest}  {policy.id}  {ref}")
