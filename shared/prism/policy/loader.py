"""Read a policy file and everything it extends, with the position of every value."""

from __future__ import annotations

from collections.abc import Callable
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


def read_layers(
    ref: str | Path, *, before: Callable[[Path], None] = lambda _: None
) -> tuple[Layer, ...]:
    """Return the policy at ``ref`` and what it extends, the outermost ancestor first.

    ``before`` is told of every file, lists of phrases included, just before it is read, be it there
    or not. Raises ``PolicyError`` with everything that is wrong in any of the files.
    """
    layers: list[Layer] = []
    problems: list[Problem] = []
    path = locate(ref)
    chain = [path.resolve()]
    before(path)
    document: Document | None = _read(path, problems)
    while document is not None:
        layer = _check(path, document, problems, before)
        if layer is not None:
            layers.append(layer)
        parent = _parent(path, document, chain, problems, before)
        if parent is None:
            break
        path, document = parent, _read(parent, problems)
    if problems:
        raise PolicyError(problems)
    return tuple(reversed(layers))


def _read(path: Path, problems: list[Problem]) -> Document | None:
    try:
        return read(path, name=display(path))
    except ProblemsError as error:
        problems.extend(error.problems)
        return None


def _check(
    path: Path, document: Document, problems: list[Problem], before: Callable[[Path], None]
) -> Layer | None:
    try:
        file = validate(document, PolicyFile)
        return Layer(path, document, with_lists(file, document, path.parent, before))
    except ProblemsError as error:
        problems.extend(error.problems)
        return None


def _parent(
    path: Path,
    document: Document,
    chain: list[Path],
    problems: list[Problem],
    before: Callable[[Path], None],
) -> Path | None:
    """Return what ``document`` extends; problems with the reference stand where it is written."""
    node: Node | None = document.root.value.get("extends")
    if node is None or not isinstance(node.value, str) or not node.value:
        return None

    def problem(message: str, fix: str) -> None:
        problems.append(document.problem(("extends",), message, fix))

    try:
        parent = locate(node.value, beside=path.parent)
    except PolicyError as error:
        first = error.problems[0]
        problem(f"{node.value!r} {first.message}", first.fix)
        return None
    resolved = parent.resolve()
    before(parent)
    if resolved in chain:
        names = [*chain[chain.index(resolved) :], resolved]
        loop = " -> ".join(display(p) for p in names)
        problem(f"a policy can't inherit from itself ({loop})", "remove one `extends`")
    elif len(chain) >= MAX_LAYERS:
        problem(f"more than {MAX_LAYERS} policies extend each other", "shorten the chain")
    elif not parent.exists():
        problem(f"no such file: {display(parent)}", "check the path, relative to this file")
    else:
        chain.append(resolved)
        return parent
    return None
