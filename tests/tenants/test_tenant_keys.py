"""Keys: what they look like, what is kept of them, and what is never shown."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest

from prism.policy import load_policy
from prism.tenants import PEPPER_ENV, Directory, KeyState, Pepper, Tenant, TenantError
from prism.tenants.directory import Key
from prism.tenants.keys import HASH, key_id, same


@pytest.fixture(scope="module")
def house():
    return load_policy("permissive")


def test_a_key_is_found_by_its_id_and_proved_by_its_secret(house):
    pepper = Pepper.random()
    key, other = pepper.new_key(), pepper.new_key()
    tenants = Directory([Tenant("acme", house, keys=(Key(key.id, key.hash),))], pepper)
    found = tenants.find(key.text, 0)
    assert found.state is KeyState.LIVE
    assert found.tenant is tenants.tenants["acme"]
    secret = key.text.rpartition("_")[2]
    for wrong in (
        other.text,
        f"prism_{key.id}_{'0' * 48}",
        f"prism_{other.id}_{secret}",
        key.text[:-1],
        key.text + "0",
        key.text.upper(),
        f" {key.text}",
        key.id,
        key.hash,
        "",
        "-",
        "EMPTY",
        "prism__",
        "x" * 100_000,
        "prism_" + "é" * 12 + "_" + "0" * 48,
    ):
        assert tenants.find(wrong, 0).state is KeyState.UNKNOWN, wrong[:80]


def test_an_expired_key_and_a_disabled_tenant_are_told_apart_from_an_unknown_key(house):
    pepper = Pepper.random()
    old, new, off = pepper.new_key(), pepper.new_key(), pepper.new_key()
    tenants = Directory(
        [
            Tenant("acme", house, keys=(Key(old.id, old.hash, 100.0), Key(new.id, new.hash))),
            Tenant("gone", house, disabled=True, keys=(Key(off.id, off.hash),)),
        ],
        pepper,
    )
    assert tenants.find(old.text, 99.9).state is KeyState.LIVE
    assert tenants.find(old.text, 100.0).state is KeyState.EXPIRED
    assert tenants.find(new.text, 100.0).state is KeyState.LIVE
    assert tenants.find(off.text, 0).state is KeyState.DISABLED
    # … and that only to whoever knows the secret.
    assert tenants.find(f"prism_{off.id}_{'0' * 48}", 0).state is KeyState.UNKNOWN
    assert tenants.find(f"prism_{old.id}_{'0' * 48}", 200).state is KeyState.UNKNOWN


def test_every_look_up_compares_once_in_constant_time(house, monkeypatch):
    """Known id or not, right secret or not: the same work, done by ``hmac.compare_digest``."""
    pepper = Pepper.random()
    key = pepper.new_key()
    tenants = Directory([Tenant("acme", house, keys=(Key(key.id, key.hash),))], pepper)
    calls = []
    real = hmac.compare_digest

    def counted(a, b):
        calls.append((len(a), len(b)))
        return real(a, b)

    monkeypatch.setattr("prism.tenants.keys.hmac.compare_digest", counted)
    for text in (key.text, f"prism_{key.id}_{'0' * 48}", pepper.new_key().text, "EMPTY"):
        calls.clear()
        tenants.find(text, 0)
        assert calls == [(len(key.hash), len(key.hash))]
    assert same("a", "a")
    assert not same("a", "é")


def test_what_is_kept_gives_nothing_away():
    pepper = Pepper.random()
    key = pepper.new_key()
    assert key_id(key.text) == key.id
    assert HASH.match(key.hash)
    assert key.text not in repr(key)
    assert key.hash not in repr(key)
    assert pepper.secret.decode() not in repr(pepper)
    assert Pepper.random().hash(key.text) != key.hash
    assert len({Pepper.random().new_key().text for _ in range(50)}) == 50


def test_derived_values_differ_by_purpose_and_by_where_parts_end():
    pepper = Pepper.random()
    made = {
        pepper.derive("cache_salt", "ab", "c"),
        pepper.derive("cache_salt", "a", "bc"),
        pepper.derive("cache_salt", "abc"),
        pepper.derive("cache_salt", "abc", ""),
        pepper.derive("other", "abc"),
        Pepper.random().derive("cache_salt", "abc"),
    }
    assert len(made) == 6
    assert pepper.derive("cache_salt", "abc") == pepper.derive("cache_salt", "abc")


def test_the_pepper_comes_from_the_environment_or_its_file(tmp_path: Path):
    assert Pepper.load(tmp_path, {}) is None
    path = tmp_path / ".pepper"
    path.touch(0o600)
    path.write_text("f" * 64 + "\n")
    assert Pepper.load(tmp_path, {}) == Pepper(b"f" * 64)
    assert Pepper.load(tmp_path, {PEPPER_ENV: "e" * 64}) == Pepper(b"e" * 64)


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("short", 0o600, "is shorter than 32 characters; make one with `openssl rand -hex 32`"),
        ("", 0o600, "is shorter than 32 characters; make one with `openssl rand -hex 32`"),
        ("f" * 64, 0o640, "can be read by other users of this machine; run `chmod 600 "),
        ("f" * 64, 0o604, "can be read by other users of this machine; run `chmod 600 "),
    ],
)
def test_a_pepper_that_is_none(tmp_path: Path, text, mode, message):
    path = tmp_path / ".pepper"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(TenantError) as caught:
        Pepper.load(tmp_path, {})
    assert message in str(caught.value)
    with pytest.raises(TenantError, match=f"^{PEPPER_ENV}: is shorter"):
        Pepper.load(tmp_path, {PEPPER_ENV: "x"})
