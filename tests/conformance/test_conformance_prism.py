"""This project under its own suite: everything can be asked, and everything passes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from running import PRISM, engine, proxy

from prism.conform.checks import CHECKS, COMPLAINTS
from prism.conform.texts import POLICY, SECOND_RULE


def add_tenant(folder: Path, name: str, policy: str) -> str:
    command = [PRISM, "tenant", "add", name, "--config", str(folder / "prism.yaml")]
    done = subprocess.run(
        [*command, "--policy", str(folder / policy)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``prism conform`` says of ``prism proxy`` with two tenants."""
    folder = tmp_path_factory.mktemp("conformance")
    (folder / "first.yaml").write_text(POLICY)
    second = POLICY.replace("id: conformance", "id: second") + SECOND_RULE
    (folder / "second.yaml").write_text(second)
    (folder / "prism.yaml").write_text("policy: first.yaml\nfloor: first.yaml\ntenants: tenants/\n")
    keys = [add_tenant(folder, name, f"{name}.yaml") for name in ("first", "second")]
    with (
        engine(folder) as upstream,
        proxy(folder, upstream, "--config", str(folder / "prism.yaml")) as url,
    ):
        asked = [PRISM, "conform", url, "--upstream", upstream, "--json"]
        asked += ["--api-key", keys[0], "--tenant-key-2", keys[1]]
        # How fast this machine is today is not this project's conformance.
        asked += ["--log", str(folder / "proxy.log"), "--latency-budget", "10"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def test_everything_could_be_asked_and_passed(report: dict[str, Any]) -> None:
    rest = [row for row in report["checks"] if row["outcome"] != "passed"]
    assert not rest
    assert [row["name"] for row in report["checks"]] == [check.name for check in CHECKS]
    assert report["counts"]["passed"] == len(CHECKS)
    assert set(report["voices"].values()) == {"script"}


def test_every_complaint_is_replayed(report: dict[str, Any]) -> None:
    replayed = {number for row in report["checks"] for number in row["complaints"]}
    assert replayed == set(COMPLAINTS) == set(range(1, 13))


def test_a_report_has_no_texts(report: dict[str, Any]) -> None:
    told = " ".join(row["evidence"] for row in report["checks"])
    for word in ("marzipan", "teapot", "harmless answer,", "plaid"):
        assert word not in told


def test_names_are_unique() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
