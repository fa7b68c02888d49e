"""Every part of ``make bench`` that needs no engine gives figures; here they mean nothing."""

from __future__ import annotations

import pytest
from bench.parts import NAMES, part
from bench.settings import Settings

FIGURES = {
    "layers": {"patterns", "sketch", "session, every tier", "prompt check, every tier", "encoder"},
    "step": {"the whole step", "feed", "mask", "write, a phrase nearly there", "write, a refusal"},
    "batch": {"a step"},
    "phrases": {"build", "memory kept", "feed and mask", "a step of the token layer",
                "the text layer's patterns"},
    "tenants": {"whose request it is", "text layer, 256 streams in turn", "memory that they add",
                "a step of the token layer"},
    "length": {"token layer", "session, patterns only", "session, patterns and sketch"},
    "memory": {"the encoder", "an open stream", "a token guard", "a row that decodes"},
    "peers": {"a check"},
}  # fmt: skip


@pytest.fixture(scope="module")
def settings(tokenizer_file):
    return Settings(str(tokenizer_file), quick=True, rounds=1, peers=("none",))


def test_all_parts_but_the_engines_are_tested_here():
    assert set(FIGURES) == {name for name in NAMES if not part(name).ENGINE}


@pytest.mark.parametrize("name", FIGURES)
def test_a_part_gives_its_figures(name, settings, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # a part may set it in its own process
    module = part(name)
    rows = [row for case in module.cases(settings) for row in module.measure(settings, case)]
    assert {row.name for row in rows} >= FIGURES[name]
    for row in rows:
        assert 0 <= row.low <= row.median <= row.high, row
        assert row.n >= 1
    timed = [row for row in rows if row.clock]
    assert all(row.median > 0 for row in timed)


def test_tenants_share_what_is_compiled(settings):
    module = part("tenants")
    (case,) = [case for case in module.cases(settings) if case.get("tenants") == 20]
    rows = {row.name: row for row in module.measure(settings, case)}
    assert rows["policies compiled"].median == 3


def test_an_unknown_peer_is_refused(settings):
    wrong = Settings(settings.model, quick=True, peers=("nobody",))
    with pytest.raises(SystemExit, match="no such peer: nobody"):
        list(part("peers").measure(wrong, {}))
