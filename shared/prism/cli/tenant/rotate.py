"""``prism tenant rotate``."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from prism.cli.output import Json, bad_input, print_json, reporting
from prism.cli.tenant.common import Config, Lifetime, Name, key_data, seconds, store, tell


def rotate(
    name: Name,
    expire_old: Annotated[
        str | None,
        typer.Option(metavar="SPAN", help="Let the older key work for that long, say 7d."),
    ] = None,
    revoke_old: Annotated[
        bool, typer.Option("--revoke-old", help="End the older key now: it has leaked.")
    ] = False,
    expires: Lifetime = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Give a tenant a new key and print it. The key is shown this once and kept only as a hash.

    Two keys work at a time: the new one and the one before, which goes on until the next rotation
    unless an option says otherwise. Exit code 0, or 2 if nothing has changed.

    \b
    Example:
      prism tenant rotate acme --expire-old 7d
      prism tenant rotate acme --revoke-old --json
    """
    from prism.tenants import change

    if revoke_old and expire_old is not None:
        bad_input("give --expire-old or --revoke-old, not both", as_json)
    overlap = 0.0 if revoke_old else seconds(expire_old, "--expire-old", as_json)
    lifetime = seconds(expires, "--expires", as_json)
    with reporting(as_json):
        done = change.rotate(
            store(config), name, now=time.time(), lifetime=lifetime, overlap=overlap
        )
    kept = [key_data(key) for key in done.kept]
    if as_json:
        print_json(
            {
                "tenant": name,
                "key": done.key.text,
                "key_id": done.key.id,
                "kept": kept,
                "removed": list(done.removed),
            }
        )
        return
    for key in kept:
        tell(f"key {key['id']} works until {key['expires'] or 'the next rotation'}")
    for key_id in done.removed:
        tell(f"key {key_id} no longer works")
    tell(f"new key of {name}, shown this once:")
    typer.echo(done.key.text)
