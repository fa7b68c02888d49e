from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from boot import llama
from boot.cpu import Build
from boot.tree import Tree

FAST = Build("AVX-512", ("-DGGML_AVX512=ON",))
PLAIN = Build("AVX2", ("-DGGML_NATIVE=OFF",))


def seed(tree: Tree, build: Build, text: str = "a") -> Path:
    """Put a small but whole wheel into the cache."""
    wheel = tree.root / "llama_cpp_python-0.3.36-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llama_cpp/__init__.py", text)
    llama.keep(wheel, llama.wheel_dir(tree, build))
    return llama.wheel_dir(tree, build) / wheel.name


def dying_python(tree: Tree, deaths: int) -> None:
    """Inject the fault: an interpreter whose llama_cpp dies the first ``deaths`` times."""
    count = tree.root / "tries"
    tree.python.parent.mkdir(parents=True)
    tree.python.write_text(
        "#!/bin/sh\n"
        'case "$1" in -m) exit 0;; esac\n'  # pip
        f'echo x >> "{count}"\n'
        f'if [ "$(wc -l < "{count}")" -le {deaths} ]; then kill -ILL $$; fi\n',
        encoding="utf-8",
    )
    tree.python.chmod(0o755)


def tries(tree: Tree) -> int:
    return len((tree.root / "tries").read_text(encoding="utf-8").splitlines())


def test_the_key_names_version_python_and_flags(tree: Tree) -> None:
    name = llama.wheel_dir(tree, FAST).name

    assert name.startswith(f"0.3.36-cp{sys.version_info.major}{sys.version_info.minor}-")
    assert llama.wheel_dir(tree, FAST) != llama.wheel_dir(tree, PLAIN)
    assert llama.wheel_dir(tree, FAST).parent == tree.cache / "wheels"


def test_a_whole_wheel_is_used_again_and_never_for_other_flags(tree: Tree) -> None:
    wheel = seed(tree, FAST)

    assert llama.build_wheel(tree, FAST) == wheel
    assert llama.cached_wheel(tree, PLAIN) is None


def test_a_wheel_that_changed_or_has_no_checksum_does_not_count(tree: Tree) -> None:
    wheel = seed(tree, FAST)
    wheel.write_bytes(wheel.read_bytes()[:-1])
    assert llama.cached_wheel(tree, FAST) is None

    wheel = seed(tree, FAST)
    wheel.with_name(wheel.name + ".sha256").unlink()
    assert llama.cached_wheel(tree, FAST) is None


def test_a_missing_compiler_is_said_before_the_build_with_what_to_install() -> None:
    with pytest.raises(llama.NoCompiler) as problem:
        llama.check_compiler(which=lambda name: None)

    assert "no cc and no c++ and no make" in str(problem.value)
    assert "sudo apt-get install build-essential" in str(problem.value)


def test_no_complaint_where_a_compiler_is() -> None:
    llama.check_compiler(which=lambda name: f"/usr/bin/{name}")


def test_a_build_that_dies_is_stepped_down_from_and_never_tried_again(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    seed(tree, FAST)
    seed(tree, PLAIN)
    dying_python(tree, deaths=1)

    llama.install(tree, [FAST, PLAIN], None)
    said = capsys.readouterr().err
    assert "the AVX-512 build dies here with 'Illegal instruction'" in said
    assert "falling back to AVX2" in said
    assert tries(tree) == 2

    llama.install(tree, [FAST, PLAIN], None)
    assert "Illegal" not in capsys.readouterr().err
    assert tries(tree) == 2


def test_when_every_build_dies_the_message_says_what_was_tried(tree: Tree) -> None:
    seed(tree, FAST)
    seed(tree, PLAIN)
    dying_python(tree, deaths=9)

    with pytest.raises(llama.IllegalInstruction, match=r"every build tried \(AVX-512, AVX2\)"):
        llama.install(tree, [FAST, PLAIN], None)


def test_an_import_proves_less_than_a_generated_token(tree: Tree) -> None:
    seed(tree, FAST)
    dying_python(tree, deaths=0)

    llama.install(tree, [FAST], None)
    llama.install(tree, [FAST], tree.root / "model.gguf")
    llama.install(tree, [FAST], tree.root / "model.gguf")

    assert tries(tree) == 2
