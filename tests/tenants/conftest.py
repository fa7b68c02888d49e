"""A server's folder with a configuration, a floor, two policies and room for tenants."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prism.config import Settings
from prism.tenants import NewKey, Pepper, TenantStore

FILES = {
    "prism.yaml": "policy: house.yaml\nfloor: floor.yaml\ntenants: tenants/\n",
    "floor.yaml": (
        "prism: 1\nid: floor\nrules:\n"
        "  - {id: floor, category: prv, action: block, phrases: [zephyr lantern]}\n"
    ),
    "house.yaml": (
        "prism: 1\nid: house\nrules:\n"
        "  - {id: house, category: prv, action: block, phrases: [amber quokka]}\n"
    ),
    "other.yaml": (
        "prism: 1\nid: other\nrules:\n"
        "  - {id: other, category: prv, action: block, phrases: [violet teapot]}\n"
    ),
}

Write = Callable[..., NewKey | None]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with no tenant yet."""
    monkeypatch.chdir(tmp_path)
    for name in ("PRISM_CONFIG", "PRISM_POLICY", "PRISM_TENANT_PEPPER"):
        monkeypatch.delenv(name, raising=False)
    for name, text in FILES.items():
        Path(name).write_text(text)
    Path("tenants").mkdir(mode=0o700)
    return tmp_path


@pytest.fixture
def pepper(server: Path) -> Pepper:
    """The server's pepper, in its file."""
    made = Pepper.random()
    path = Path("tenants/.pepper")
    path.touch(0o600)
    path.write_bytes(made.secret)
    return made


@pytest.fixture
def write(pepper: Pepper) -> Write:
    """Write a tenant's file, with a key unless told otherwise; return the key."""

    def one(name: str, *, keys: bool = True, **data: Any) -> NewKey | None:
        key = pepper.new_key() if keys else None
        entries = []
        if key is not None:
            created = "2026-11-01T00:00:00Z"
            entries.append({"id": key.id, "hash": key.hash, "created": created})
        whole = {"prism": 1, "tenant": name, "keys": entries, **data}
        path = Path("tenants", f"{name}.yaml")
        path.touch(0o600)
        path.write_text(json.dumps(whole, indent=1))  # JSON is YAML
        return key

    return one


@pytest.fixture
def store(server: Path) -> TenantStore:
    return Settings.tenant_store("prism.yaml")
