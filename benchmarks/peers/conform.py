"""Put other products, and this one, through ``prism conform``, before the scripted engine each.

    python benchmarks/peers/conform.py                  # all of them
    python benchmarks/peers/conform.py litellm prism    # some
    python benchmarks/peers/conform.py --table          # the reports so far, as a table
    python benchmarks/peers/conform.py --build presidio # only make an environment

Environments are built from PyPI with the versions in ``requirements/``, below
``$XDG_CACHE_HOME/prism/peers``; reports are written beside them. A product runs without any network
but the loopback where the system allows that (``unshare``), so a report also shows that it does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rows import PEERS, Peer

from prism.conform.checks import COMPLAINTS
from prism.conform.texts import POLICY, SECOND_RULE

HERE = Path(__file__).resolve().parent
PRISM = str(Path(sys.executable).with_name("prism"))
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prism" / "peers"
RESULTS = CACHE / "results"
_START = 180
_ALONE = ("unshare", "--user", "--map-root-user", "--net", "sh", "-c",
          'ip link set lo up && exec "$@"', "sh")  # fmt: skip


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [peer.name for peer in PEERS]
    parser.add_argument("peer", nargs="*", help=f"prism, {', '.join(names)}; all, if none is named")
    parser.add_argument("--table", action="store_true", help="show the reports so far")
    parser.add_argument("--build", nargs="+", metavar="NAME", help="make environments, no more")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    for name in given.build or ():
        build(name)
    if given.build:
        return
    wanted = given.peer or ["prism", *names]
    unknown = set(wanted) - {"prism", *names}
    if unknown:
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    if given.table:
        print(table(wanted))
    elif given.inside:
        run(wanted[0])
    else:
        for name in wanted:
            for peer in PEERS:
                if peer.name == name:
                    build(peer.environment)
            alone = _can_be_alone()
            print(f"{name}: {'no network' if alone else 'the network as it is'}", flush=True)
            command = [sys.executable, __file__, "--inside", name]
            subprocess.run([*(_ALONE if alone else ()), *command], check=True)


def build(name: str) -> None:
    """Make an environment, unless it is there."""
    folder = CACHE / name
    requirements = HERE / "requirements" / f"{name}.txt"
    done = folder / "installed.txt"
    if done.exists() and done.read_text() == requirements.read_text():
        return
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--requirement", str(requirements)], check=True)
    done.write_text(requirements.read_text())


def run(name: str) -> None:
    """Start the engine and the product, ask, and write the report."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = _free_port()
        upstream = f"http://127.0.0.1:{engine}"
        serve = [PRISM, "conform", "--serve-upstream", str(engine)]
        stack.enter_context(_process(serve, folder / "engine.log", {}))
        _wait(f"{upstream}/health", folder / "engine.log")
        port = _free_port()
        log = folder / "product.log"
        if name == "prism":
            command, environ, ready, options = _prism(folder, upstream, port)
            path = ""
        else:
            peer = next(peer for peer in PEERS if peer.name == name)
            command, environ, ready, options = _started(peer, upstream, port)
            path = peer.path
        stack.enter_context(_process(command, log, environ))
        _wait(f"http://127.0.0.1:{port}{ready}", log)
        asked = [PRISM, "conform", f"http://127.0.0.1:{port}{path}", "--upstream", upstream]
        asked += [
            "--log",
            str(log),
            "--patience",
            "60",
            "--latency-budget",
            "2",
            "--json",
            *options,
        ]
        done = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=False)
        shutil.copy(log, RESULTS / f"{name}.log")
        (RESULTS / f"{name}.json").write_text(done.stdout)
        counts = json.loads(done.stdout).get("counts", done.stdout)
        print(f"{name}: exit code {done.returncode}, {counts}", flush=True)


def _prism(
    folder: Path, upstream: str, port: int
) -> tuple[list[str], dict[str, str], str, list[str]]:
    """Two tenants, of whom the second has one rule more."""
    (folder / "policy.yaml").write_text(POLICY)
    (folder / "second.yaml").write_text(
        POLICY.replace("id: conformance", "id: second") + SECOND_RULE
    )
    config = folder / "prism.yaml"
    config.write_text("policy: policy.yaml\nfloor: policy.yaml\ntenants: tenants/\n")
    keys = []
    for name, policy in (("first", "policy.yaml"), ("second", "second.yaml")):
        add = [PRISM, "tenant", "add", name, "--config", str(config)]
        add += ["--policy", str(folder / policy)]
        done = subprocess.run(add, stdout=subprocess.PIPE, text=True, check=True)
        keys.append(done.stdout.strip())
    command = [PRISM, "proxy", "--upstream", upstream, "--config", str(config), "--port", str(port)]
    return command, {}, "/prism/health", ["--api-key", keys[0], "--tenant-key-2", keys[1]]


def _started(
    peer: Peer, upstream: str, port: int
) -> tuple[list[str], dict[str, str], str, list[str]]:
    binaries = CACHE / peer.environment / "bin"
    places = {"bin": str(binaries), "here": str(HERE), "port": str(port), "upstream": upstream}
    command = [part.format(**places) for part in peer.command]
    environ = {key: value.format(**places) for key, value in peer.environ.items()}
    return command, environ, peer.ready, list(peer.options)


def _can_be_alone() -> bool:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    return subprocess.run([*_ALONE, "true"], capture_output=True, check=False).returncode == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def _process(command: list[str], log: Path, environ: dict[str, str]) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **environ})
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(url: str, log: Path) -> None:
    until = time.monotonic() + _START
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                if reply.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise SystemExit(f"{url} did not come up\n{log.read_text()[-3000:]}")


def table(names: list[str]) -> str:
    """Return the reports as two tables: by complaint, and every check that failed."""
    reports = {
        name: json.loads((RESULTS / f"{name}.json").read_text())
        for name in names
        if (RESULTS / f"{name}.json").exists()
    }
    rows = [f"| | {' | '.join(reports)} |", "|-|" + "-|" * len(reports)]
    for number, title in COMPLAINTS.items():
        cells = [_cell(report, number) for report in reports.values()]
        rows.append(f"| {number}. {title} | {' | '.join(cells)} |")
    totals = [_told(report["counts"]) for report in reports.values()]
    rows.append(f"| **all checks** | {' | '.join(totals)} |")
    for name, report in reports.items():
        failed = [row for row in report["checks"] if row["outcome"] in ("failed", "error")]
        if failed:
            rows += ["", f"### {name}", "", "| check | what was seen |", "|-|-|"]
            rows += [f"| `{row['name']}` | {row['evidence']} |" for row in failed]
    return "\n".join(rows)


def _cell(report: dict[str, Any], number: int) -> str:
    rows = [row["outcome"] for row in report["checks"] if number in row["complaints"]]
    return _told(Counter(rows))


def _told(counts: Any) -> str:
    passed, failed = counts.get("passed", 0), counts.get("failed", 0) + counts.get("error", 0)
    rest = counts.get("not applicable", 0)
    if not passed and not failed:
        return "n/a"
    return f"{passed} ✓" + f" {failed} ✗" * bool(failed) + f" ({rest} n/a)" * bool(rest)


if __name__ == "__main__":
    main()
