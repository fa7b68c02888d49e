"""``prism tenant …``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from prism.config import Settings
from prism.tenants import KeyState

KEY = re.compile(r"prism_[0-9a-f]{12}_[0-9a-f]{48}\n")


@pytest.fixture
def server(house, monkeypatch) -> Path:
    """A server's folder: ``house.yaml`` under a floor, no tenant yet."""
    monkeypatch.delenv("PRISM_TENANT_PEPPER", raising=False)
    Path("prism.yaml").write_text("policy: house.yaml\nfloor: default\ntenants: tenants/\n")
    return house


def state(key: str) -> KeyState:
    settings = Settings.load("prism.yaml")
    assert settings.tenants is not None
    return settings.tenants.directory.find(key.strip(), 2_000_000_000).state


def test_add_prints_the_key_alone_and_once(server, prism):
    added = prism("tenant", "add", "acme", "--title", "ACME", "--policy", "strict",
                  "--requests-per-minute", "60", "--concurrent-streams", "4",
                  "--chars-per-minute", "9000")  # fmt: skip
    assert added.code == 0
    assert KEY.fullmatch(added.out)
    assert added.err.startswith(
        "made tenants/.pepper: keep a copy apart; without it no key works\n"
        "added acme in tenants/acme.yaml: policy strict ("
    )
    assert state(added.out) is KeyState.LIVE
    secret = added.out.strip().rpartition("_")[2]
    for command in (("show", "acme"), ("show", "acme", "--json"), ("list",), ("list", "--json")):
        shown = prism("tenant", *command)
        assert shown.code == 0
        assert secret not in shown.out + shown.err
        assert "hmac" not in shown.out
    assert "made" not in prism("tenant", "add", "next").err


def test_add_json(server, prism):
    added = prism("tenant", "add", "acme", "--mode", "monitor", "--expires", "30d", "--json")
    assert added.code == 0
    data = added.json
    assert set(data) == {"tenant", "file", "key", "key_id", "policy"}
    assert data["key"].split("_")[1] == data["key_id"]
    assert data["policy"]["id"] == "house"
    shown = prism("tenant", "show", "acme", "--json").json
    assert shown["mode"] == "monitor"
    assert shown["keys"][0]["expires"] is not None
    assert "weapons" in shown["held_by_floor"]


def test_a_policy_file_is_found_from_the_tenants_folder(server, prism):
    assert prism("tenant", "add", "acme", "--policy", "house.yaml").code == 0
    assert "policy: ../house.yaml\n" in Path("tenants/acme.yaml").read_text()
    assert prism("tenant", "show", "acme", "--json").json["from"] == "../house.yaml"


def test_show_and_list(server, prism):
    prism("tenant", "add", "acme", "--title", "ACME, Ohio", "--requests-per-minute", "60")
    prism("tenant", "add", "zeta", "--policy", "strict")
    shown = prism("tenant", "show", "acme").out.splitlines()
    assert shown[:4] == [
        "tenant:        acme",
        "title:         ACME, Ohio",
        "status:        active",
        "file:          tenants/acme.yaml",
    ]
    assert shown[4].startswith("policy:        house (")
    assert shown[5] == "limit:         requests_per_minute 60"
    assert shown[6].startswith("key:           ")
    rows = prism("tenant", "list").out.splitlines()
    assert [row.split()[:2] for row in rows] == [["acme", "active"], ["zeta", "active"]]
    assert all(row.endswith("1 key") for row in rows)
    assert [row["live_keys"] for row in prism("tenant", "list", "--json").json] == [1, 1]


def test_rotate(server, prism):
    first = prism("tenant", "add", "acme").out
    second = prism("tenant", "rotate", "acme")
    assert KEY.fullmatch(second.out)
    assert "works until the next rotation" in second.err
    assert (state(first), state(second.out)) == (KeyState.LIVE, KeyState.LIVE)
    third = prism("tenant", "rotate", "acme", "--expire-old", "7d", "--json").json
    assert third["removed"] == [first.split("_")[1]]
    assert [key["id"] for key in third["kept"]] == [second.out.split("_")[1]]
    assert third["kept"][0]["expires"] is not None
    assert (state(first), state(second.out)) == (KeyState.UNKNOWN, KeyState.EXPIRED)
    last = prism("tenant", "rotate", "acme", "--revoke-old")
    assert "no longer works" in last.err
    assert (state(third["key"]), state(last.out)) == (KeyState.UNKNOWN, KeyState.LIVE)


def test_disable_and_undo(server, prism):
    key = prism("tenant", "add", "acme").out
    assert prism("tenant", "disable", "acme").out == "acme is disabled\n"
    assert state(key) is KeyState.DISABLED
    assert "disabled" in prism("tenant", "list").out
    undone = prism("tenant", "disable", "acme", "--undo", "--json")
    assert undone.json == {"tenant": "acme", "status": "active"}
    assert state(key) is KeyState.LIVE


BAD = {
    "an id": (("add", "../acme"), "'../acme' is not a valid tenant id"),
    "reserved": (("add", "anonymous"), "'anonymous' is a name that PRISM itself uses"),
    "there already": (("add", "acme"), "there is a tenant 'acme' already"),
    "not there": (("rotate", "acne"), "there is no tenant 'acne'; did you mean 'acme'?"),
    "not there to show": (("show", "acne"), "there is no tenant 'acne'; did you mean 'acme'?"),
    "not there to disable": (("disable", "zz"), "there is no tenant 'zz'; list them with"),
    "no such policy": (("add", "new", "--policy", "nope"), "is not the name of a shipped policy"),
    "no such file": (("add", "new", "--policy", "nope.yaml"), "nope.yaml: no such file"),
    "a span": (("add", "new", "--expires", "soon"), "'soon' is not a span of time"),
    "no time at all": (("rotate", "acme", "--expire-old", "0d"), "'0d' is not a span of time"),
    "both": (("rotate", "acme", "--expire-old", "1d", "--revoke-old"), "not both"),
    "no configuration": (("list", "--config", "no.yaml"), "no.yaml: no such file"),
    "no tenants in it": (("list", "--config", "bare.yaml"), "bare.yaml: tenants: has no folder"),
}


@pytest.mark.parametrize(("command", "message"), BAD.values(), ids=BAD)
def test_bad_input(server, prism, command, message):
    prism("tenant", "add", "acme")
    Path("bare.yaml").write_text("policy: house.yaml\n")
    before = {path.name: path.read_bytes() for path in Path("tenants").iterdir()}
    result = prism("tenant", *command)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    as_json = prism("tenant", *command, "--json")
    assert as_json.code == 2
    assert message.split(": ")[-1].split(";")[0] in json.dumps(as_json.json, ensure_ascii=False)
    assert {path.name: path.read_bytes() for path in Path("tenants").iterdir()} == before


def test_without_a_configuration_it_says_what_to_write(house, prism):
    result = prism("tenant", "add", "acme")
    assert result.code == 2
    assert result.err == (
        "prism.yaml: there is no such file here, and it is what names the folder of tenants; "
        "make it, with `floor: default` and `tenants: tenants/` in it, or give --config\n"
    )
    Path("prism.yaml").write_text("floor: default\ntenants: tenants/\n")
    assert prism("tenant", "add", "acme").code == 0


def test_list_checks_everything(server, prism):
    prism("tenant", "add", "acme")
    path = Path("tenants/acme.yaml")
    path.write_text(path.read_text() + "mood: good\n")
    result = prism("tenant", "list")
    assert result.code == 2
    assert re.match(r"tenants/acme\.yaml:\d+:1: mood: is not a known key; ", result.err)


def test_the_configuration_of_the_environment(server, prism, monkeypatch):
    Path("prism.yaml").rename("other.yaml")
    assert prism("tenant", "list").code == 2
    monkeypatch.setenv("PRISM_CONFIG", "other.yaml")
    Path("tenants").mkdir(mode=0o700)
    assert (prism("tenant", "list").code, prism("tenant", "list").out) == (0, "")


def test_help_has_examples(server, prism):
    for command in ("add", "rotate", "show", "list", "disable"):
        shown = prism("tenant", command, "--help")
        assert shown.code == 0
        assert f"prism tenant {command}" in shown.out.partition("Example:")[2]
        assert "--json" in shown.out


def test_as_a_process(server, prism_process):
    added = prism_process("tenant", "add", "acme")
    assert added.code == 0
    assert KEY.fullmatch(added.out)
    assert Path("tenants/acme.yaml").stat().st_mode & 0o777 == 0o600
    assert Path("tenants").stat().st_mode & 0o777 == 0o700
