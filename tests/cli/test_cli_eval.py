"""``prism eval``: figures, comparisons, and a report that stands by itself."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn.metrics import average_precision_score


def made(count, seed, noise):
    """Labels, and scores that know them but for noise."""
    chance = np.random.default_rng(seed)
    labels = chance.random(count) < 0.4
    return labels, np.round(np.clip(0.5 * labels + 0.25 + chance.normal(0, noise, count), 0, 1), 4)


@pytest.fixture
def files(house):
    """``data.jsonl`` with labels, and results of two systems, the second worse."""
    labels, good = made(300, 1, 0.2)
    _, poor = made(300, 1, 0.5)
    kinds, langs = ("cyb", "fra", ["hte", "vcr"]), ("en", "zh")
    rows = [
        {"id": i, "prompt": f"lantern {i}", "label": int(unsafe), "lang": langs[i % 2],
         "category": kinds[i % 3] if unsafe else None}
        for i, unsafe in enumerate(labels)
    ]  # fmt: skip
    rows += [{"prompt": "no label"}, {"prompt": "bad label", "label": 2}]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    for name, scores in (("good", good), ("poor", poor)):
        results = [
            {"id": i, "action": "block" if s > 0.9 else "allow", "score": s,
             "categories": {"inj": 1 - s}, "tiers": {"prompt.patterns": "ran"}}
            for i, s in enumerate(scores)
        ]  # fmt: skip
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in results))
    return labels, good, poor


def test_figures_of_results(prism, files):
    labels, good, _ = files
    run = prism("eval", "--results", "good.jsonl", "--bootstrap", "50", "--json", "data.jsonl")
    assert run.code == 0
    data = run.json["data"]
    assert (data["measured"], data["unlabelled"], data["bad"]) == (300, 1, 2)
    (system,) = run.json["systems"]
    auprc = system["overall"]["auprc"]
    assert auprc["value"] == pytest.approx(average_precision_score(labels, good))
    assert auprc["interval"][0] < auprc["value"] < auprc["interval"][1]
    assert set(system["groups"]["language"]) == {"en", "zh"}
    groups = system["groups"]["category"]
    assert set(groups) == {"cyb", "fra", "hte", "vcr"}
    fra = np.array([not unsafe or i % 3 == 1 for i, unsafe in enumerate(labels)])
    expected = average_precision_score(labels[fra], good[fra])
    assert groups["fra"]["auprc"]["value"] == pytest.approx(expected)
    assert groups["hte"] == groups["vcr"]
    blocked = sum(bool(s > 0.9) for s in good[labels])
    assert system["actions"]["unsafe"].get("block", 0) == blocked
    assert system["tiers"] == {"patterns": 300}
    assert run.json["difference"] is None


def test_another_score_and_threshold(prism, files):
    labels, good, _ = files
    run = prism(
        "eval", "--results", "good.jsonl", "--score", "inj", "--threshold", "0.25",
        "--bootstrap", "0", "--json", "data.jsonl",
    )  # fmt: skip
    (system,) = run.json["systems"]
    assert system["overall"]["auprc"]["value"] == pytest.approx(
        average_precision_score(labels, 1 - good)
    )
    assert system["overall"]["auprc"]["interval"] is None
    assert system["overall"]["fpr"]["value"] == pytest.approx((1 - good >= 0.25)[~labels].mean())


def test_two_results_are_compared_on_the_same_rows(prism, files):
    labels, good, poor = files
    run = prism(
        "eval", "--results", "poor.jsonl", "--results", "good.jsonl", "--bootstrap", "100",
        "--json", "data.jsonl",
    )  # fmt: skip
    gap = run.json["difference"]["overall"]["auprc"]
    assert gap["value"] == pytest.approx(
        average_precision_score(labels, good) - average_precision_score(labels, poor)
    )
    assert gap["sure"]
    assert gap["value"] > 0


def test_the_report_stands_by_itself(prism, files):
    Path("good.jsonl").rename("<good>.jsonl")
    run = prism(
        "eval", "--results", "<good>.jsonl", "--results", "poor.jsonl", "--bootstrap", "20",
        "--html", "report.html", "data.jsonl",
    )  # fmt: skip
    assert run.code == 0
    assert run.out.endswith("report: report.html\n")
    page = Path("report.html").read_text()
    assert not re.search(r"<script|https?://|src=|@import|url\(", page)
    assert "&lt;good&gt;.jsonl" in page
    assert "<good>" not in page
    assert "lantern" not in page  # no row's text
    plots = re.findall(r"<svg.*?</svg>", page)
    assert len(plots) == 2
    for plot in plots:
        lines = ElementTree.fromstring(plot).findall("polyline")
        assert len(lines) == 2
        for line in lines:
            places = [tuple(map(float, p.split(","))) for p in line.get("points").split()]
            assert all(0 <= x <= 420 and 0 <= y <= 300 for x, y in places)


def test_policies_are_run_and_timed(prism, house):
    Path("scored.yaml").write_text(
        "prism: 1\nid: scored\ntiers: {sketch: on, encoder: off}\nrules:\n"
        "  - {id: harmful, category: harm, action: block, thresholds: 0.5}\n"
    )
    rows = [{"prompt": f"the {w} of row {i}", "label": i % 2} for i in range(20) for w in ("lamp",)]
    Path("data.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    )
    run = prism(
        "eval", "--policy", "scored.yaml", "--policy", "scored.yaml", "--bootstrap", "10",
        "--html", "report.html", "--json", "data.jsonl.gz",
    )  # fmt: skip
    assert run.code == 0
    one, two = run.json["systems"]
    assert one["overall"] == two["overall"]
    assert one["tiers"] == {"sketch": 20}
    assert one["cost"]["cpu_ms_per_text"] > 0
    assert one["cost"]["single_ms"]["p50"] > 0
    assert run.json["difference"]["overall"]["auprc"]["value"] == 0
    assert len(re.findall(r"<svg.*?</svg>", Path("report.html").read_text())) == 3


def test_a_scan_of_the_same_rows_gives_the_same_figures(prism, house):
    Path("scored.yaml").write_text(
        "prism: 1\nid: scored\ntiers: {sketch: on, encoder: off}\nrules:\n"
        "  - {id: harmful, category: harm, action: block, thresholds: 0.5}\n"
    )
    words = ["lamp", "river", "stone", "cloud", "wool", "paper"]
    rows = [
        {"response": f"{w} and {v}", "label": i % 2} for i, w in enumerate(words) for v in words
    ]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert prism("scan", "--policy", "scored.yaml", "data.jsonl", "out.jsonl").code == 0
    options = ("--bootstrap", "0", "--json", "data.jsonl")
    scanned = prism("eval", "--results", "out.jsonl", *options).json["systems"][0]
    judged = prism("eval", "--policy", "scored.yaml", *options).json["systems"][0]
    for key in ("overall", "groups", "actions", "reliability", "tiers"):
        assert scanned[key] == judged[key]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.jsonl",), "nowhere.jsonl: No such file or directory"),
        (("--results", "nowhere.jsonl", "data.jsonl"), "nowhere.jsonl: No such file"),
        (("--results", "data.jsonl", "empty.jsonl"), "no row has a label"),
        (("--results", "other.jsonl", "data.jsonl"), "has no result of these rows"),
        (("--results", "house.yaml", "data.jsonl"), "house.yaml:1 is not a result of a scan"),
        (("--results", "good.jsonl", "--score", "cyb", "data.jsonl"), "no row has a score 'cyb'"),
        (("--results", "good.jsonl", "data.jsonl", "data.jsonl"), "ids must be different"),
        (("--policy", "a", "--policy", "b", "--policy", "c", "data.jsonl"), "at most two"),
        (("--policy", "house.yml", "data.jsonl"), "house.yml"),
        (("--html", "no/where.html", "nowhere.jsonl"), "--html: no such folder: no"),
    ],
)
def test_bad_input(prism, files, arguments, message):
    Path("empty.jsonl").write_text('{"id": 1, "prompt": "hi"}\n')
    Path("other.jsonl").write_text('{"id": "other", "score": 0.5}\n')
    run = prism("eval", *arguments)
    assert run.code == 2
    assert message in run.err


def test_help_has_an_example(prism):
    assert "prism eval --policy default --html report.html" in prism("eval", "--help").out
