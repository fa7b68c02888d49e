from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from boot import shell
from boot.tree import Tree, cache_root, digest, locked

SCRIPTS = Path(__file__).parents[2] / "scripts"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_failure_shows_the_end_of_its_output_and_where_the_rest_is(tmp_path: Path) -> None:
    code = "for n in range(100): print('line', n)\nraise SystemExit(7)"

    with pytest.raises(shell.CommandFailed) as failure:
        shell.run("counting", python(code), tmp_path / "a.log")

    text = str(failure.value)
    assert text.startswith("counting failed (exit 7). The end of ")
    assert str(tmp_path / "a.log") in text
    assert "line 99" in text
    assert "line 10\n" not in text


def test_a_signal_is_named(tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"

    with pytest.raises(shell.CommandFailed, match="was killed by SIGILL") as failure:
        shell.run("dying", python(code), tmp_path / "a.log")
    assert failure.value.status == -4


def test_a_long_command_is_said_to_be_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shell, "HEARTBEAT_S", 0.05)

    shell.run("sleeping", python("import time; time.sleep(0.5)"), tmp_path / "a.log")

    assert "… sleeping: 0 s so far" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (372, "6 min 12 s")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert shell.duration(seconds) == text


def test_the_cache_follows_the_xdg_rule(tmp_path: Path) -> None:
    assert cache_root({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "prism"
    assert cache_root({"XDG_CACHE_HOME": ""}) == Path.home() / ".cache" / "prism"
    assert cache_root({}) == Path.home() / ".cache" / "prism"


def test_the_digest_keeps_parts_apart(tmp_path: Path) -> None:
    assert digest("ab", "c") != digest("a", "bc")
    assert digest(tmp_path / "missing") == digest(b"")


def test_two_runs_in_one_clone_wait_for_each_other(tree: Tree) -> None:
    """Each says that it is in, and stays until its standard input is closed."""
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})\n"
        "from pathlib import Path\n"
        "from boot.tree import locked\n"
        f"with locked(Path({str(tree.root / 'lock')!r}), 'a test'):\n"
        "    print('in', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(python(code), stdin=pipe, stdout=pipe, text=True) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == "in\n"
        with subprocess.Popen(
            python(code), stdin=pipe, stdout=pipe, stderr=pipe, text=True
        ) as second:
            assert second.stdin is not None
            assert second.stdout is not None
            assert second.stderr is not None
            told = second.stderr.readline()
            assert f"(process {first.pid}) is busy with a test; waiting" in told
            assert first.poll() is None
            first.stdin.close()
            assert second.stdout.readline() == "in\n"
            second.stdin.close()
    assert (first.returncode, second.returncode) == (0, 0)


def test_what_a_command_started_ends_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    grandchild = (
        f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    )
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    with subprocess.Popen(python(code), process_group=0) as child:
        while not (note.exists() and note.read_text(encoding="utf-8")):
            time.sleep(0.02)
        shell.stop(child)

    pid = int(note.read_text(encoding="utf-8"))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and running(pid):
        time.sleep(0.02)
    assert not running(pid)


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_command_that_outlives_its_caller_keeps_the_lock(tree: Tree) -> None:
    """Only this process is killed; what it was running still writes into the tree."""
    lock, begun, over = tree.root / "lock", tree.root / "begun", tree.root / "over"
    inner = (
        f"import os, time\nopen({str(begun)!r}, 'w').close()\n"
        f"while not os.path.exists({str(over)!r}): time.sleep(0.02)"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})\n"
        "from pathlib import Path\n"
        "from boot import shell\n"
        "from boot.tree import locked\n"
        f"with locked(Path({str(lock)!r}), 'a test'):\n"
        f"    command = [sys.executable, '-c', {inner!r}]\n"
        f"    shell.run('x', command, Path({str(tree.root / 'log')!r}))\n"
    )
    with subprocess.Popen(python(code)) as first:
        while not begun.exists():
            time.sleep(0.02)
        first.kill()

    with lock.open() as handle, pytest.raises(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    over.touch()
    with locked(lock, "a test"):
        pass
