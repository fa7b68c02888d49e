"""All tenants at one moment, looked up by key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from prism.policy.compiled import CompiledPolicy
from prism.tenants.keys import Pepper, key_id, same
from prism.tenants.model import KeyEntry, TenantFile, TenantLimits, timestamp


@dataclass(frozen=True, slots=True)
class Key:
    """A key's record. ``expires`` in seconds since 1970; ``None``: until it is rotated out."""

    id: str
    hash: str = field(repr=False)
    expires: float | None = None

    @classmethod
    def of(cls, entry: KeyEntry) -> Key:
        """Return the record of what stands in a file."""
        return cls(entry.id, entry.hash, timestamp(entry.expires) if entry.expires else None)

    def live(self, now: float) -> bool:
        """Whether the key works at ``now``."""
        return self.expires is None or now < self.expires


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant in effect. ``canary`` gets the given share of the requests."""

    id: str
    policy: CompiledPolicy
    limits: TenantLimits = field(default_factory=TenantLimits)
    canary: CompiledPolicy | None = None
    share: float = 0.0
    disabled: bool = False
    keys: tuple[Key, ...] = ()

    @classmethod
    def of(cls, file: TenantFile, policy: CompiledPolicy, canary: CompiledPolicy | None) -> Tenant:
        """Return what ``file`` says, with its policies in effect."""
        return cls(
            file.tenant,
            policy,
            file.limits,
            canary,
            file.canary.share if file.canary is not None else 0.0,
            file.disabled,
            tuple(map(Key.of, file.keys)),
        )

    @property
    def policies(self) -> tuple[CompiledPolicy, ...]:
        """Every policy that a request of the tenant's may get."""
        return (self.policy,) if self.canary is None else (self.policy, self.canary)


class KeyState(Enum):
    """What became of a look-up."""

    LIVE = "live"
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a look-up. ``tenant`` is set for every key whose secret is right."""

    state: KeyState
    tenant: Tenant | None = None


_UNKNOWN = Found(KeyState.UNKNOWN)


class Directory:
    """Immutable: a change of the files makes a new one."""

    def __init__(self, tenants: Iterable[Tenant], pepper: Pepper) -> None:
        self.pepper = pepper
        self.tenants: Mapping[str, Tenant] = MappingProxyType({t.id: t for t in tenants})
        self._keys = {
            key.id: (tenant, key) for tenant in self.tenants.values() for key in tenant.keys
        }
        # What an unknown key is compared with, so that it takes as long as a known one.
        self._nobody = Key("", pepper.hash(""))

    def find(self, text: str, now: float) -> Found:
        """Return whose key ``text`` is at ``now``, in seconds since 1970."""
        found = key_id(text)
        tenant, key = self._keys.get(found or "", (None, self._nobody))
        right = same(self.pepper.hash(text if found is not None else "-"), key.hash)
        if tenant is None or not right:
            return _UNKNOWN
        if tenant.disabled:
            return Found(KeyState.DISABLED, tenant)
        return Found(KeyState.LIVE if key.live(now) else KeyState.EXPIRED, tenant)

    @property
    def policies(self) -> Mapping[str, CompiledPolicy]:
        """Every policy that some tenant's request may get, by digest."""
        return MappingProxyType(
            {p.digest: p for tenant in self.tenants.values() for p in tenant.policies}
        )
