"""The folder of tenants: one file each, read whole, changed one at a time.

Each tenant's file is ``<id>.yaml``. A change is written beside the file, flushed and renamed over
it, so readers see the old file or the new one; the folder's lock keeps writers apart. Every change
renames, so the folder's own time tells a running server that there is something to read.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prism.documents import Document, Problem, ProblemsError, parse, read, validate
from prism.policy.compiled import CompiledPolicy
from prism.policy.store import display, locate
from prism.tenants.directory import Directory, Tenant
from prism.tenants.errors import TenantError
from prism.tenants.keys import HASH, PEPPER_ENV, PEPPER_FILE, Pepper
from prism.tenants.model import TenantFile
from prism.tenants.shelf import Shelf
from prism.tenants.watch import State, is_settled, state_of

SUFFIX = ".yaml"
_LOCK = ".lock"
Stamp = tuple[State, ...]
Accept = Callable[[CompiledPolicy], None]
"""Raises ``ProblemsError`` for a policy that the server can't serve."""


@dataclass(frozen=True, slots=True)
class Record:
    """A tenant's file as it was read."""

    path: Path
    document: Document
    file: TenantFile

    @property
    def policy_ref(self) -> Path | None:
        """The policy it starts from; ``None``: the server's own. Raises ``TenantError``."""
        return None if self.file.policy is None else self._locate(self.file.policy, "policy")

    @property
    def canary_ref(self) -> Path | None:
        """The policy it tries out. Raises ``TenantError``."""
        if self.file.canary is None:
            return None
        return self._locate(self.file.canary.policy, "canary", "policy")

    def _locate(self, name: str, *where: str) -> Path:
        try:
            path = locate(name, beside=self.path.parent)
        except ProblemsError as error:
            first = error.problems[0]
            problem = self.document.problem(where, f"{name!r} {first.message}", first.fix)
            raise TenantError([problem]) from None
        if path.exists():
            return path
        message = f"no such file: {display(path)}"
        fix = "check the path, relative to this file"
        raise TenantError([self.document.problem(where, message, fix)])


@dataclass(slots=True)
class _Known:
    """What is known of a file: the state it was read in, and the tenant that came of it.

    ``policies``: what it names, each with its version at that time.
    """

    state: State
    tenant: Tenant | None
    problems: tuple[Problem, ...]
    policies: Mapping[Path, int] = field(default_factory=dict)


class TenantStore:
    """Reads and changes the folder of tenants. Not for several threads at once."""

    def __init__(
        self, folder: Path, shelf: Shelf, *, environ: Mapping[str, str] = os.environ
    ) -> None:
        self.folder = folder
        self.shelf = shelf
        self._environ = environ
        self._known: dict[str, _Known] = {}
        self._pepper: Pepper | None = None
        self._served: frozenset[str] = frozenset()

    # Reading

    def names(self) -> list[str]:
        """Return the ids that have a file, sorted."""
        return sorted(path.stem for path in self.folder.glob(f"[!.]*{SUFFIX}"))

    def path(self, name: str) -> Path:
        """Return where the tenant's file is, or would be."""
        return self.folder / f"{name}{SUFFIX}"

    def read(self, name: str) -> Record:
        """Read one tenant's file. Raises ``ProblemsError``."""
        path = self.path(name)
        document = read(path, name=display(path))
        _check_mode(path, document.file)
        return self._record(path, document)

    def tenant(self, record: Record) -> Tenant:
        """Return the tenant in effect. Raises ``ProblemsError`` with everything that is wrong."""
        problems: list[Problem] = list(self._wrong_keys(record))
        made: list[CompiledPolicy | None] = []
        for is_canary in (False, True):
            try:
                ref = record.canary_ref if is_canary else record.policy_ref
                made.append(
                    None
                    if is_canary and ref is None
                    else self.shelf.effective(ref, record.file, record.document)
                )
            except ProblemsError as error:
                problems.extend(error.problems)
        if problems or made[0] is None:
            raise TenantError(problems)
        return Tenant.of(record.file, made[0], made[1])

    def load(self) -> Directory:
        """Read the whole folder. Raises ``TenantError`` with everything that is wrong in it."""
        self._known.clear()
        directory, problems = self._scan(keep=False, accept=None)
        if problems:
            raise TenantError(problems)
        return directory

    def reload(self, accept: Accept | None = None) -> tuple[Directory, tuple[Problem, ...]]:
        """Read what changed, in the folder and in the policies that tenants name.

        A file that is wrong now counts as it was when it was right, and so does one whose policy
        ``accept`` doesn't. So a mistake in one file neither locks its tenant out nor holds up
        changes in the others. Raises ``TenantError`` when the folder or the pepper can't be read
        at all.
        """
        wrong = self.shelf.refresh()
        directory, problems = self._scan(keep=True, accept=accept)
        self.shelf.keep(
            {ref for known in self._known.values() for ref in known.policies},
            directory.policies.values(),
        )
        return directory, (*wrong, *(p for p in problems if p not in wrong))

    def stamp(self) -> Stamp | None:
        """Return what changes when the folder or a policy that a tenant names does.

        ``None`` while that isn't certain yet.
        """
        folder, policies = state_of(self.folder), self.shelf.stamp()
        if not folder or not is_settled(folder) or policies is None:
            return None
        return (folder, *policies)

    def _record(self, path: Path, document: Document) -> Record:
        file = validate(document, TenantFile)
        if file.tenant != path.stem:
            message = f"{file.tenant!r} is not what the file is called"
            raise TenantError(
                [document.problem(("tenant",), message, f"write `tenant: {path.stem}`")]
            )
        return Record(path, document, file)

    def _scan(self, *, keep: bool, accept: Accept | None) -> tuple[Directory, tuple[Problem, ...]]:
        pepper = Pepper.load(self.folder, self._environ)
        if pepper != self._pepper:
            for known in self._known.values():
                known.state = ()  # every hash is to be looked at again
        self._pepper = pepper
        try:
            names = self.names() if self.folder.is_dir() else None
        except OSError:
            names = None
        if names is None:
            fix = "it is made with the first tenant, by `prism tenant add`"
            raise TenantError([_whole(self.folder, "no such folder", fix)])
        for name in names:
            self._refresh(name, keep=keep, accept=accept)
        gone = self._known.keys() - set(names)
        for name in gone:
            del self._known[name]
        problems = [p for name in names for p in self._known[name].problems]
        tenants, doubled = self._distinct(names)
        self._served = frozenset(tenant.id for tenant in tenants)
        return Directory(tenants, pepper or Pepper.random()), (*problems, *doubled)

    def _refresh(self, name: str, *, keep: bool, accept: Accept | None) -> None:
        path = self.path(name)
        state = state_of(path)
        known = self._known.get(name)
        if known is not None and state and known.state == state and not known.problems:
            now = {ref: self.shelf.version(ref) for ref in known.policies}
            if now == known.policies:
                return
        before = known if keep else None
        self._known[name] = self._judged(name, state, before, accept)

    def _judged(
        self, name: str, state: State, before: _Known | None, accept: Accept | None
    ) -> _Known:
        last = before.tenant if before is not None else None
        record: Record | None = None
        try:
            record = self.read(name)
            tenant = self.tenant(record)
            if accept is not None:
                for policy in tenant.policies:
                    accept(policy)
        except ProblemsError as error:
            if last is not None and record is not None:
                # Its policy is as it was; a key that was taken away, or all of them, is so at once.
                last = Tenant.of(record.file, last.policy, last.canary)
            old = before.policies if before is not None else {}
            return _Known(state, last, error.problems, {**old, **self._named(record)})
        return _Known(state, tenant, (), self._named(record))

    def _named(self, record: Record | None) -> dict[Path, int]:
        """Return the policies that ``record`` names, as far as they are there, with versions."""
        found: dict[Path, int] = {}
        for name in ("policy_ref", "canary_ref"):
            with contextlib.suppress(ProblemsError):
                if (ref := getattr(record, name, None)) is not None:
                    found[ref] = self.shelf.version(ref)
        return found

    def _distinct(self, names: list[str]) -> tuple[list[Tenant], list[Problem]]:
        """Return the tenants; one whose key is another's (a copied file) is not among them."""
        owners: dict[str, str] = {}
        tenants: list[Tenant] = []
        problems: list[Problem] = []
        # Who had a key before keeps it, whatever the copy is called.
        for name in sorted(names, key=lambda name: (name not in self._served, name)):
            tenant = self._known[name].tenant
            if tenant is None:
                continue
            others = [owners[key.id] for key in tenant.keys if key.id in owners]
            if others:
                message = f"holds a key of {others[0]!r}"
                fix = f"remove it, and give {name!r} its own with `prism tenant rotate {name}`"
                problems.append(_whole(self.path(name), message, fix, "keys"))
                continue
            owners.update((key.id, name) for key in tenant.keys)
            tenants.append(tenant)
        return tenants, problems

    def _wrong_keys(self, record: Record) -> Iterator[Problem]:
        pepper = self._pepper or Pepper.load(self.folder, self._environ)
        for index, key in enumerate(record.file.keys):
            made_with = HASH.match(key.hash)
            if pepper is None:
                message = "can't be checked: there is no pepper"
                fix = f"set {PEPPER_ENV} to the one that was in use, or rotate the key"
            elif made_with is None or made_with[1] != pepper.fingerprint:
                message = "was made with another pepper"
                fix = f"check {PEPPER_ENV} (or {PEPPER_FILE}), or rotate the key"
            else:
                continue
            yield record.document.problem(("keys", index, "hash"), message, fix)

    # Changing

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other writers out. Makes the folder if there is none."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def pepper(self) -> Pepper:
        """Return the pepper; the first time, make one and keep it. Call it under the lock."""
        pepper = Pepper.load(self.folder, self._environ)
        if pepper is None:
            pepper = Pepper.random()
            self._write(self.folder / PEPPER_FILE, pepper.secret.decode() + "\n")
        return pepper

    def write(self, name: str, text: str) -> Tenant:
        """Replace the tenant's file by ``text``. Raises ``ProblemsError``; then nothing changed."""
        record = self._parsed(name, text)
        tenant = self.tenant(record)
        self._write(record.path, text)
        return tenant

    def write_unchecked(self, name: str, text: str) -> None:
        """Do the same whatever state the tenant's policies are in: to switch it off."""
        self._write(self._parsed(name, text).path, text)

    def _parsed(self, name: str, text: str) -> Record:
        path = self.path(name)
        return self._record(path, parse(text, display(path)))

    def _write(self, path: Path, text: str) -> None:
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with open(beside, "x", encoding="utf-8", opener=_private) as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink()
            reason = error.strerror or str(error)
            problem = _whole(path, f"can't be written: {reason}", "check the folder")
            raise TenantError([problem]) from None
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)  # the new name must survive a crash, too
        finally:
            os.close(folder)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _check_mode(path: Path, shown: str) -> None:
    try:
        mode = path.stat().st_mode
    except OSError:
        mode = 0  # gone since it was read; the next look at the folder tells
    if mode & 0o022:
        message = "can be changed by other users of this machine"
        raise TenantError([Problem(shown, 0, 0, "", message, f"run `chmod 600 {shown}`")])


def _whole(path: Path, message: str, fix: str, key: str = "") -> Problem:
    return Problem(display(path), 0, 0, key, message, fix)
