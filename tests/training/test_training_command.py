"""``python -m training --quick``: every step, one after the other, far from the shipped files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from training_rows import SHIPPED, made_up_rows

from prism.classify.encoder import Encoder
from prism.classify.sketch import Sketch
from training import __main__ as command


@pytest.mark.usefixtures("pretrained")
def test_a_quick_run_goes_from_data_to_a_report_and_leaves_the_package_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in SHIPPED.iterdir()}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["training", "--quick", "--data", str(data)])
    command.main()

    work = tmp_path / "build" / "training-quick"
    names = ("encoder.onnx", "encoder.tokenizer.json", "encoder.npz", "sketch.npz")
    files = [(work / "shipped" / name).read_bytes() for name in names]
    model = Encoder(files[0], files[1], files[2], Sketch(files[3]))
    assert model.prompts(["zephyr lantern"]).shape == (1, len(model.categories))
    report = json.loads((work / "report.json").read_text(encoding="utf-8"))
    assert {"prompt", "output", "plain"} <= set(report)
    assert {path.name: path.stat().st_mtime_ns for path in SHIPPED.iterdir()} == before


def test_a_quick_run_never_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["training", "--quick", "--to", str(SHIPPED)])
    with pytest.raises(SystemExit) as stopped:
        command.main()

    assert stopped.value.code == 2
    assert "give --to another folder" in capsys.readouterr().err


def test_a_few_rows_are_some_of_every_kind() -> None:
    rows = made_up_rows(160)
    kept = command.few(rows, 2)

    def kinds(some: list[command.Row]) -> set[tuple[object, ...]]:
        return {(row.split, row.response is None, row.labels["harm"]) for row in some}

    assert kinds(kept) == kinds(rows)
    assert len(kept) == 2 * len(kinds(rows))
    assert kept == [row for row in rows if row in kept]
