"""``prism tenant list``."""

from __future__ import annotations

import typer

from prism.cli.output import Json, print_json, reporting
from prism.cli.tenant.common import Config, store


def list_(config: Config = None, as_json: Json = False) -> None:
    """List the tenants: id, status, policy in effect, keys that work.

    Checks all of them on the way. Exit code 0, or 2 with everything that is wrong.

    \b
    Example:
      prism tenant list
      prism tenant list --json
    """
    import time

    with reporting(as_json):
        tenants = sorted(store(config).load().tenants.values(), key=lambda tenant: tenant.id)
    now = time.time()
    rows = [
        {
            "tenant": tenant.id,
            "status": "disabled" if tenant.disabled else "active",
            "policy": tenant.policy.id,
            "digest": tenant.policy.digest,
            "live_keys": sum(key.live(now) for key in tenant.keys),
        }
        for tenant in tenants
    ]
    if as_json:
        print_json(rows)
        return
    width = max([len(tenant.id) for tenant in tenants], default=0)
    for row in rows:
        keys = "1 key" if row["live_keys"] == 1 else f"{row['live_keys']} keys"
        policy = f"{row['policy']} ({str(row['digest'])[:12]})"
        typer.echo(f"{row['tenant']:<{width}}  {row['status']:<8}  {policy}  {keys}")
