"""Read a policy file and everything it extends, with the position of every value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prism.documents import Document, Node, Problem, ProblemsError, read, validate
from prism.policy.errors import PolicyError
from prism.policy.lists import with_lists
from prism.policy.model import PolicyFile
from prism.policy.store import display, locate

MAX_LAYERS = 16


@dataclass(frozen=True, slots=True)
class Layer:
    """One file of a chain of inheritance."""

    path: Path
    document: Document
    file: PolicyFile


def read_layers(ref: str | Path) -> tuple[Layer, ...]:
    """Return the policy at ``ref`` and what it extends, the outermost ancestor first.

    Raises ``PolicyError`` with everything that is wrong in any of the files.
    """
    layers: list[Layer] = []
    problems: list[Problem] = []
    path = locate(ref)
    chain = [path.resolve()]
    document: Document | None = _read(path, problems)
    while document is not None:
        layer = _check(path, document, problems)
        if layer is not None:
            layers.append(layer)
        path, document = _parent(path, document, chain, problems)
    if problems:
        raise PolicyError(problems)
    return tuple(reversed(layers))


def _read(path: Path, problems: list[Problem]) -> Document | None:
    try:
        return read(path, name=display(path))
    except ProblemsError as error:
        problems.extend(error.problems)
        return None


def _check(path: Path, document: Document, problems: list[Problem]) -> Layer | None:
    try:
        file = validate(document, PolicyFile)
        return Layer(path, document, with_lists(file, document, path.parent))
    except ProblemsError as error:
        problems.extend(error.problems)
        return None


def _parent(
    path: Path, document: Document, chain: list[Path], problems: list[Problem]
) -> tuple[Path, Document | None]:
    """Read what ``document`` extends; problems with the reference stand where it is written."""
    node: Node | None = document.root.value.get("extends")
    if node is None or not isinstance(node.value, str) or not node.value:
        return path, None

    def fail(message: str, fix: str) -> tuple[Path, None]:
        problems.append(document.problem(("extends",), message, fix))
        return path, None

    try:
        parent = locate(node.value, beside=path.parent)
    except PolicyError as error:
        first = error.problems[0]
        return fail(f"{node.value!r} {first.message}", first.fix)
    resolved = parent.resolve()
    if resolved in chain:
        names = [*chain[chain.index(resolved) :], resolved]
        loop = " -> ".join(display(p) for p in names)
        return fail(f"a policy can't inherit from itself ({loop})", "remove one `extends`")
    if len(chain) >= MAX_LAYERS:
        return fail(f"more than {MAX_LAYERS} policies extend each other", "shorten the chain")
    if not parent.exists():
        return fail(f"no such file: {display(parent)}", "check the path, relative to this file")
    chain.append(resolved)
    return parent, _read(parent, problems)
