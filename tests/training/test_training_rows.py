"""Reading data sets: known labels only, no duplicates, splits that never move."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from training.labels import CATEGORIES, COLUMNS, HAZARDS
from training.rows import Row, read_all, split_of, with_answers
from training.sources import SOURCES, asks, benign
from training.targets import matrix, mix
from training.written import generate, second

from prism.taxonomy import taxonomy


def test_sets_are_read_once_without_their_duplicates(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read_all(data)

    assert sorted({row.source for row in rows}) == ["advbench", "dolly_subset"]
    assert len(rows) == len({row.text for row in rows}) == 120
    assert "unheard_of" in capsys.readouterr().out
    assert [row.text for row in read_all(data)] == [row.text for row in rows]


def test_a_text_stays_in_its_split_whatever_else_is_read(data: Path) -> None:
    before = {row.text: row.split for row in read_all(data)}
    (data / "train" / "dolly_subset.jsonl.gz").unlink()
    after = {row.text: row.split for row in read_all(data)}

    assert after.items() <= before.items()
    assert set(before.values()) == {"train", "calibrate", "test"}


def test_no_data_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        read_all(tmp_path)


def test_every_source_teaches_columns_that_exist() -> None:
    words = ["", "none", "prompt", "toxic", "Illegal Activity", "malicious_uses", "spc_ele", "vcr"]
    words += ["Requests with safety concerns", "1. threats", "Offending User", "Self-harm", "fraud"]
    for name, source in SOURCES.items():
        for label in (0, 1, None):
            for word in words:
                try:
                    labels = source.labels(label, word) or {}
                except KeyError:
                    pytest.fail(f"{name} can't read the category {word!r}")
                if name != "ailuminate_demo":  # its words are the keys
                    assert set(labels) <= set(COLUMNS), name
                assert all(0 <= value <= 1 for value in labels.values()), name


def test_injection_teaches_nothing_of_harm() -> None:
    labels = SOURCES["slabs_injection"].labels(1, "prompt_injection")

    assert labels == {"inj": 1.0}
    assert benign(0, "")["inj"] == 0.0
    assert asks("vcr")["inj"] == 0.0


def test_every_hazard_is_a_category_of_the_taxonomy() -> None:
    assert set(HAZARDS) <= set(taxonomy().categories)
    assert CATEGORIES[:2] == ("harm", "inj")


def test_what_a_source_does_not_know_is_not_a_number() -> None:
    targets = matrix([Row("made up", "zephyr", None, {"harm": 1.0})])

    assert targets[0, COLUMNS.index("harm")] == 1.0
    assert np.isnan(targets[0, COLUMNS.index("inj")])


def test_the_mix_has_the_share_asked_for_and_no_source_decides_alone() -> None:
    rows = [Row("large", "a", None, {"harm": 0.0})] * 400 + [
        Row("small", "b", None, {"harm": 0.0})
    ] * 4
    rows += [Row("bad", "c", None, {"harm": 0.9})] * 10 + [Row("unsure", "d", None, {"harm": 0.5})]
    known, labels, weights = mix(rows, "harm", 0.2)

    assert known.sum() == 414
    assert weights[labels == 1].sum() == pytest.approx(0.2)
    assert weights[:400].sum() / weights[400:404].sum() == pytest.approx(10)


def test_written_examples_are_the_same_each_time_and_of_both_kinds() -> None:
    rows = generate()
    again = generate()

    assert [(row.text, row.response) for row in rows] == [(r.text, r.response) for r in again]
    for hazard in ("sxc", "vcr", "ssh", "cse", "tox", "fra", "cyb", "iwp", "prv"):
        assert sum(row.labels.get(hazard, 0) > 0.5 for row in rows) > 40, hazard
    assert sum(row.labels["harm"] == 0 for row in rows) > 2_000
    assert not [row.text for row in rows if "{" in row.text or "{" in (row.response or "")]


def test_lines_added_by_hand_are_read(tmp_path: Path) -> None:
    lines = [
        {"text": "murk the gloom", "stage": "prompt", "labels": {"vcr": 1}, "harm": 1},
        {"text": "no murk here", "stage": "output", "prompt": "murk?", "labels": {}, "harm": 0},
    ]
    text = "\n".join(json.dumps(line) for line in lines) + "\n"
    (tmp_path / "more.jsonl").write_text(text, encoding="utf-8")
    asked, answered = generate(tmp_path)

    assert asked.response is None
    assert asked.labels["vcr"] == asked.labels["harm"] == 1
    assert answered.response == "no murk here"
    assert answered.labels["resp"] == answered.labels["cyb"] == 0


def test_contrast_pairs_are_even_and_kept_apart_from_the_first_stage() -> None:
    rows = second()
    harmful = sum(row.labels["harm"] == 1 for row in rows)

    assert {row.source for row in rows} == {"contrast"}
    assert 0.3 < harmful / len(rows) < 0.6
    assert not {row.family for row in rows} & {row.family for row in generate()}


def test_a_comment_stands_for_an_answer_too() -> None:
    comment = Row("made up", "zephyr", None, {"harm": 1.0, "resp": 1.0})
    request = Row("made up", "gloom", None, {"harm": 1.0})
    rows = with_answers([comment, request])

    assert [(row.text, row.response) for row in rows] == [
        ("zephyr", None),
        ("", "zephyr"),
        ("gloom", None),
    ]


def test_a_set_held_out_is_never_in_the_first_stage_and_a_late_one_in_part_in_the_second() -> None:
    keys = [f"zephyr {number}" for number in range(600)]
    kept = {split_of(SOURCES["tdc2023"], key) for key in keys}
    late = [split_of(SOURCES["wildguardtest_benign"], key) for key in keys]

    assert kept == {"calibrate", "test"}
    assert set(late) == {"late", "calibrate", "test"}
    assert 0.3 < late.count("late") / len(late) < 0.45
    assert 0.45 < late.count("test") / len(late) < 0.55
