"""A stamp says which policy a request is under; a client can't make one."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.steer import stamp
from prism.steer.stamp import Stamp, sign, verify

DIGEST = "ab" * 32


def test_what_was_signed_comes_back():
    assert verify(sign(Stamp(DIGEST, "acme"))) == Stamp(DIGEST, "acme")
    assert sign(Stamp(DIGEST)) == sign(Stamp(DIGEST))


@pytest.mark.parametrize("bad", ["", "x" * 64, "AB" * 32, DIGEST + "0", DIGEST + "\n"])
def test_a_stamp_needs_a_digest(bad):
    with pytest.raises(ValueError, match="policy digest"):
        Stamp(bad)


@pytest.mark.parametrize("bad", ["", "a:b", "a b", "-a", "x" * 200, "a\n"])
def test_a_tenant_is_a_plain_name(bad):
    with pytest.raises(ValueError, match="tenant"):
        Stamp(DIGEST, bad)


@given(st.one_of(st.none(), st.integers(), st.text(), st.binary(), st.lists(st.text())))
def test_anything_else_is_no_stamp(value):
    assert verify(value) is None


@given(st.integers(0, 200), st.characters())
def test_one_changed_character_is_no_stamp(at, character):
    good = sign(Stamp(DIGEST, "acme"))
    at %= len(good)
    forged = good[:at] + character + good[at + 1 :]
    assert forged == good or verify(forged) is None


def test_another_key_is_no_stamp(monkeypatch):
    value = sign(Stamp(DIGEST))
    monkeypatch.setenv(stamp.KEY_ENV, "another")
    assert verify(value) is None


def test_a_worker_started_later_shares_the_key(monkeypatch):
    monkeypatch.delenv(stamp.KEY_ENV, raising=False)
    value = sign(Stamp(DIGEST, "acme"))
    code = "import sys; from prism.steer.stamp import verify; print(verify(sys.argv[1]))"
    run = subprocess.run(
        [sys.executable, "-c", code, value], capture_output=True, text=True, env=dict(os.environ)
    )
    assert run.stdout.strip() == str(Stamp(DIGEST, "acme"))
