"""Where policies are: the ones shipped with the package, by name, and files, by path."""

from __future__ import annotations

from pathlib import Path

from prism.documents import Problem, did_you_mean, shipped_dir
from prism.policy.errors import PolicyError

SUFFIXES = (".yaml", ".yml")
_NOT_POLICIES = frozenset({"taxonomy", "marginal_risk"})


def shipped_names() -> tuple[str, ...]:
    """Return the names of the shipped policies."""
    names = (path.name.removesuffix(".yaml") for path in shipped_dir().glob("*.yaml"))
    return tuple(sorted(n for n in names if n not in _NOT_POLICIES and not n.endswith(".tests")))


def locate(ref: str | Path, *, beside: Path | None = None) -> Path:
    """Return the file that ``ref`` means: a path (relative to ``beside``) or a shipped name.

    Raises ``PolicyError`` for a name that isn't shipped; whether a path exists is not looked at.
    """
    if isinstance(ref, Path):
        return ref
    if ref.endswith(SUFFIXES) or "/" in ref:
        path = Path(ref)
        return path if beside is None or path.is_absolute() else beside / path
    names = shipped_names()
    if ref in names:
        return shipped_dir() / f"{ref}.yaml"
    fix = did_you_mean(ref, names, f"use {', '.join(names)}, or a path that ends in .yaml")
    raise PolicyError([Problem(ref, 0, 0, "", "is not the name of a shipped policy", fix)])


def display(path: Path) -> str:
    """Return what messages call the file at ``path``: relative to where the user stands."""
    resolved = path.resolve()
    for base, prefix in ((Path.cwd(), ""), (shipped_dir(), "policies/")):
        if resolved.is_relative_to(base.resolve()):
            return prefix + str(resolved.relative_to(base.resolve()))
    return str(path)
