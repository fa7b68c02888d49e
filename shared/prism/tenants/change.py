"""Changes of the folder of tenants: add, rotate, disable. Comments in the files stay.

A key's text exists only in what these functions return.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from prism.documents import Problem, did_you_mean
from prism.policy.store import display, locate, shipped_names
from prism.tenants.directory import Key, Tenant
from prism.tenants.errors import TenantError
from prism.tenants.keys import NewKey
from prism.tenants.model import FORMAT, ID_FIX, MAX_KEYS, RESERVED, TENANT_ID, timestamp, written
from prism.tenants.store import Record, TenantStore


@dataclass(frozen=True, slots=True)
class Added:
    """A new tenant and its first key."""

    tenant: Tenant
    key: NewKey
    path: Path


@dataclass(frozen=True, slots=True)
class Rotated:
    """A tenant's new key; which keys still work beside it, and which no longer do."""

    tenant: Tenant
    key: NewKey
    kept: tuple[Key, ...]
    removed: tuple[str, ...]


def known(store: TenantStore, name: str) -> str:
    """Return ``name`` if there is such a tenant. Raises ``TenantError``."""
    _check_name(store, name)
    if not store.path(name).exists():
        otherwise = "list them with `prism tenant list`, or add it with `prism tenant add`"
        fix = did_you_mean(name, store.names(), otherwise)
        raise _wrong(store, f"there is no tenant {name!r}", fix)
    return name


def add(
    store: TenantStore,
    name: str,
    *,
    now: float,
    title: str | None = None,
    policy: str | None = None,
    mode: str | None = None,
    limits: Mapping[str, int] | None = None,
    lifetime: float | None = None,
) -> Added:
    """Make a tenant with one key, which ends ``lifetime`` seconds from now, or never.

    ``policy`` is a shipped name or a path relative to the working directory. Raises
    ``ProblemsError``; then nothing has changed.
    """
    _check_name(store, name)
    with store.locked():
        if store.path(name).exists():
            fix = f"give it another key with `prism tenant rotate {name}`, or choose another id"
            raise _wrong(store, f"there is a tenant {name!r} already", fix)
        key = store.pepper().new_key()
        data: dict[str, Any] = {"prism": FORMAT, "tenant": name}
        if title is not None:
            data["title"] = title
        if policy is not None:
            data["policy"] = _reference(policy, store.folder)
        if mode is not None:
            data["mode"] = mode
        if limits:
            data["limits"] = dict(limits)
        data["keys"] = [_entry(key, now, lifetime)]
        return Added(store.write(name, _dumped(data)), key, store.path(name))


def rotate(
    store: TenantStore,
    name: str,
    *,
    now: float,
    lifetime: float | None = None,
    overlap: float | None = None,
) -> Rotated:
    """Give the tenant a new key. The newest of its live ones works on, the others end.

    ``overlap``: for how many seconds the older key works on; ``None``: until it is rotated out, 0:
    it ends at once. Raises ``ProblemsError``; then nothing has changed.
    """
    with store.locked():
        record = store.read(known(store, name))
        key = store.pepper().new_key()
        live = _live(record, store, now)
        kept = live[-(MAX_KEYS - 1) :] if overlap != 0 else []
        removed = [entry.id for entry in record.file.keys if entry.id not in kept]
        data = _loaded(record)
        entries = [entry for entry in data.get("keys", []) if entry["id"] in kept]
        if overlap:
            for entry in entries:
                until = written(now + overlap)
                entry["expires"] = min(str(entry.get("expires", until)), until, key=timestamp)
        data["keys"] = [*entries, _entry(key, now, lifetime)]
        tenant = store.write(name, _dumped(data))
        rest = tuple(each for each in tenant.keys if each.id != key.id)
        return Rotated(tenant, key, rest, tuple(removed))


def disable(store: TenantStore, name: str) -> None:
    """Switch a tenant off, even if its policies are wrong. Raises ``ProblemsError``."""
    with store.locked():
        data = _loaded(store.read(known(store, name)))
        data["disabled"] = True
        store.write_unchecked(name, _dumped(data))


def enable(store: TenantStore, name: str) -> None:
    """Switch a tenant on again. Raises ``ProblemsError``; then it stays off."""
    with store.locked():
        data = _loaded(store.read(known(store, name)))
        data.pop("disabled", None)
        store.write(name, _dumped(data))


def _live(record: Record, store: TenantStore, now: float) -> list[str]:
    """Return ids of the keys that still work, oldest first."""
    fingerprint = store.pepper().fingerprint
    entries = sorted(record.file.keys, key=lambda entry: timestamp(entry.created))
    return [
        entry.id
        for entry in entries
        # A key of a lost pepper is dead; keeping it would make the file wrong.
        if Key.of(entry).live(now) and entry.hash.split(":")[1] == fingerprint
    ]


def _entry(key: NewKey, now: float, lifetime: float | None) -> dict[str, str]:
    entry = {"id": key.id, "hash": key.hash, "created": written(now)}
    if lifetime is not None:
        entry["expires"] = written(now + lifetime)
    return entry


def _reference(policy: str, folder: Path) -> str:
    """Return ``policy`` as the tenant's file has to write it. Raises ``ProblemsError``."""
    if policy in shipped_names():
        return policy
    path = locate(policy).resolve()
    if not path.exists():
        raise TenantError([Problem(policy, 0, 0, "", "no such file", "check the path")])
    return Path(os.path.relpath(path, folder.resolve())).as_posix()


def _yaml() -> YAML:
    yaml = YAML()  # keeps comments and the order of keys
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _loaded(record: Record) -> Any:
    return _yaml().load(record.path.read_text(encoding="utf-8"))


def _dumped(data: Any) -> str:
    stream = io.StringIO()
    _yaml().dump(data, stream)
    return stream.getvalue()


def _check_name(store: TenantStore, name: str) -> None:
    if not TENANT_ID.match(name):
        raise _wrong(store, f"{name[:60]!r} is not a valid tenant id", ID_FIX)
    if name in RESERVED:
        raise _wrong(store, f"{name!r} is a name that PRISM itself uses", "choose another id")


def _wrong(store: TenantStore, message: str, fix: str) -> TenantError:
    return TenantError([Problem(display(store.folder), 0, 0, "", message, fix)])
