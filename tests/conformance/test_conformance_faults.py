"""The suite can fail: guardrails that do what was complained of are found, each by its checks."""

from __future__ import annotations

import asyncio
import contextlib
import io
from pathlib import Path
from typing import Any

import faulty
import pytest
from running import in_thread

from prism.conform import Options, Outcome, Report, run
from prism.conform.apis import APIS
from prism.conform.checks import cost
from prism.conform.upstream import Upstream

API_NAMES = tuple(api.name for api in APIS)


def report_of(guardrail: Any, *only: str, **options: Any) -> Report:
    """Run the suite, or some of it, against a guardrail around the scripted engine."""
    engine = Upstream()
    with in_thread(engine.app) as upstream, in_thread(guardrail(engine.app)) as url:
        given = {"upstream": upstream, "patience": 60.0, "latency_budget": 10.0, **options}
        return asyncio.run(run(Options(url, **given), only=only))


def failed(report: Report) -> set[str]:
    found = {row.check.name for row in report.results if row.outcome is Outcome.FAILED}
    assert report.exit_code == (3 if found else 0), report.as_dict()
    return found


GROUPS = ("chat.", "completions.", "responses.", "messages.", "stream.whole", "stream.letters")
STREAMED = {f"{name}.stream.output" for name in API_NAMES} | {"stream.whole", "stream.letters"}
CONTENT_IS_TEXT = ("tools.chat.stream", "channels.reasoning.chat", "channels.refusal.chat.stream")

CASES: list[tuple[Any, tuple[str, ...], set[str]]] = [
    (faulty.Guardrail, (*GROUPS, "alike.", "chunks.", "tenants.override"), set()),
    (faulty.Guardrail, ("stream.flows",), {"stream.flows"}),
    (faulty.ChecksAfterSending, (*GROUPS, "stream.flows"), STREAMED),
    (faulty.StreamsPass, (*GROUPS, "records.claims"), {*STREAMED, "records.claims"}),
    (
        faulty.ContentOnly,
        CONTENT_IS_TEXT,
        {
            "tools.chat.stream.arguments", "tools.chat.stream.name", "tools.chat.stream.spelled",
            "channels.reasoning.chat.whole", "channels.reasoning.chat.stream",
            "channels.refusal.chat.stream",
        },
    ),
    (
        faulty.Substrings,
        ("chat.", "alike."),
        {"alike.whole.words", "alike.stream.words", "alike.prompt.words"},
    ),
    (
        faulty.LosesTheLast,
        ("chat.", "chunks.half", "chunks.unicode", "alike.stream"),
        {"chat.stream.harmless", "chunks.half", "chunks.unicode", "alike.stream.alike",
         "alike.stream.apart", "alike.stream.words"},
    ),
    (faulty.MixesStreams, ("chat.", "concurrent."), {"concurrent.streams", "concurrent.prompts"}),
    (faulty.AsksTwice, ("cost.calls", "cost.latency"), {"cost.calls"}),
    (
        faulty.Obedient,
        ("chat.", "tenants.override"),
        {"tenants.override.no-guardrails", "tenants.override.metadata"},
    ),
    (faulty.Names, ("chat.", "records.names"), {"records.names"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("guardrail", "only", "expected"), CASES, ids=[case[0].__name__ for case in CASES]
)
def test_each_fault_is_found_by_its_checks(
    guardrail: Any, only: tuple[str, ...], expected: set[str]
) -> None:
    assert failed(report_of(guardrail, *only)) == expected


def test_a_server_that_hangs_is_told_so() -> None:
    report = report_of(faulty.Hangs, "chunks.gaps", "chat.", patience=8.0)
    assert failed(report) == {"chunks.gaps"}
    evidence = {row.check.name: row.evidence for row in report.results}
    assert evidence["chunks.gaps"] == "no end within 8 s"


def test_work_that_grows_with_a_stream_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_ATTEMPTS", 1)  # it is as slow every time
    monkeypatch.setattr(cost, "_REPEATS", 1)
    assert failed(report_of(faulty.ReadsAllAgain, "cost.growth", "chunks.long")) == {"cost.growth"}


def test_a_log_with_texts_is_found(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("")
    assert failed(report_of(faulty.Guardrail, "records.log", log=str(log))) == set()
    with log.open("w", buffering=1) as out, contextlib.redirect_stderr(out):
        assert failed(report_of(faulty.Logs, "records.log", log=str(log))) == {"records.log"}


def test_without_moderation_only_what_asks_for_harmless_texts_passes() -> None:
    report = report_of(lambda app: app)
    rows = {row.check.name: row.outcome for row in report.results}
    passed = {name for name, outcome in rows.items() if outcome is Outcome.PASSED}
    harmless = ("harmless", ".other", "alike.", "chunks.", "cost.calls", "cost.latency",
                "cost.growth", "stream.flows", "concurrent.streams", "records.names")  # fmt: skip
    assert {name for name in passed if not any(word in name for word in harmless)} == {
        "bypass.twice-first"  # this engine reads the last of two, which is harmless
    }
    assert len(failed(report)) > 60


def test_what_cannot_be_asked_is_never_passed() -> None:
    report = report_of(faulty.Guardrail, "tenants.no-key", "records.log", "chat.whole.harmless")
    rows = {row.check.name: row.outcome for row in report.results}
    assert rows == {
        "tenants.no-key": Outcome.NOT_APPLICABLE,
        "records.log": Outcome.NOT_APPLICABLE,
        "chat.whole.harmless": Outcome.PASSED,
    }
    nothing = report_of(faulty.Guardrail, "records.log")
    assert nothing.exit_code == 2


def test_reports_hold_no_texts(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        report = report_of(faulty.Names, "chat.", "records.names")
    told = " ".join(row.evidence for row in report.results).casefold()
    assert "marzipan" not in told
    assert "teapot" not in told
