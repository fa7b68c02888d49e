"""The runner: parts in processes of their own, results that are kept, a report made of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import run as bench_run
from bench.goals import GOALS
from bench.report import render
from bench.rows import Book, Row, short
from bench.settings import Settings

ROOT = Path(__file__).parents[2]
MARKED = "# What it costs\n\n<!-- bench:{0} -->\nold\n<!-- /bench:{0} -->\n\nBy hand.\n"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def row(name: str, value: float, **more: object) -> Row:
    return Row.of(name, more.pop("unit", "µs"), [value, value], **more)


@pytest.fixture
def book(tmp_path):
    """Results as a run leaves them, some of every part that is drawn."""
    book = Book(tmp_path / "results.json")
    for part in ("batch", "phrases", "peers", "llamacpp"):
        book.begin(part, quick=False)
    for rows in (1, 16, 256):
        book.add("batch", row("a step", 100 / rows, at={"batch": rows}))
    for count in (100, 100_000):
        book.add("phrases", row("build", 3.0, unit="s", clock="wall", at={"phrases": count}))
        book.add("phrases", row("a step of the token layer", count / 1e5, at={"phrases": count}))
    for arm, value in (("prism, no disguises", 20), ("litellm", 1500), ("presidio", 180)):
        book.add("peers", row("a check", value, arm=arm, at={"words": 40}))
    more = {"unit": "ratio", "clock": "wall", "arm": "everything", "at": {"tokens": 64}}
    book.add("llamacpp", row("speed against bare", 0.97, **more))
    for part in ("batch", "phrases", "peers"):
        book.end(part, 60, [])
    book.end("llamacpp", 60, ["the engine fell over"])
    return book


def test_a_part_runs_in_its_own_process_and_the_others_are_kept(book, tokenizer_file):
    data = json.loads(book.path.read_text())
    before = data["parts"]
    before["batch"]["quick"] = True
    book.path.write_text(json.dumps(data))
    done = run("--quick", "--rounds", "1", "--model", str(tokenizer_file),
               "--json", str(book.path), "--only", "batch")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "a step (batch 8) [prism]" in done.stdout
    after = json.loads(book.path.read_text())["parts"]
    batch = after.pop("batch")
    assert batch["complete"]
    assert batch["quick"]
    assert [row["at"] for row in batch["rows"]] == [{"batch": n} for n in (1, 1, 8, 8)]
    del before["batch"]
    assert after == before


def test_a_case_that_fails_is_said_and_the_rest_goes_on(tmp_path):
    results = tmp_path / "results.json"
    done = run("--quick", "--rounds", "1", "--model", str(tmp_path / "nowhere.gguf"),
               "--json", str(results), "--only", "batch")  # fmt: skip
    assert done.returncode == 1
    assert "no such file" in done.stderr
    assert "not complete: batch" in done.stderr
    part = json.loads(results.read_text())["parts"]["batch"]
    assert not part["complete"]
    assert part["errors"] == ["batch {}: exit code 1"]


@pytest.mark.parametrize(
    ("quick", "errors", "kept"),
    [(False, [], False), (True, [], True), (False, ["the engine fell over"], True)],
    ids=["complete", "quick", "failed"],
)
def test_only_what_is_as_good_replaces_a_part(book, quick, errors, kept):
    before = book.parts["batch"]
    again = Book(book.path)
    again.begin("batch", quick=quick)
    again.add("batch", row("a step", 7, at={"batch": 1}))
    again.end("batch", 3, errors)
    for known in (again.parts, Book(book.path).parts):
        assert (known["batch"] == before) == kept
        assert "before" not in known["batch"]
    if not kept:
        assert [r["median"] for r in again.parts["batch"]["rows"]] == [7]


def test_a_run_that_was_interrupted_loses_nothing(book):
    before = book.parts["batch"]
    again = Book(book.path)
    again.begin("batch", quick=False)
    again.add("batch", row("a step", 7, at={"batch": 1}))
    assert Book(book.path).parts["batch"] == before
    never = Book(book.path)
    never.begin("vllm", quick=False)
    never.add("vllm", row("speed", 7))
    assert not Book(book.path).parts["vllm"]["complete"]


def test_a_part_that_cannot_be_loaded_is_said_and_the_rest_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "bench.parts.batch", None)
    book = Book(tmp_path / "results.json")
    assert not bench_run.run("batch", Settings(quick=True), book)
    assert "bench.parts.batch" in capsys.readouterr().err
    assert not book.parts["batch"]["complete"]


def test_results_of_another_machine_are_set_aside(book, capsys):
    data = json.loads(book.path.read_text())
    data["machine"]["cpu"] = "another"
    book.path.write_text(json.dumps(data))
    assert Book(book.path).parts == {}
    assert "results.json was of another machine" in capsys.readouterr().err
    aside = book.path.with_name("results.elsewhere.json")
    assert json.loads(aside.read_text()) == data


def test_the_machine_has_no_name(book):
    assert book.machine.keys() == {"cpu", "cores", "memory_gib", "system", "python", "packages"}


@pytest.mark.parametrize(
    ("part", "lines"),
    [
        ("batch", ["|  | batch 1 | batch 16 | batch 256 |",
                   "| a step (µs CPU) | 100 (100–100) | 6.25 (6.25–6.25) | 0.391 (0.391–0.391) |"]),
        ("phrases", ["|  | 100 phrases | 100,000 phrases |",
                     "| build (s wall) | 3 (3–3) | 3 (3–3) |"]),
        ("peers", ["| **litellm**: a check, 40 words (µs CPU) | 1,500 (1,500–1,500) |"]),
        ("llamacpp", ["Not complete: the engine fell over."]),
        ("vllm", ["Not measured yet."]),
        ("goals", ["| 100,000 phrases are built in at most 5 s | 3 s | yes |",
                   "| llama.cpp, everything on: speed against bare at least 0.98 | 0.97 | **no** |",
                   "| a check of 40 words, fastest peer over ours (no disguises, as theirs): "
                   "at least 10 | 9 times | **no** |"]),
        ("machine", ["4 minutes; "]),
    ],
)  # fmt: skip
def test_the_report_replaces_what_stands_between_the_marks(book, tmp_path, part, lines):
    document = tmp_path / "benchmarks.md"
    document.write_text(MARKED.format(part))
    render(json.loads(book.path.read_text()), document)
    text = document.read_text()
    assert "old" not in text
    assert text.endswith(f"\n<!-- /bench:{part} -->\n\nBy hand.\n")
    for line in lines:
        assert line in text
    render(json.loads(book.path.read_text()), document)
    assert document.read_text() == text


def test_the_plot_is_a_picture_without_outside_parts(book, tmp_path):
    document = tmp_path / "benchmarks.md"
    document.write_text(MARKED.format("goals"))
    render(json.loads(book.path.read_text()), document)
    picture = document.with_suffix(".svg").read_text()
    groups = ElementTree.fromstring(picture).findall("{http://www.w3.org/2000/svg}g")
    assert len(groups) == 4
    assert picture.count("http") == 1  # the name of SVG itself
    assert "<script" not in picture


def test_a_document_without_marks_is_left_alone(book, tmp_path):
    document = tmp_path / "benchmarks.md"
    document.write_text("nothing here\n")
    with pytest.raises(SystemExit, match="has no marks"):
        render(json.loads(book.path.read_text()), document)
    assert document.read_text() == "nothing here\n"


def test_every_mark_of_the_document_is_known_and_every_part_has_one():
    from bench.parts import NAMES

    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    marks = {line.split()[1] for line in text.splitlines() if line.startswith("<!-- bench:")}
    assert marks == {f"bench:{name}" for name in ("machine", "goals", *NAMES)}


def test_goals_are_open_where_nothing_was_measured():
    assert [goal.measured({}) for goal in GOALS] == [None] * len(GOALS)


@pytest.mark.parametrize(
    ("value", "text"), [(0.98765, "0.988"), (12.345, "12.3"), (999.6, "1,000"), (1234.6, "1,235")]
)
def test_three_digits_count(value, text):
    assert short(value) == text
