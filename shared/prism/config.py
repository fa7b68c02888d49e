"""What a server starts with: the file that ``PRISM_CONFIG`` names, or a policy, or the default.

Everything is read and compiled here, once, before anything listens: a configuration that is wrong
in any part raises, with every problem and its place.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from pathlib import Path
from types import MappingProxyType

from pydantic import Field

from prism.documents import Document, Model, Problem, ProblemsError, read, validate
from prism.policy.compiled import CompiledPolicy
from prism.policy.compiler import load_policy
from prism.policy.compose import stricter
from prism.policy.store import display, locate

DEFAULT_POLICY = "default"


class ConfigError(ProblemsError):
    """The configuration file or the environment is wrong; see ``problems``."""


class Limits(Model):
    """How much one request may ask for. More is refused with 413 or 400, not cut."""

    max_body_bytes: int = Field(default=2_000_000, ge=1024, examples=["max_body_bytes: 2000000"])
    max_prompt_chars: int = Field(default=1_000_000, ge=1, examples=["max_prompt_chars: 1000000"])
    max_choices: int = Field(default=16, ge=1, le=1024, examples=["max_choices: 16"])


class ConfigFile(Model):
    """``prism.yaml``. Paths are relative to the file."""

    policy: str | None = Field(None, min_length=1, examples=["policy: policy.yaml"])
    floor: str | None = Field(None, min_length=1, examples=["floor: strict"])
    limits: Limits = Field(default=Limits(), examples=["limits: {max_choices: 4}"])


@dataclass(frozen=True)
class Settings:
    """A configuration in effect. ``others``: policies beside ``policy`` that a request may get."""

    policy: CompiledPolicy
    limits: Limits = field(default_factory=Limits)
    others: tuple[CompiledPolicy, ...] = ()

    @cached_property
    def policies(self) -> Mapping[str, CompiledPolicy]:
        """Every policy that a request may get, by digest."""
        return MappingProxyType({p.digest: p for p in (self.policy, *self.others)})

    @cached_property
    def strictest(self) -> CompiledPolicy:
        """What applies where it isn't known which policy should: all of them at once."""
        ordered = [self.policies[digest] for digest in sorted(self.policies)]
        if len(ordered) == 1:
            return ordered[0]
        return replace(reduce(stricter, ordered), id="strictest")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read ``PRISM_CONFIG`` and ``PRISM_POLICY``; neither means the shipped default policy.

        With both, ``PRISM_POLICY`` replaces the file's ``policy``; the file's floor still holds.
        Raises ``ConfigError``.
        """
        config, policy = environ.get("PRISM_CONFIG"), environ.get("PRISM_POLICY")
        if config:
            return cls.load(config, policy=policy)
        return cls.for_policy(policy or DEFAULT_POLICY)

    @classmethod
    def for_policy(cls, ref: str | Path) -> Settings:
        """Return the settings of a server with that one policy. Raises ``ConfigError``."""
        try:
            return cls(load_policy(ref))
        except ProblemsError as error:
            raise ConfigError(error.problems) from None

    @classmethod
    def load(cls, path: str | Path, *, policy: str | Path | None = None) -> Settings:
        """Read the configuration file at ``path``. Raises ``ConfigError``.

        ``policy`` replaces the file's own and is relative to the working directory.
        """
        try:
            document = read(Path(path), name=display(Path(path)))
        except ProblemsError as error:
            raise ConfigError(error.problems) from None
        problems: list[Problem] = []
        file = _check(document, problems)
        here = Path(path).parent
        ref = policy or _reference(document, "policy", here, problems) or DEFAULT_POLICY
        floor = _reference(document, "floor", here, problems)
        compiled: CompiledPolicy | None = None
        try:
            compiled = load_policy(ref, floor=floor)
        except ProblemsError as error:
            problems.extend(error.problems)
        if problems or file is None or compiled is None:
            raise ConfigError(problems)
        return cls(compiled, file.limits)


def _check(document: Document, problems: list[Problem]) -> ConfigFile | None:
    try:
        return validate(document, ConfigFile)
    except ProblemsError as error:
        problems.extend(
            replace(p, message="tenants are not part of this version", fix="remove the key")
            if p.key == "tenants"
            else p
            for p in error.problems
        )
        return None


def _reference(document: Document, key: str, here: Path, problems: list[Problem]) -> Path | None:
    """Return the policy that ``key`` names; a problem with the name stands where it is written."""
    node = document.root.value.get(key)
    if node is None or not isinstance(node.value, str) or not node.value:
        return None
    try:
        path = locate(node.value, beside=here)
    except ProblemsError as error:
        first = error.problems[0]
        problems.append(document.problem((key,), f"{node.value!r} {first.message}", first.fix))
        return None
    if path.exists():
        return path
    message = f"no such file: {display(path)}"
    problems.append(document.problem((key,), message, "check the path, relative to this file"))
    return None
