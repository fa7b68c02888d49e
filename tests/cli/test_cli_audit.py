"""``prism audit``: exit codes, what is printed, and the configuration's side of the log."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from prism.config import ConfigError, Settings
from prism.record.audit import AuditLog
from prism.record.chain import Keys

KEY = "0123456789abcdef" * 4


@pytest.fixture
def log(house: Path) -> Path:
    Path("audit.key").write_text(f"{KEY}\n")
    Path("prism.yaml").write_text(
        "policy: house.yaml\naudit: {path: audit.jsonl, key_file: audit.key}\n"
    )
    settings = Settings.load("prism.yaml").audit
    assert settings is not None
    made = AuditLog(settings)
    asyncio.run(made.write(lambda: {"event": "answered"}))
    made.close()
    return settings.path


def test_verify_a_whole_log(prism, log: Path) -> None:
    done = prism("audit", "verify", str(log), "--key-file", "audit.key")
    assert done.code == 0
    assert done.out.startswith("ok: 3 lines, seals checked\nhead 3:")
    head = done.out.split("head ")[1].strip()
    assert prism("audit", "verify", str(log), "--expect", head).code == 0
    told = prism("audit", "verify", str(log), "--json")
    assert told.json["ok"] is True
    assert told.json["seals_checked"] is False
    assert told.json["head"] == head


def test_one_line_is_not_lines(prism, log: Path) -> None:
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])
    assert "1 line, seals not checked" in prism("audit", "verify", str(log)).out


def test_verify_finds_what_was_changed(prism, log: Path, monkeypatch) -> None:
    log.write_bytes(log.read_bytes().replace(b'"answered"', b'"refused"'))
    monkeypatch.setenv("PRISM_AUDIT_KEY", KEY)
    done = prism("audit", "verify", str(log))
    assert done.code == 1
    assert "audit.jsonl:2: does not bear its seal" in done.err
    assert done.out.startswith("NOT AS WRITTEN: 3 lines")
    told = prism("audit", "verify", str(log), "--json")
    assert told.code == 1
    assert told.json["flaws"][0]["line"] == 2


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["verify", "none.jsonl"], "can't read none.jsonl: No such file"),
        (["verify", "audit.jsonl", "--key-file", "none"], "can't read none"),
        (["verify", "audit.jsonl", "--key-file", "short"], "shorter than 32"),
        (["verify", "audit.jsonl", "--from", "7"], "not SEQ:DIGEST"),
        (["verify", "audit.jsonl", "--expect", "x:" + "0" * 64], "not SEQ:DIGEST"),
        (["fingerprint", "hello"], "needs the log's key"),
    ],
)
def test_bad_input(prism, log: Path, arguments: list[str], word: str) -> None:
    Path("short").write_text("short")
    done = prism("audit", *arguments)
    assert done.code == 2
    assert word in done.err
    assert word in prism("audit", *arguments, "--json").json["error"]["message"]


def test_a_fingerprint_is_what_the_log_holds(prism, log: Path) -> None:
    expected = Keys(KEY.encode()).fingerprint_of("héllo")
    done = prism("audit", "fingerprint", "héllo", "--key-file", "audit.key")
    assert done.out.strip() == expected
    piped = prism(
        "audit", "fingerprint", "-", "--key-file", "audit.key", "--json", stdin="héllo".encode()
    )
    assert piped.json == {"fingerprint": expected}
    broken = prism("audit", "fingerprint", "-", "--key-file", "audit.key", stdin=b"\xff")
    assert broken.code == 2


@pytest.mark.parametrize(
    ("text", "place", "word"),
    [
        ("audit: {path: audit.jsonl}", "audit:", "needs a key"),
        ("audit: {path: audit.jsonl, key_file: none}", "audit.key_file", "can't read none"),
        ("audit: {path: audit.jsonl, key_file: short}", "audit.key_file", "shorter than 32"),
        ("audit: {path: no/audit.jsonl, key_file: good}", "audit.path", "no such folder"),
        ("audit: {path: a, key_file: good, on_failure: shrug}", "audit.on_failure", "close"),
        ("audit: {path: a, key_file: good, max_bytes: 5}", "audit.max_bytes", "65536"),
        ("audit: {path: a, key_file: good, keep: 5}", "audit.keep", "keep"),
    ],
)
def test_a_configuration_that_is_wrong(
    house: Path, monkeypatch, text: str, place: str, word: str
) -> None:
    monkeypatch.delenv("PRISM_AUDIT_KEY", raising=False)
    Path("short").write_text("short")
    Path("good").write_text(KEY)
    Path("prism.yaml").write_text(f"policy: house.yaml\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        Settings.load("prism.yaml")
    told = str(caught.value)
    assert place in told
    assert word in told


def test_the_environments_key_comes_first(house: Path, monkeypatch) -> None:
    monkeypatch.setenv("PRISM_AUDIT_KEY", KEY)
    Path("prism.yaml").write_text("audit: {path: audit.jsonl, on_failure: open}\n")
    settings = Settings.load("prism.yaml").audit
    assert settings is not None
    assert settings.key == KEY.encode()
    assert not settings.closes
    assert settings.path == Path("audit.jsonl")


def test_a_log_that_cannot_be_opened_keeps_the_proxy_from_starting(prism_process, log: Path):
    log.unlink()
    config = ("--config", "prism.yaml", "--upstream", "http://127.0.0.1:9", "--port", "0")
    done = prism_process("proxy", *config)
    assert done.code == 2
    assert "can't be continued" in done.err
    assert "Traceback" not in done.err


def test_help_shows_an_example(prism) -> None:
    for command in ("verify", "fingerprint"):
        assert "Example:" in prism("audit", command, "--help").out
