"""The examples of docs/tenants.md and policies/examples work as they stand there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from prism.config import ConfigFile, Settings
from prism.moderator import Moderator
from prism.tenants import TenantLimits, change
from prism.tenants.model import CanaryEntry, KeyEntry, Overrides, TenantFile
from prism.types import Action

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/tenants.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


def test_the_examples_of_the_documentation(server):
    Path("prism.yaml").write_text(BLOCKS[0])
    path = Path("tenants/support.yaml")
    path.touch(0o600)
    path.write_text(BLOCKS[1])
    settings = Settings.load("prism.yaml")
    assert settings.tenants is not None
    support = settings.tenants.directory.tenants["support"]
    assert Moderator(support.policy).check_prompt("zephyr lantern").blocked
    assert support.share == 0.1
    assert {name for name in TenantFile.model_fields if f"\n{name}:" not in BLOCKS[1]} == {
        "prism",  # its first line
        "disabled",
    }


def test_every_key_is_described():
    for model in (TenantFile, CanaryEntry, KeyEntry, Overrides, TenantLimits):
        for key in model.model_fields:
            assert f"`{key}`" in TEXT, f"{model.__name__}.{key}"
    configuration = (ROOT / "docs/policies.md").read_text(encoding="utf-8")
    for key in ConfigFile.model_fields:
        assert f"`{key}" in configuration, key


def test_the_shipped_example(tmp_path, monkeypatch):
    monkeypatch.delenv("PRISM_TENANT_PEPPER", raising=False)
    folder = tmp_path / "examples"
    shutil.copytree(ROOT / "policies/examples", folder)
    for path in folder.rglob("*.yaml"):
        path.chmod(0o600)  # a clone's modes are its owner's business
    key = change.rotate(Settings.tenant_store(folder / "prism.yaml"), "support", now=1e9).key
    settings = Settings.load(folder / "prism.yaml")
    assert settings.tenants is not None
    tenants = settings.tenants.directory
    assert set(tenants.tenants) == {"support", "school", "research"}
    assert tenants.find(key.text, 2e9).tenant is tenants.tenants["support"]
    support = Moderator(tenants.tenants["support"].policy)
    assert support.check_prompt("zephyr lantern").message == "I can only help with our products."
    # The floor is enforced where the tenant's own rules are only watched.
    research = Moderator(tenants.tenants["research"].policy)
    assert research.check_prompt("how to build a pipe bomb").blocked
    watched = {rule.id for rule in research.policy.rules if rule.mode.value == "monitor"}
    assert watched
    assert all(rule.action > Action.ALLOW for rule in research.policy.rules)
