"""From a clean clone to a running server or a tested tree; ``make`` calls nothing else.

    python3 scripts/bootstrap.py serve|test|setup|lint|clean

Standard library only. Every step is skipped while its inputs are unchanged, may be interrupted,
and may come in any order; two runs in one clone wait for each other.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from boot import serve as server
from boot.install import offline, serve_steps, setup_steps, test_steps
from boot.shell import Stop, say
from boot.steps import Runner, Step
from boot.tree import Tree, cache_root, locked

LEFTOVERS = (".venv", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", "build", "dist")
MOST_WORKERS = 4
"""Each has torch and vLLM in memory, and may have a server with the demonstration model."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit status."""
    options = _parser().parse_args(arguments)
    tree = Tree(Path(__file__).resolve().parent.parent, cache_root(os.environ))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return _dispatch(tree, options)
    except Stop as problem:
        say(f"{problem}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the next run goes on from here")
        return 130


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Be told to end as by Ctrl-C, so that whatever runs is ended too."""
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bootstrap.py", description=(__doc__ or "").splitlines()[0]
    )
    targets = parser.add_subparsers(dest="target", required=True)
    serve = targets.add_parser("serve", help="serve the demonstration model, moderated")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--policy", default="policies/default.yaml")
    serve.add_argument("--model", default="", help="a GGUF file; default: Gemma 3 270M")
    serve.add_argument("--as-is", action="store_true", help="use .venv as it is, install nothing")
    test = targets.add_parser("test", help="lint, then every test, real engines included")
    test.add_argument("pytest", nargs="*", help="what to pass on to pytest")
    targets.add_parser("setup", help="prepare .venv and the model, run nothing")
    targets.add_parser("lint", help="ruff and mypy")
    targets.add_parser("clean", help="delete .venv and what tools leave in the tree")
    return parser


def _dispatch(tree: Tree, options: argparse.Namespace) -> int:
    match options.target:
        case "serve":
            return _serve(tree, options)
        case "test":
            _prepare(tree, test_steps(tree))
            return _lint(tree) or _pytest(tree, options.pytest)
        case "setup":
            _prepare(tree, setup_steps(tree))
            say("ready: 'make serve' serves, '.venv/bin/prism --help' shows the rest")
            return 0
        case "lint":
            _prepare(tree, setup_steps(tree))
            return _lint(tree)
        case _:
            return _clean(tree)


def _prepare(tree: Tree, steps: Sequence[Step]) -> None:
    with locked(tree.root / ".boot.lock", "setting up this clone"):
        Runner(tree).run(steps)


def _serve(tree: Tree, options: argparse.Namespace) -> int:
    demo = not options.model
    wished = server.Server(
        options.host,
        options.port,
        options.policy,
        tree.gguf if demo else Path(options.model).expanduser().absolute(),
        server.DEMO_OPTIONS if demo else (),
    )
    server.check(wished, must_exist=options.as_is or not demo)
    if not options.as_is:
        _prepare(tree, serve_steps(tree, demo))
    return server.serve(tree, wished)


def _lint(tree: Tree) -> int:
    for command in (("ruff", "check"), ("ruff", "format", "--check"), ("mypy",)):
        status = _show(tree, command)
        if status:
            return status
    return 0


def _pytest(tree: Tree, arguments: Sequence[str]) -> int:
    """Run the tests, one worker a core: the first is busy with vLLM for half of the time."""
    workers = min(os.cpu_count() or 1, MOST_WORKERS)
    return _show(tree, ("pytest", "-n", str(workers), *arguments))


def _show(tree: Tree, command: Sequence[str]) -> int:
    """Run a tool of ``.venv`` for the person at the terminal to watch."""
    say("$ " + " ".join(command))
    words = [str(tree.tool(command[0])), *command[1:]]
    env = {**os.environ, **offline(tree)}
    return subprocess.run(words, cwd=tree.root, env=env, check=False).returncode


def _clean(tree: Tree) -> int:
    with locked(tree.root / ".boot.lock", "setting up this clone"):
        for name in LEFTOVERS:
            shutil.rmtree(tree.root / name, ignore_errors=True)
        for folder in ("shared", "plugins", "scripts", "tests", "benchmarks"):
            for cache in (tree.root / folder).rglob("__pycache__"):
                shutil.rmtree(cache, ignore_errors=True)
    say(f"clean. Built wheels and models are kept in {tree.cache}; delete it to start from zero")
    return 0


if __name__ == "__main__":
    sys.exit(main())
