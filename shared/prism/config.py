"""What a server starts with: the file that ``PRISM_CONFIG`` names, or a policy, or the default.

Everything is read and compiled here, once, before anything listens: a configuration that is wrong
in any part raises, with every problem and its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeVar

from pydantic import Field

from prism.classify.guard.config import GuardFile, GuardSettings, check_guard
from prism.classify.models import ModelLimits, Models, no_guard
from prism.documents import Document, Model, Problem, ProblemsError, read, validate
from prism.policy.compiled import CompiledPolicy
from prism.policy.compiler import load_policy
from prism.policy.compose import stricter
from prism.policy.store import display, locate
from prism.record.audit import AuditSettings
from prism.record.chain import MIN_KEY
from prism.tenants.directory import Directory
from prism.tenants.model import TenantLimits
from prism.tenants.shelf import Shelf
from prism.tenants.store import TenantStore

DEFAULT_POLICY = "default"
REFUSE = "refuse"
"""What ``anonymous`` says where nobody gets in without a key."""

AUDIT_KEY_ENV = "PRISM_AUDIT_KEY"
"""The audit log's key, instead of a file's."""

ADMIN_KEY_ENV = "PRISM_ADMIN_KEY"
"""The operator's key for routes that change or show the engine, unless the file names another."""
MIN_ADMIN_KEY = 16

T = TypeVar("T")


class ConfigError(ProblemsError):
    """The configuration file or the environment is wrong; see ``problems``."""


class Limits(Model):
    """How much one request may ask for. More is refused with 413 or 400, not cut."""

    max_body_bytes: int = Field(default=2_000_000, ge=1024, examples=["max_body_bytes: 2000000"])
    max_upload_bytes: int = Field(
        default=25_000_000, ge=1024, examples=["max_upload_bytes: 25000000"]
    )
    max_prompt_chars: int = Field(default=1_000_000, ge=1, examples=["max_prompt_chars: 1000000"])
    max_choices: int = Field(default=16, ge=1, le=1024, examples=["max_choices: 16"])


class AuditFile(Model):
    """The audit log: see :mod:`prism.record.audit`."""

    path: str = Field(min_length=1, examples=["path: audit.jsonl"])
    key_file: str | None = Field(default=None, min_length=1, examples=["key_file: audit.key"])
    max_bytes: int = Field(default=100_000_000, ge=65_536, examples=["max_bytes: 100000000"])
    queue: int = Field(default=1024, ge=1, examples=["queue: 1024"])
    fsync: bool = Field(default=False, examples=["fsync: true"])
    on_failure: Literal["close", "open"] = Field(default="close", examples=["on_failure: close"])


class ConfigFile(Model):
    """``prism.yaml``. Paths are relative to the file."""

    policy: str | None = Field(None, min_length=1, examples=["policy: policy.yaml"])
    floor: str | None = Field(None, min_length=1, examples=["floor: strict"])
    limits: Limits = Field(default=Limits(), examples=["limits: {max_choices: 4}"])
    tenants: str | None = Field(default=None, min_length=1, examples=["tenants: tenants/"])
    anonymous: str | None = Field(default=None, min_length=1, examples=["anonymous: refuse"])
    anonymous_limits: TenantLimits | None = Field(
        default=None, examples=["anonymous_limits: {requests_per_minute: 60}"]
    )
    audit: AuditFile | None = Field(default=None, examples=["audit: {path: audit.jsonl}"])
    models: ModelLimits = Field(default=ModelLimits(), examples=["models: {workers: 4}"])
    guard: GuardFile | None = Field(
        default=None, examples=["guard: {format: llama-guard-3, llamacpp: guard.gguf}"]
    )
    admin_key_env: str | None = Field(
        default=None, pattern="[A-Za-z_][A-Za-z0-9_]*", examples=["admin_key_env: MY_ADMIN_KEY"]
    )
    private_metrics: bool = Field(default=False, examples=["private_metrics: true"])


@dataclass(frozen=True)
class TenantSettings:
    """Who may use the server. ``directory`` is the folder as it was when the server started.

    ``anonymous`` is the policy of requests without a known key; ``None``: they are refused.
    """

    store: TenantStore
    directory: Directory
    anonymous: CompiledPolicy | None = None
    anonymous_limits: TenantLimits = field(default_factory=TenantLimits)

    @property
    def policies(self) -> tuple[CompiledPolicy, ...]:
        """Every policy that a request may get here."""
        open_to_all = () if self.anonymous is None else (self.anonymous,)
        return (*self.directory.policies.values(), *open_to_all)


@dataclass(frozen=True)
class Settings:
    """A configuration in effect. ``others``: policies beside ``policy`` that a request may get.

    ``tenants`` is ``None`` on a server that makes no difference between its clients.
    """

    policy: CompiledPolicy
    limits: Limits = field(default_factory=Limits)
    others: tuple[CompiledPolicy, ...] = ()
    tenants: TenantSettings | None = None
    audit: AuditSettings | None = None
    guard: GuardSettings | None = None
    model_limits: ModelLimits = field(default_factory=ModelLimits)
    admin_key: str | None = field(default=None, repr=False)
    private_metrics: bool = False

    @cached_property
    def policies(self) -> Mapping[str, CompiledPolicy]:
        """Every policy that a request may get, by digest; the tenants' too."""
        of_tenants = self.tenants.policies if self.tenants is not None else ()
        every = (self.policy, *self.others, *of_tenants)
        return MappingProxyType({p.digest: p for p in every})

    @cached_property
    def strictest(self) -> CompiledPolicy:
        """What applies where it isn't known which policy should: all of them at once."""
        ordered = [self.policies[digest] for digest in sorted(self.policies)]
        if len(ordered) == 1:
            return ordered[0]
        return replace(reduce(stricter, ordered), id="strictest")

    @cached_property
    def models(self) -> Models:
        """The score models that every policy of this server shares; loaded when first needed."""
        if self.guard is None:
            return Models(limits=self.model_limits)
        deadline = self.guard.file.deadline_ms / 1000
        return Models(open_guard=self.guard.open, guard_deadline=deadline, limits=self.model_limits)

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
            loaded = load_policy(ref)
            if loaded.tiers["guard"] == "on":
                raise ConfigError([no_guard(loaded)])
            return cls(loaded, admin_key=admin_key(os.environ, ADMIN_KEY_ENV))
        except ProblemsError as error:
            raise ConfigError(error.problems) from None

    @classmethod
    def load(cls, path: str | Path, *, policy: str | Path | None = None) -> Settings:
        """Read the configuration file at ``path``. Raises ``ConfigError``.

        ``policy`` replaces the file's own and is relative to the working directory.
        """
        return _Reading(Path(path), policy).settings()

    @classmethod
    def tenant_store(cls, path: str | Path) -> TenantStore:
        """Return the folder of tenants that the configuration file at ``path`` names, unread.

        The folder need not be there yet. Raises ``ConfigError``.
        """
        return _Reading(Path(path), None).store()


def admin_key(environ: Mapping[str, str], name: str) -> str | None:
    """Return the operator's key; ``None`` without one. Raises ``ConfigError`` for a guessable one.

    Bytes of a header are Latin-1, so the key is plain ASCII.
    """
    key = environ.get(name, "").strip()
    if not key:
        return None
    if len(key) < MIN_ADMIN_KEY or not key.isascii():
        message = f"has to be {MIN_ADMIN_KEY} ASCII characters at least"
        fix = "make one with `openssl rand -hex 32`"
        raise ConfigError([Problem("environment", 0, 0, name, message, fix)])
    return key


class _Reading:
    """A configuration file while it is read: what it says, and all that is wrong with it."""

    def __init__(self, path: Path, policy: str | Path | None) -> None:
        try:
            self._document = read(path, name=display(path))
        except ProblemsError as error:
            raise ConfigError(error.problems) from None
        self._problems: list[Problem] = []
        self._here = path.parent
        self._file = _check(self._document, self._problems)
        ref = policy or self._reference("policy") or DEFAULT_POLICY
        self._shelf = Shelf(ref, self._reference("floor"))

    def settings(self) -> Settings:
        """Return everything compiled. Raises ``ConfigError``."""
        policy = self._try(self._shelf.default)
        self._try(lambda: self._shelf.floor)
        tenants = self._tenants()
        audit = self._audit()
        admin_key = self._admin_key()
        self._refuse_without_tenants()
        guard = self._guard(policy, tenants)
        if self._problems or self._file is None or policy is None:
            raise ConfigError(self._problems)
        return Settings(
            policy,
            self._file.limits,
            tenants=tenants,
            audit=audit,
            admin_key=admin_key,
            private_metrics=self._file.private_metrics,
            guard=guard,
            model_limits=self._file.models,
        )

    def store(self) -> TenantStore:
        """Return the folder of tenants. Raises ``ConfigError``."""
        if "tenants" not in self._document.root.value:
            message = "has no folder of tenants"
            fix = "add it, for example `tenants: tenants/`"
            file = self._document.file
            self._problems.append(Problem(file, 0, 0, "tenants", message, fix))
        if self._problems or self._file is None or self._file.tenants is None:
            raise ConfigError(self._problems)
        return TenantStore(self._here / self._file.tenants, self._shelf)

    def _tenants(self) -> TenantSettings | None:
        if self._file is None or self._file.tenants is None:
            return None
        store = TenantStore(self._here / self._file.tenants, self._shelf)
        if not store.folder.is_dir():
            message = f"no such folder: {display(store.folder)}"
            fix = "make it with `prism tenant add`, or check the path, relative to this file"
            self._problems.append(self._document.problem(("tenants",), message, fix))
            return None
        directory = self._try(store.load)
        anonymous: CompiledPolicy | None = None
        if self._file.anonymous not in (None, REFUSE):
            ref = self._reference("anonymous")
            anonymous = self._try(lambda: self._shelf.plain(ref)) if ref is not None else None
        elif self._file.anonymous_limits is not None:
            message = "has no effect: requests without a key are refused"
            fix = "remove it, or name a policy, as in `anonymous: strict`"
            problem = self._document.problem(("anonymous_limits",), message, fix, of_key=True)
            self._problems.append(problem)
        if directory is None:
            return None
        limits = self._file.anonymous_limits or TenantLimits()
        return TenantSettings(store, directory, anonymous, limits)

    def _audit(self) -> AuditSettings | None:
        if self._file is None or self._file.audit is None:
            return None
        asked = self._file.audit
        path = self._here / asked.path
        if not path.parent.is_dir():
            message = f"no such folder: {display(path.parent)}"
            fix = "make it, or check the path, relative to this file"
            self._problems.append(self._document.problem(("audit", "path"), message, fix))
        key = self._audit_key(asked)
        if key is None:
            return None
        return AuditSettings(
            path, key, asked.max_bytes, asked.queue, asked.fsync, asked.on_failure == "close"
        )

    def _audit_key(self, asked: AuditFile) -> bytes | None:
        """Return the key of the environment, or else of the file that is named."""
        place: tuple[str, ...] = ("audit",)
        if (text := os.environ.get(AUDIT_KEY_ENV)) is not None:
            told = AUDIT_KEY_ENV
        elif asked.key_file is not None:
            place, told = ("audit", "key_file"), display(self._here / asked.key_file)
            try:
                text = (self._here / asked.key_file).read_text(encoding="ascii")
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not plain text"
                fix = "make one with `openssl rand -hex 32`, readable to the server alone"
                message = f"can't read {told}: {reason}"
                self._problems.append(self._document.problem(place, message, fix))
                return None
        else:
            message = "needs a key: lines are sealed with it, and texts told apart by it"
            fix = f"set {AUDIT_KEY_ENV}, or add `key_file: audit.key` (`openssl rand -hex 32`)"
            self._problems.append(self._document.problem(place, message, fix))
            return None
        if len(text.strip()) < MIN_KEY:
            message = f"the key in {told} is shorter than {MIN_KEY} characters"
            fix = "make one with `openssl rand -hex 32`"
            self._problems.append(self._document.problem(place, message, fix))
            return None
        return text.strip().encode()

    def _admin_key(self) -> str | None:
        if self._file is None:
            return None
        named = self._file.admin_key_env
        try:
            key = admin_key(os.environ, named or ADMIN_KEY_ENV)
        except ConfigError as error:
            self._problems.extend(error.problems)
            return None
        if named is not None and key is None:
            message, fix = f"the environment has no {named}", "set it, or remove this line"
            self._problems.append(self._document.problem(("admin_key_env",), message, fix))
        return key

    def _guard(
        self, policy: CompiledPolicy | None, tenants: TenantSettings | None
    ) -> GuardSettings | None:
        if self._file is None:
            return None
        policies = [p for p in (policy, *(tenants.policies if tenants else ())) if p]
        if self._file.guard is None:
            self._problems.extend(no_guard(p) for p in policies if p.tiers["guard"] == "on")
            return None
        guard, problems = check_guard(self._document, self._file.guard, self._here, os.environ)
        self._problems.extend(problems)
        if guard is not None and not guard.takes_rules:
            rules = sorted({(p.id, r.id) for p in policies for r in p.rules if r.plain_language})
            for of, rule in rules:
                message = f"{guard.format.name} can't judge rule {rule!r} of policy {of!r}"
                fix = "use a format that takes plain-language rules: see docs/guards.md"
                self._problems.append(self._document.problem(("guard", "format"), message, fix))
        return guard

    def _refuse_without_tenants(self) -> None:
        given = self._document.root.value
        for key in ("anonymous", "anonymous_limits"):
            if key in given and "tenants" not in given:
                message, fix = "has no effect without tenants", "add `tenants: …`, or remove it"
                problem = self._document.problem((key,), message, fix, of_key=True)
                self._problems.append(problem)

    def _try(self, load: Callable[[], T]) -> T | None:
        try:
            return load()
        except ProblemsError as error:
            self._problems.extend(error.problems)
            return None

    def _reference(self, key: str) -> Path | None:
        return _reference(self._document, key, self._here, self._problems)


def _check(document: Document, problems: list[Problem]) -> ConfigFile | None:
    try:
        return validate(document, ConfigFile)
    except ProblemsError as error:
        problems.extend(error.problems)
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
