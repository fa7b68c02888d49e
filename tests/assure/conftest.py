"""Policies and models for judging many texts."""

from __future__ import annotations

import pytest

POLICY = """\
prism: 1
id: house
tiers: {sketch: on, encoder: off}
rules:
  - {id: names, category: prv, action: block, phrases: ["zephyr lantern"]}
  - {id: data, category: pii, action: redact, stages: [output], pii: [email]}
  - {id: harmful, category: harm, action: flag, thresholds: 0.5}
"""


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A working directory with ``house.yaml`` in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "house.yaml").write_text(POLICY)
    return tmp_path
