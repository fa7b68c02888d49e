"""The stamp: which policy a request is under, written by the front end and read by the worker.

The text layer knows the tenant, the token layer runs in another process and sees only sampling
parameters. In between lies a field that clients can write to, so the stamp is signed. Anything but
a stamp that verifies (none, forged, signed with another key) means the strictest policy; so a
lost key costs comfort, never safety.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass

KEY_ENV = "PRISM_STAMP_KEY"
"""Shared secret. Made on first use and exported, so that processes started later inherit it.
Set it by hand only where processes don't inherit from one another (several nodes)."""

FIELD = "prism_stamp"
"""Name under which engines carry the signed stamp."""

_VERSION = "prism1"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class Stamp:
    """The digest of the compiled policy in force, and whose request it is."""

    digest: str
    tenant: str = "default"

    def __post_init__(self) -> None:
        if not _DIGEST.fullmatch(self.digest):
            raise ValueError(f"not a policy digest (64 hex digits): {self.digest!r}")
        if not _TENANT.fullmatch(self.tenant):
            raise ValueError(
                f"not a tenant name: {self.tenant!r}; use letters, digits, '_', '.', '-'"
            )


current: ContextVar[Stamp | None] = ContextVar("prism_stamp", default=None)
"""The stamp of the request being served here, set by the middleware around the engine call."""


language: ContextVar[str | None] = ContextVar("prism_language", default=None)
"""The locale that this request is refused in, for engines in the same process."""


def ensure_key() -> bytes:
    """Return the signing key, making and exporting one if there is none."""
    text = os.environ.get(KEY_ENV)
    if not text:
        text = os.environ[KEY_ENV] = secrets.token_hex(32)
    return text.encode()


def sign(stamp: Stamp) -> str:
    """Return ``stamp`` as a string that :func:`verify` takes back."""
    body = f"{_VERSION}:{stamp.digest}:{stamp.tenant}"
    return f"{body}:{_mac(body)}"


def verify(value: object) -> Stamp | None:
    """Return the stamp that was signed, or ``None`` for anything else; never raises."""
    if not isinstance(value, str):
        return None
    body, _, mac = value.rpartition(":")
    if not hmac.compare_digest(mac.encode("utf-8", "replace"), _mac(body).encode()):
        return None
    version, digest, tenant = (*body.split(":"), "", "", "")[:3]
    if version != _VERSION:
        return None
    try:
        return Stamp(digest, tenant)
    except ValueError:
        return None


def _mac(body: str) -> str:
    return hmac.new(ensure_key(), body.encode("utf-8", "replace"), "sha256").hexdigest()
