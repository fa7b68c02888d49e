"""llama-cpp-python: built once for this kind of CPU, tried out, and kept outside the tree."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from boot.cpu import Build, cpu_digest
from boot.shell import CommandFailed, Stop, run, say
from boot.tree import Tree, file_sha256, locked

VERSION = "0.3.36"

TRY = """
import sys
import llama_cpp

llama_cpp.llama_backend_init()
print(llama_cpp.llama_print_system_info().decode())
if len(sys.argv) > 1:
    model = llama_cpp.Llama(sys.argv[1], n_ctx=64, logits_all=False, verbose=False)
    print(repr(model("One, two,", max_tokens=2, temperature=0.0)["choices"][0]["text"]))
    model.close()
"""
"""Loading lays the weights out for the CPU and a token multiplies them: both must survive."""


class NoCompiler(Stop):
    """Something needed to compile C++ is missing."""


class IllegalInstruction(Stop):
    """Not even the plainest build runs on this CPU."""


def wheel_dir(tree: Tree, build: Build) -> Path:
    """Return where the wheel of ``build`` is kept."""
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return tree.cache / "wheels" / f"{VERSION}-{python}-{build.digest}"


def cached_wheel(tree: Tree, build: Build) -> Path | None:
    """Return the kept wheel if it is whole, else nothing."""
    for wheel in sorted(wheel_dir(tree, build).glob("llama_cpp_python-*.whl")):
        record = wheel.with_name(wheel.name + ".sha256")
        if record.exists() and record.read_text(encoding="utf-8").strip() == file_sha256(wheel):
            return wheel
    return None


def check_compiler(which: Callable[[str], str | None] = shutil.which) -> None:
    """Say precisely what is missing before a build that would fail minutes later."""
    cc, cxx = os.environ.get("CC", "cc"), os.environ.get("CXX", "c++")
    lacking = [name for name in (cc.split()[0], cxx.split()[0]) if which(name) is None]
    if not any(which(name) for name in ("ninja", "make")):
        lacking.append("make")
    if lacking:
        raise NoCompiler(
            f"llama.cpp has to be compiled and there is no {' and no '.join(lacking)} here.\n"
            "  Debian, Ubuntu:  sudo apt-get install build-essential\n"
            "  Fedora:          sudo dnf install gcc-c++ make\n"
            "  macOS:           xcode-select --install\n"
            "(cmake and ninja are fetched from PyPI for the build if they are missing.)"
        )


def build_wheel(tree: Tree, build: Build) -> Path:
    """Return a wheel of ``build``: the kept one, or a new one that is kept from now on."""
    kept = wheel_dir(tree, build)
    with locked(kept.parent / f".{kept.name}.lock", f"building llama.cpp ({build.level})"):
        wheel = cached_wheel(tree, build)
        if wheel is not None:
            say(f"  llama-cpp-python {VERSION} ({build.level}): taken from {kept}")
            return wheel
        check_compiler()
        say(
            f"  compiling llama-cpp-python {VERSION} ({build.level}: {build.cmake_args}); "
            "6 to 10 minutes on 2 cores, once per machine"
        )
        shutil.rmtree(kept, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".building-") as work:
            # Not from pip's own cache, which does not know with which flags a wheel was built.
            run(
                "compiling llama.cpp",
                tree.pip(
                    *("wheel", "--no-cache-dir", "--no-deps", "--wheel-dir", work),
                    *("--no-binary", "llama-cpp-python", f"llama-cpp-python=={VERSION}"),
                ),
                tree.state / "llama-build.log",
                env={"CMAKE_ARGS": build.cmake_args, "FORCE_CMAKE": "1"},
            )
            keep(next(Path(work).glob("llama_cpp_python-*.whl")), kept)
        made = cached_wheel(tree, build)
        if made is None:
            raise Stop(f"The wheel just put into {kept} does not read back: is the disk full?")
        return made


def keep(wheel: Path, kept: Path) -> None:
    """Move a whole wheel into its place, its checksum last: without one it does not count."""
    with zipfile.ZipFile(wheel) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise Stop(f"{wheel.name} is damaged ({broken}): is the disk full?")
    kept.mkdir(parents=True, exist_ok=True)
    target = kept / wheel.name
    shutil.move(wheel, target)
    target.with_name(target.name + ".sha256").write_text(file_sha256(target), encoding="utf-8")


def install(tree: Tree, candidates: Sequence[Build], model: Path | None) -> None:
    """Install the best build that runs here, stepping down when one dies."""
    for position, build in enumerate(candidates):
        if _verdict(tree, build).with_suffix(".dies").exists():
            continue  # tried on this kind of CPU before
        wheel = build_wheel(tree, build)
        _put(tree, wheel)
        if runs(tree, build, model):
            return
        rest = candidates[position + 1 :]
        say(
            f"the {build.level} build dies here with 'Illegal instruction': the CPU (or the "
            "virtual machine) does not allow what it advertises"
            + (f"; falling back to {rest[0].level}" if rest else "")
        )
        _verdict(tree, build).with_suffix(".dies").touch()
    levels = ", ".join(build.level for build in candidates)
    raise IllegalInstruction(
        f"llama.cpp dies with 'Illegal instruction' in every build tried ({levels}).\n"
        f"If the machine has changed since, delete {tree.cache / 'wheels'} and try again."
    )


def runs(tree: Tree, build: Build, model: Path | None) -> bool:
    """Return whether the installed build survives loading ``model`` and generating from it."""
    proof = _verdict(tree, build).with_suffix(".runs" if model else ".imports")
    if not proof.exists():
        arguments = [str(model)] if model else []
        try:
            run(
                "trying llama.cpp out",
                [tree.python, "-c", TRY, *arguments],
                tree.state / "llama-try.log",
            )
        except CommandFailed as failure:
            if failure.status == -signal.SIGILL:
                return False
            raise
        proof.touch()
    return True


def _verdict(tree: Tree, build: Build) -> Path:
    return wheel_dir(tree, build) / f"cpu-{cpu_digest()}"


def _put(tree: Tree, wheel: Path) -> None:
    what, log = "installing llama.cpp", tree.state / "llama-install.log"
    # pip takes another wheel of the same version for the same thing: hence by force …
    run(what, tree.pip("install", "--no-deps", "--force-reinstall", wheel), log)
    # … and then whatever it depends on, which is there already more often than not.
    run(what, tree.pip("install", f"llama-cpp-python=={VERSION}"), log)
