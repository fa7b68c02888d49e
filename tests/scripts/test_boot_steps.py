from __future__ import annotations

import sys
from pathlib import Path

import pytest

from boot.shell import CommandFailed, run
from boot.steps import Runner, Step
from boot.tree import Tree


class Work:
    """A step that notes how often it was done."""

    def __init__(self, tree: Tree, name: str = "work", installs: bool = False) -> None:
        self.inputs, self.done, self.result = "1", 0, tree.root / f"{name}.txt"
        self.step = Step(
            name,
            f"some {name}",
            lambda: self.inputs,
            self._do,
            there=self.result.exists,
            installs=installs,
        )

    def _do(self) -> None:
        self.done += 1
        self.result.write_text("made", encoding="utf-8")


def test_a_second_run_does_nothing_and_says_so(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    work = Work(tree)

    Runner(tree).run([work.step])
    Runner(tree).run([work.step])

    assert work.done == 1
    assert "some work: up to date" in capsys.readouterr().err


def test_changed_inputs_or_a_deleted_result_do_it_again(tree: Tree) -> None:
    work = Work(tree)
    Runner(tree).run([work.step])

    work.inputs = "2"
    Runner(tree).run([work.step])
    assert work.done == 2

    work.result.unlink()
    Runner(tree).run([work.step])
    assert work.done == 3


def test_either_order_does_each_step_once(tree: Tree) -> None:
    common, one, two = (Work(tree, name) for name in ("common", "one", "two"))

    Runner(tree).run([common.step, one.step])
    Runner(tree).run([common.step, two.step])
    Runner(tree).run([common.step, one.step])

    assert (common.done, one.done, two.done) == (1, 1, 1)


def test_a_failed_step_is_due_again_and_later_ones_are_not_begun(tree: Tree) -> None:
    later, failing = Work(tree, "later"), [sys.executable, "-c", "raise SystemExit(3)"]
    step = Step("bad", "bad", lambda: "1", lambda: _run(tree, failing), installs=True)

    for _ in range(2):
        with pytest.raises(CommandFailed, match="exit 3"):
            Runner(tree).run([step, later.step])
    assert later.done == 0


def test_an_install_cut_off_half_way_makes_venv_anew(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree.venv / "lib").mkdir(parents=True)

    def cut_off() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Runner(tree).run([Step("half", "half", lambda: "1", cut_off, installs=True)])
    Runner(tree).run([Work(tree).step])

    assert not (tree.venv / "lib").exists()
    assert "cut off during 'half'" in capsys.readouterr().err


def test_an_install_that_was_killed_makes_venv_anew_one_that_failed_does_not(tree: Tree) -> None:
    marker = tree.venv / "marker"
    for code, kept in [
        ("raise SystemExit(1)", True),
        ("import os; os.kill(os.getpid(), 9)", False),
    ]:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
        command = [sys.executable, "-c", code]
        step = Step(
            "x", "x", lambda: "1", lambda command=command: _run(tree, command), installs=True
        )
        with pytest.raises(CommandFailed):
            Runner(tree).run([step])
        Runner(tree).run([])
        assert marker.exists() is kept


def _run(tree: Tree, command: list[str]) -> None:
    run("the command", command, Path(tree.state / "x.log"))
