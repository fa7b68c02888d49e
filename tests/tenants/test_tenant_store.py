"""The folder of tenants: what is read, what is refused and where, what a change leaves behind."""

from __future__ import annotations

import multiprocessing
import os
import re
import time
from pathlib import Path

import pytest

from prism.config import ConfigError, Settings
from prism.documents import ProblemsError
from prism.moderator import Moderator
from prism.policy import load_policy
from prism.tenants import KeyState, Pepper, TenantError, change
from prism.types import Action

HASH = "hmac-sha256:01234567:" + "0" * 64
NOW = 1_800_000_000.0


def loaded() -> Settings:
    return Settings.load("prism.yaml")


def test_settings_know_every_policy_of_every_tenant(write):
    write("plain")
    write("named", policy="../other.yaml")
    write("tried", canary={"policy": "../other.yaml", "share": 0.5}, overrides={"locale": "en"})
    rule = {"id": "own", "category": "prv", "action": "flag", "phrases": ["marzipan gasket"]}
    write("own", overrides={"rules": [rule], "messages": {"en": "Not with me."}})
    settings = loaded()
    assert settings.tenants is not None
    tenants = settings.tenants.directory.tenants
    assert set(tenants) == {"plain", "named", "tried", "own"}
    for tenant in tenants.values():
        for policy in tenant.policies:
            assert settings.policies[policy.digest] is policy
    assert tenants["plain"].policy.digest == settings.policy.digest
    assert tenants["tried"].policy is tenants["plain"].policy
    assert tenants["tried"].canary is tenants["named"].policy
    assert tenants["own"].policy.message() == "Not with me."
    assert tenants["own"].policy.id == "house"  # an override doesn't put a name on a shared policy
    strictest = Moderator(settings.strictest)
    for text in ("zephyr lantern", "amber quokka", "violet teapot"):
        assert strictest.check_prompt(text).blocked
    assert strictest.check_prompt("marzipan gasket").action is Action.FLAG


def test_overrides_lie_over_the_policy_and_the_floor_over_both(write):
    rules = [
        {"id": "house", "action": "flag"},
        {"id": "floor", "category": "prv", "action": "allow"},
    ]
    write("loose", overrides={"rules": rules})
    settings = loaded()
    assert settings.tenants is not None
    moderator = Moderator(settings.tenants.directory.tenants["loose"].policy)
    assert moderator.check_prompt("amber quokka").action is Action.FLAG
    assert moderator.check_prompt("zephyr lantern").blocked


def test_monitor_mode_watches_the_tenants_own_rules_only(write):
    write("trial", mode="monitor")
    settings = loaded()
    assert settings.tenants is not None
    moderator = Moderator(settings.tenants.directory.tenants["trial"].policy)
    watched = moderator.check_prompt("amber quokka")
    assert (watched.action, watched.would) == (Action.ALLOW, Action.BLOCK)
    assert moderator.check_prompt("zephyr lantern").blocked
    Path("prism.yaml").write_text("policy: house.yaml\ntenants: tenants/\n")
    free = loaded()
    assert free.tenants is not None
    policy = free.tenants.directory.tenants["trial"].policy
    assert Moderator(policy).check_prompt("prism canary vorquelle").blocked


def test_enforce_overrules_a_policy_that_only_watches(write):
    text = Path("house.yaml").read_text()
    Path("watching.yaml").write_text(text.replace("id: house\n", "id: watching\nmode: monitor\n"))
    write("strict", policy="../watching.yaml", mode="enforce")
    write("lax", policy="../watching.yaml")
    settings = loaded()
    assert settings.tenants is not None
    tenants = settings.tenants.directory.tenants
    assert Moderator(tenants["strict"].policy).check_prompt("amber quokka").blocked
    assert not Moderator(tenants["lax"].policy).check_prompt("amber quokka").blocked


def test_anonymous(write):
    write("acme")
    assert loaded().tenants.anonymous is None
    whole = Path("prism.yaml").read_text()
    Path("prism.yaml").write_text(whole + "anonymous: refuse\n")
    assert loaded().tenants.anonymous is None
    Path("prism.yaml").write_text(
        whole + "anonymous: other.yaml\nanonymous_limits: {requests_per_minute: 5}\n"
    )
    settings = loaded()
    assert settings.tenants.anonymous is not None
    assert settings.tenants.anonymous_limits.requests_per_minute == 5
    moderator = Moderator(settings.tenants.anonymous)
    assert moderator.check_prompt("violet teapot").blocked
    assert moderator.check_prompt("zephyr lantern").blocked  # the floor holds for strangers, too
    assert settings.tenants.anonymous.digest in settings.policies


WRONG_CONFIG = {
    "no folder": (
        "tenants: nowhere/\n",
        "prism.yaml:1:10: tenants: no such folder: nowhere; make it with `prism tenant add`, or "
        "check the path, relative to this file",
    ),
    "a file": (
        "tenants: house.yaml\n",
        "prism.yaml:1:10: tenants: no such folder: house.yaml; make it with `prism tenant add`, "
        "or check the path, relative to this file",
    ),
    "anonymous without tenants": (
        "anonymous: strict\n",
        "prism.yaml:1:1: anonymous: has no effect without tenants; add `tenants: …`, or remove it",
    ),
    "anonymous unknown": (
        "tenants: tenants/\nanonymous: refused\n",
        "prism.yaml:2:12: anonymous: 'refused' is not the name of a shipped policy; use default, "
        "family, permissive, strict, or a path that ends in .yaml",
    ),
    "anonymous limits for nobody": (
        "tenants: tenants/\nanonymous_limits: {requests_per_minute: 5}\n",
        "prism.yaml:2:1: anonymous_limits: has no effect: requests without a key are refused; "
        "remove it, or name a policy, as in `anonymous: strict`",
    ),
}


@pytest.mark.parametrize(("text", "message"), WRONG_CONFIG.values(), ids=WRONG_CONFIG)
def test_a_configuration_that_is_wrong_about_tenants(server, text, message):
    Path("prism.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        loaded()
    assert str(caught.value) == message


HEAD = "prism: 1\ntenant: acme\n"
WRONG = {
    "misspelt key": (
        HEAD + "polcy: strict\n",
        "tenants/acme.yaml:3:1: polcy: is not a known key; did you mean 'policy'?",
    ),
    "another name": (
        "prism: 1\ntenant: emca\n",
        "tenants/acme.yaml:2:9: tenant: 'emca' is not what the file is called; "
        "write `tenant: acme`",
    ),
    "no version": (
        "tenant: acme\n",
        "tenants/acme.yaml:1:1: prism: is missing; add it, for example `prism: 1`",
    ),
    "another version": (
        "prism: 2\ntenant: acme\n",
        "tenants/acme.yaml:1:8: prism: version 2 is not one that this release reads; "
        "write `prism: 1`",
    ),
    "policy that isn't there": (
        HEAD + "policy: acme-policy.yaml\n",
        "tenants/acme.yaml:3:9: policy: no such file: tenants/acme-policy.yaml; "
        "check the path, relative to this file",
    ),
    "policy that isn't shipped": (
        HEAD + "policy: strictest\n",
        "tenants/acme.yaml:3:9: policy: 'strictest' is not the name of a shipped policy; "
        "did you mean 'strict'?",
    ),
    "canary that isn't there": (
        HEAD + "canary: {policy: x.yaml, share: 0.5}\n",
        "tenants/acme.yaml:3:18: canary.policy: no such file: tenants/x.yaml; "
        "check the path, relative to this file",
    ),
    "canary for all and more": (
        HEAD + "canary: {policy: strict, share: 1.5}\n",
        "tenants/acme.yaml:3:33: canary.share: must be less than or equal to 1; "
        "for example `share: 0.1`",
    ),
    "mode": (
        HEAD + "mode: off\n",
        "tenants/acme.yaml:3:7: mode: 'off' is not a choice here; use one of enforce, monitor",
    ),
    "limit": (
        HEAD + "limits:\n  requests_per_minute: 0\n",
        "tenants/acme.yaml:4:24: limits.requests_per_minute: must be greater than or equal to 1; "
        "for example `requests_per_minute: 600`",
    ),
    "disabled as text": (
        HEAD + "disabled: yes\n",
        "tenants/acme.yaml:3:11: disabled: must be true or false, not text; "
        "for example `disabled: true`",
    ),
    "a key in clear text": (
        HEAD + "keys:\n  - {id: 0123456789ab, hash: prism_secret, created: 2026-11-01T00:00:00Z}\n",
        "tenants/acme.yaml:4:30: keys[0].hash: is not a key's hash; "
        "let `prism tenant rotate` write it",
    ),
    "no time zone": (
        HEAD + f"keys:\n  - id: 0123456789ab\n    hash: {HASH}\n    created: 2026-11-01T00:00:00\n",
        "tenants/acme.yaml:6:14: keys[0].created: '2026-11-01T00:00:00' is not a point in time; "
        "write it like 2026-11-02T08:30:00Z, the zone included",
    ),
    "another pepper": (
        HEAD + f"keys:\n  - id: 0123456789ab\n    hash: {HASH}\n"
        "    created: 2026-11-01T00:00:00Z\n",
        "tenants/acme.yaml:5:11: keys[0].hash: was made with another pepper; "
        "check PRISM_TENANT_PEPPER (or .pepper), or rotate the key",
    ),
    "override of an unknown rule": (
        HEAD + "overrides:\n  rules:\n    - id: hous\n      action: flag\n",
        "tenants/acme.yaml:5:7: overrides.rules[0]: the new rule 'hous' has no category; "
        "add `category: prv`, or did you mean 'house'?\n"
        "tenants/acme.yaml:5:7: overrides.rules[0]: the rule 'hous' looks for nothing; "
        "add `phrases: [\"zephyr lantern\"]` or `regexes: […]`, or did you mean 'house'?",
    ),
    "override with an unknown key": (
        HEAD + "overrides: {extends: default}\n",
        "tenants/acme.yaml:3:13: overrides.extends: is not a known key; the keys here are "
        "locale, messages, tiers, on_tier_failure, unknown_language, watermark, rules",
    ),
    "override with a list in a file": (
        HEAD + "overrides:\n  rules:\n    - id: house\n      phrases_from: names.txt\n",
        "tenants/acme.yaml:6:21: overrides.rules[0].phrases_from: is read for policy files only; "
        "write the phrases here, or the list into the policy's own file",
    ),
    "override without a message": (
        HEAD + "overrides: {locale: de}\n",
        "tenants/acme.yaml:3:21: overrides.locale: there is no message in the default locale "
        "'de'; add `messages: {de: …}`, or set `locale` to en",
    ),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_a_tenants_file_that_is_wrong(pepper, text, message):
    path = Path("tenants/acme.yaml")
    path.touch(0o600)
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        loaded()
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["anonymous", "default"])
def test_reserved_names(write, name):
    write(name)
    with pytest.raises(ConfigError, match=f"'{name}' is a name that PRISM itself uses"):
        loaded()


def test_problems_of_all_tenants_come_together(write):
    write("one", polcy="x")
    write("two", mode="watch")
    Path("prism.yaml").write_text(Path("prism.yaml").read_text() + "flor: x\n")
    with pytest.raises(ConfigError) as caught:
        loaded()
    assert [(p.file, p.key) for p in caught.value.problems] == [("prism.yaml", "flor")]
    Path("prism.yaml").write_text("policy: house.yaml\ntenants: tenants/\n")
    with pytest.raises(ConfigError) as caught:
        loaded()
    assert [(p.file, p.key) for p in caught.value.problems] == [
        ("tenants/one.yaml", "polcy"),
        ("tenants/two.yaml", "mode"),
    ]


def test_files_that_others_may_change_are_refused(write):
    write("acme")
    Path("tenants/acme.yaml").chmod(0o620)
    with pytest.raises(ConfigError) as caught:
        loaded()
    assert str(caught.value) == (
        "tenants/acme.yaml: can be changed by other users of this machine; "
        "run `chmod 600 tenants/acme.yaml`"
    )


def test_a_lost_pepper_is_named(write):
    write("acme")
    Path("tenants/.pepper").unlink()
    with pytest.raises(ConfigError, match="can't be checked: there is no pepper; set PRISM_TENANT"):
        loaded()


def test_a_copied_key_is_nobodys(write):
    write("acme")
    copy = Path("tenants/acme.yaml").read_text().replace("acme", "emca")
    Path("tenants/emca.yaml").touch(0o600)
    Path("tenants/emca.yaml").write_text(copy)
    with pytest.raises(ConfigError) as caught:
        loaded()
    assert str(caught.value) == (
        "tenants/emca.yaml: keys: holds a key of 'acme'; "
        "remove it, and give 'emca' its own with `prism tenant rotate emca`"
    )


def test_add_then_rotate_then_rotate_again(store):
    first = change.add(store, "acme", now=NOW, policy="other.yaml", title="ACME: support # 1")
    assert Path("tenants/acme.yaml").stat().st_mode & 0o777 == 0o600
    assert Path("tenants/.pepper").stat().st_mode & 0o777 == 0o600
    assert "policy: ../other.yaml\n" in Path("tenants/acme.yaml").read_text()
    everything = "".join(p.read_text() for p in Path("tenants").iterdir())
    assert first.key.text not in everything
    assert first.key.text.rpartition("_")[2] not in everything

    second = change.rotate(store, "acme", now=NOW + 10, overlap=60)
    assert [key.id for key in second.kept] == [first.key.id]
    tenants = store.load()
    assert tenants.find(first.key.text, NOW + 69).state is KeyState.LIVE
    assert tenants.find(first.key.text, NOW + 70).state is KeyState.EXPIRED
    assert tenants.find(second.key.text, NOW + 70).state is KeyState.LIVE

    third = change.rotate(store, "acme", now=NOW + 20)
    assert third.removed == (first.key.id,)
    assert [key.id for key in third.kept] == [second.key.id]
    tenants = store.load()
    assert tenants.find(first.key.text, NOW + 20).state is KeyState.UNKNOWN
    assert tenants.find(second.key.text, NOW + 10**9).state is KeyState.LIVE

    fourth = change.rotate(store, "acme", now=NOW + 30, overlap=0, lifetime=100)
    assert fourth.kept == ()
    assert set(fourth.removed) == {second.key.id, third.key.id}
    tenants = store.load()
    assert tenants.find(third.key.text, NOW + 30).state is KeyState.UNKNOWN
    assert tenants.find(fourth.key.text, NOW + 129).state is KeyState.LIVE
    assert tenants.find(fourth.key.text, NOW + 130).state is KeyState.EXPIRED


def test_an_overlap_never_lengthens_a_keys_life(store):
    first = change.add(store, "acme", now=NOW, lifetime=50)
    change.rotate(store, "acme", now=NOW + 10, overlap=3600)
    tenants = store.load()
    assert tenants.find(first.key.text, NOW + 50).state is KeyState.EXPIRED


def test_rotation_gets_a_tenant_out_of_a_lost_pepper(store):
    change.add(store, "acme", now=NOW)
    Path("tenants/.pepper").unlink()
    done = change.rotate(store, "acme", now=NOW + 1)
    assert done.kept == ()
    assert store.load().find(done.key.text, NOW + 1).state is KeyState.LIVE


def test_comments_and_what_else_people_wrote_stay(store):
    change.add(store, "acme", now=NOW)
    path = Path("tenants/acme.yaml")
    path.write_text(
        "# the one from Ohio\n" + path.read_text() + "\nlimits:  # agreed in May\n"
        "  requests_per_minute: 60\n"
    )
    change.rotate(store, "acme", now=NOW + 1)
    change.disable(store, "acme")
    text = path.read_text()
    assert text.startswith("# the one from Ohio\n")
    assert "# agreed in May" in text
    assert store.load().tenants["acme"].disabled
    change.enable(store, "acme")
    assert not store.load().tenants["acme"].disabled
    assert len(store.load().tenants["acme"].keys) == 2


def test_a_change_that_would_be_wrong_changes_nothing(store, monkeypatch):
    change.add(store, "acme", now=NOW)
    before = Path("tenants/acme.yaml").read_bytes()
    Path("house.yaml").write_text("prism: 1\n")
    fresh = Settings.tenant_store("prism.yaml")
    with pytest.raises(ProblemsError, match=r"house\.yaml:1:1: id: is missing"):
        change.rotate(fresh, "acme", now=NOW)
    with pytest.raises(ProblemsError):
        change.add(fresh, "other", now=NOW)
    assert Path("tenants/acme.yaml").read_bytes() == before
    assert [p.name for p in Path("tenants").iterdir() if "tmp" in p.name] == []
    assert fresh.names() == ["acme"]
    change.disable(fresh, "acme")  # switching off must not depend on it
    assert b"disabled: true" in Path("tenants/acme.yaml").read_bytes()


def test_a_full_disk_leaves_the_old_file(store, monkeypatch):
    change.add(store, "acme", now=NOW)
    before = Path("tenants/acme.yaml").read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prism.tenants.store.os.fsync", full)
    with pytest.raises(TenantError, match="can't be written: No space left on device"):
        change.rotate(store, "acme", now=NOW)
    assert Path("tenants/acme.yaml").read_bytes() == before
    assert sorted(p.name for p in Path("tenants").iterdir()) == [".lock", ".pepper", "acme.yaml"]


@pytest.mark.parametrize("name", ["../acme", "a/b", "", ".", "Acme", "acme.yaml", "a" * 65, "ä"])
def test_names_that_no_tenant_can_have(store, name):
    for use in (change.add, change.rotate):
        with pytest.raises(TenantError, match="is not a valid tenant id"):
            use(store, name, now=NOW)
    with pytest.raises(TenantError, match="is not a valid tenant id"):
        change.disable(store, name)
    assert sorted(p.name for p in Path().iterdir()) == [
        "floor.yaml", "house.yaml", "other.yaml", "prism.yaml", "tenants",
    ]  # fmt: skip


def test_unknown_and_known_names(store):
    change.add(store, "acme", now=NOW)
    with pytest.raises(TenantError, match="there is a tenant 'acme' already"):
        change.add(store, "acme", now=NOW)
    with pytest.raises(TenantError, match="there is no tenant 'acne'; did you mean 'acme'"):
        change.rotate(store, "acne", now=NOW)


def _rotate_often(folder: str, times: int) -> None:
    os.chdir(folder)
    store = Settings.tenant_store("prism.yaml")
    for _ in range(times):
        change.rotate(store, "acme", now=NOW)


def test_writers_in_several_processes_take_turns(store, server):
    change.add(store, "acme", now=NOW)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_rotate_often, args=(str(server), 3)) for _ in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        time.sleep(0.05)
        tenants = Settings.tenant_store("prism.yaml").load()  # never half a file
        assert 1 <= len(tenants.tenants["acme"].keys) <= 2
    assert [writer.exitcode for writer in writers] == [0, 0]


def test_reload_reads_what_changed_and_keeps_who_was_right(write, store):
    acme, other = write("acme"), write("other")
    before = store.load()
    write("new")
    Path("tenants/other.yaml").unlink()
    tenants, problems = store.reload()
    assert problems == ()
    assert set(tenants.tenants) == {"acme", "new"}
    assert tenants.tenants["acme"] is before.tenants["acme"]
    assert tenants.find(other.text, 0).state is KeyState.UNKNOWN

    Path("tenants/acme.yaml").write_text("prism: [")
    tenants, problems = store.reload()
    assert [p.file for p in problems] == ["tenants/acme.yaml"]
    assert tenants.find(acme.text, 0).state is KeyState.LIVE  # as it was
    change_key = write("new")
    tenants, _ = store.reload()
    assert tenants.find(change_key.text, 0).state is KeyState.LIVE  # others go on changing


def test_reload_takes_keys_away_even_where_the_policy_is_wrong(write, store):
    key = write("acme")
    store.load()
    write("acme", policy="nowhere.yaml", disabled=True)
    tenants, problems = store.reload()
    assert [p.key for p in problems] == ["policy"]
    assert tenants.find(key.text, 0).state is KeyState.UNKNOWN
    assert tenants.tenants["acme"].disabled
    assert tenants.tenants["acme"].policy.id == "house"


def test_reload_with_another_pepper_lets_nobody_in(write, store):
    key = write("acme")
    store.load()
    Path("tenants/.pepper").write_bytes(Pepper.random().secret)
    tenants, problems = store.reload()
    assert tenants.find(key.text, 0).state is KeyState.UNKNOWN
    assert "was made with another pepper" in str(problems[0])


def test_a_copy_with_an_earlier_name_does_not_take_the_key(write, store):
    key = write("zeta")
    store.load()
    path = Path("tenants/alpha.yaml")
    path.touch(0o600)
    path.write_text(re.sub('"zeta"', '"alpha"', Path("tenants/zeta.yaml").read_text()))
    tenants, problems = store.reload()
    assert tenants.find(key.text, 0).tenant.id == "zeta"
    assert [p.file for p in problems] == ["tenants/alpha.yaml"]


def test_the_folders_stamp(write, store):
    write("acme")
    os.utime("tenants", ns=(0, time.time_ns()))
    assert store.stamp() is None  # too fresh to be sure that nothing else happens in this tick
    os.utime("tenants", ns=(0, time.time_ns() - 10**9))
    one = store.stamp()
    assert one is not None
    assert store.stamp() == one
    write("other")
    os.utime("tenants", ns=(0, time.time_ns() - 10**9 + 5))
    assert store.stamp() != one
    for path in Path("tenants").iterdir():
        path.unlink()
    Path("tenants").rmdir()
    assert store.stamp() is None
    with pytest.raises(TenantError, match="no such folder"):
        store.reload()


def test_a_server_without_tenants_is_as_before():
    settings = Settings.from_env({})
    assert settings.tenants is None
    assert list(settings.policies.values()) == [load_policy("default")]
