"""What the commands on tenants share: which folder, spans of time, and how a tenant is shown."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prism.cli.output import bad_input
from prism.documents import Problem

if TYPE_CHECKING:
    from prism.policy.compiled import CompiledPolicy
    from prism.tenants.directory import Key
    from prism.tenants.store import Record, TenantStore

DEFAULT_CONFIG = "prism.yaml"

Config = Annotated[
    str | None,
    typer.Option(help="The prism.yaml that names the folder of tenants."),
]
Name = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id.")]
Lifetime = Annotated[
    str | None, typer.Option("--expires", metavar="SPAN", help="End the new key after, say, 90d.")
]

_SPAN = re.compile(r"([0-9]{1,6})([smhd])\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def store(config: str | None) -> TenantStore:
    """Return the folder that the configuration names. Raises ``ConfigError``."""
    from prism.config import ConfigError, Settings

    named = config or os.environ.get("PRISM_CONFIG")
    if named is None and not Path(DEFAULT_CONFIG).exists():
        message = "there is no such file here, and it is what names the folder of tenants"
        fix = "make it, with `floor: default` and `tenants: tenants/` in it, or give --config"
        raise ConfigError([Problem(DEFAULT_CONFIG, 0, 0, "", message, fix)])
    return Settings.tenant_store(named or DEFAULT_CONFIG)


def seconds(span: str | None, option: str, as_json: bool) -> float | None:
    """Return a span of time such as ``90d`` in seconds."""
    if span is None:
        return None
    match = _SPAN.match(span)
    if match is None or int(match[1]) == 0:
        bad_input(f"{option}: {span[:40]!r} is not a span of time; write it like 30m, 12h or 90d",
                  as_json)  # fmt: skip
    return int(match[1]) * _SECONDS[match[2]]


def tell(message: str) -> None:
    """Say something that is no part of the command's output."""
    typer.echo(message, err=True)


def key_data(key: Key, now: float | None = None) -> dict[str, Any]:
    """Return what may be shown of a key: all but its hash."""
    from prism.tenants.model import written

    moment = time.time() if now is None else now
    return {
        "id": key.id,
        "live": key.live(moment),
        "expires": written(key.expires) if key.expires is not None else None,
    }


def policy_data(policy: CompiledPolicy) -> dict[str, Any]:
    """Return which policy it is."""
    return {"id": policy.id, "digest": policy.digest, "mode": policy.mode.value}


def describe(folder: TenantStore, record: Record) -> dict[str, Any]:
    """Return a tenant as plain data. Raises ``ProblemsError``."""
    tenant = folder.tenant(record)
    created = {entry.id: entry.created for entry in record.file.keys}
    data: dict[str, Any] = {
        "tenant": tenant.id,
        "title": record.file.title,
        "status": "disabled" if tenant.disabled else "active",
        "file": record.document.file,
        "from": record.file.policy,
        "mode": record.file.mode,
        "policy": policy_data(tenant.policy),
        "held_by_floor": list(folder.shelf.held(record.policy_ref, record.file, record.document)),
        "limits": record.file.limits.model_dump(exclude_none=True),
        "keys": [{**key_data(key), "created": created[key.id]} for key in tenant.keys],
    }
    if tenant.canary is not None:
        data["canary"] = {**policy_data(tenant.canary), "share": tenant.share}
    return data


def shown(path: Path) -> str:
    """Return what messages call a path."""
    from prism.policy.store import display

    return display(path)
