"""``prism scan``: the contract that data pipelines rely on."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROWS = [
    {"id": "a", "prompt": "what a nice day"},
    {"id": "b", "prompt": "my zephyr lantern"},
    {"id": "c", "prompt": "is it done?", "response": "order-1234 is"},
    {"prompt": "no id"},
]
KEYS = {"decision", "action", "score", "categories", "spans", "tiers", "policy"}


@pytest.fixture
def rows(house):
    """``in.jsonl``: good rows, and bad ones among them."""
    lines = [json.dumps(row) for row in ROWS]
    lines[2:2] = ["", "{broken", '{"id": 5}']
    Path("in.jsonl").write_text("\n".join(lines) + "\n")
    Path("house.yaml").write_text(Path("house.yaml").read_text().replace("extends: default\n", ""))
    return Path("in.jsonl")


def results(text):
    return [json.loads(line) for line in text.splitlines()]


def scan(prism, *arguments, **more):
    return prism("scan", "--policy", "house.yaml", *arguments, **more)


def test_rows(prism, rows):
    run = scan(prism, "in.jsonl", "out.jsonl")
    assert (run.code, run.out) == (0, "")
    assert run.err == "6 rows: 2 allow, 1 block, 1 redact, 2 bad rows\n"
    out = results(Path("out.jsonl").read_text())
    assert [row.get("id", row.get("line")) for row in out] == ["a", "b", 4, 5, "c", 7]
    good = [row for row in out if "error" not in row]
    assert all(row.keys() - {"id", "line"} == KEYS for row in good)
    assert [row["action"] for row in good] == ["allow", "block", "redact", "allow"]
    assert [row["decision"] for row in good] == ["allow", "block", "allow", "allow"]
    assert out[2].keys() == {"line", "error"}
    assert out[3].keys() == {"id", "error"}


def test_standard_input_and_output_and_gzip(prism, rows):
    scan(prism, "in.jsonl", "out.jsonl")
    piped = scan(prism, "-", "-", stdin=rows.read_bytes())
    assert piped.code == 0
    assert results(piped.out) == results(Path("out.jsonl").read_text())
    Path("in.jsonl.gz").write_bytes(gzip.compress(rows.read_bytes()))
    assert results(scan(prism, "in.jsonl.gz", "-").out) == results(piped.out)


@pytest.mark.parametrize("cut", [0, 1, 40, 400, 10_000])
def test_an_interrupted_run_goes_on(prism, rows, cut):
    scan(prism, "in.jsonl", "out.jsonl")
    whole = Path("out.jsonl").read_bytes()
    Path("out.jsonl").write_bytes(whole[:cut])
    run = scan(prism, "--json", "in.jsonl", "out.jsonl")
    assert run.code == 0
    assert run.json["resumed"] == whole[:cut].count(b"\n")
    assert run.json["resumed"] + run.json["rows"] == 6
    assert Path("out.jsonl").read_bytes() == whole


def test_who_reads_the_results_may_have_enough_of_them(prism_process, house):
    row = json.dumps({"id": "r", "prompt": "what a nice day"})
    Path("in.jsonl").write_text(f"{row}\n" * 600)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as nobody:
        run = prism_process("scan", "--workers", "1", "in.jsonl", "-", stdout=nobody)
    assert (run.code, run.err) == (1, "")


def test_closed_standard_streams_are_bad_input(prism_process, rows):
    closed = prism_process("scan", "-", "out.jsonl", closed=0)
    assert closed.code == 2
    assert closed.err.startswith("error: no rows")
    closed = prism_process("scan", "in.jsonl", "-", closed=1)
    assert closed.code == 2
    assert closed.err.startswith("error: standard output is closed")
    closed = prism_process("check", "-", closed=0)
    assert closed.code == 2
    assert closed.err.startswith("error: no text")


def test_ctrl_c_leaves_whole_rows_and_the_run_goes_on(prism, house):
    rows = [json.dumps({"id": i, "prompt": f"what a nice day, said {i}"}) for i in range(2000)]
    text = "".join(f"{row}\n" for row in rows).encode()
    command = [str(Path(sys.executable).with_name("prism")), "scan", "--workers", "2"]
    command += ["--policy", "house.yaml", "-", "out.jsonl"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job's may be ignored
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    try:
        run = subprocess.Popen(command, start_new_session=True, **pipes)
    finally:
        signal.signal(signal.SIGINT, before)
    assert run.stdin is not None
    run.stdin.write(text)
    run.stdin.flush()  # left open: more rows may come, so the run can't be over
    out = Path("out.jsonl")
    deadline = time.monotonic() + 240
    while not (out.exists() and out.stat().st_size):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    _, err = run.communicate(timeout=240)
    assert run.returncode == 130
    assert b"Traceback" not in err
    assert out.read_bytes().endswith(b"\n")
    assert scan(prism, "--workers", "1", "-", "out.jsonl", stdin=text).code == 0
    assert [row["id"] for row in results(out.read_text())] == list(range(2000))


def test_results_of_something_else_are_not_touched(prism, rows):
    scan(prism, "in.jsonl", "out.jsonl")
    whole = Path("out.jsonl").read_bytes()
    text = rows.read_text()
    for change, message in (
        (lambda: rows.write_text(text.replace('"a"', '"z"')), "another row"),
        (lambda: rows.write_text(text.splitlines()[0] + "\n"), "more results than rows"),
        (lambda: rows.write_text(text) and Path("house.yaml").write_text(
            Path("house.yaml").read_text().replace("zephyr", "amber")), "another policy"),
    ):  # fmt: skip
        change()
        run = scan(prism, "in.jsonl", "out.jsonl")
        assert run.code == 2
        assert message in run.err
        assert "--fresh" in run.err
        assert Path("out.jsonl").read_bytes() == whole
    assert scan(prism, "--fresh", "in.jsonl", "out.jsonl").code == 0
    assert Path("out.jsonl").read_bytes() != whole


def test_what_is_no_result_file_is_not_touched(prism, rows):
    Path("out.jsonl").write_text("dear diary\n")
    run = scan(prism, "in.jsonl", "out.jsonl")
    assert run.code == 2
    assert "out.jsonl:1 is not a result of a scan" in run.err
    assert Path("out.jsonl").read_text() == "dear diary\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.jsonl", "out.jsonl"), "nowhere.jsonl: No such file or directory"),
        (("in.jsonl", "no/where/out.jsonl"), "error: no/where/out.jsonl: No such file"),
        (("in.jsonl", "folder"), "error: folder: Is a directory"),
        (("folder", "out.jsonl"), "error: folder: Is a directory"),
        (("in.jsonl", "in.jsonl"), "the same file"),
        (("house.yaml.gz", "out.jsonl"), "Not a gzipped file"),
    ],
)
def test_bad_input(prism, rows, arguments, message):
    Path("house.yaml.gz").write_text("no gzip")
    Path("folder").mkdir()
    run = scan(prism, *arguments)
    assert run.code == 2
    assert message in run.err


def test_a_policy_that_is_wrong_starts_nothing(prism, rows):
    Path("house.yaml").write_text("prism: 1\nid: house\nrule: []\n")
    run = scan(prism, "in.jsonl", "out.jsonl")
    assert run.code == 2
    assert run.err.startswith("house.yaml:3:1: rule: ")
    assert not Path("out.jsonl").exists()


def test_workers_give_the_same_in_the_same_order(prism_process, rows):
    row = '{{"id": {}, "prompt": "the {} lantern"}}\n'
    text = "".join(row.format(i, "zephyr" if i % 7 else "old") for i in range(700))
    Path("many.jsonl").write_text(text)
    arguments = ("scan", "--policy", "house.yaml", "--workers")
    many = prism_process(*arguments, "2", "many.jsonl", "-")
    one = prism_process(*arguments, "1", "many.jsonl", "-")
    assert (many.code, one.code) == (0, 0)
    assert many.out == one.out
    assert [r["id"] for r in results(many.out)] == list(range(700))


def test_help_has_an_example(prism):
    assert (
        "prism scan --policy house.yaml --workers 4 texts.jsonl results.jsonl"
        in prism("scan", "--help").out
    )
