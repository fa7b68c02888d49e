"""API keys of tenants: made here, shown once, kept as hashes.

A key is ``prism_<id>_<secret>``. The id is public: it finds the one record that the key could be of
(a dictionary look-up, whatever the number of tenants) and names the key in listings. The secret is
192 random bits. What is kept is the HMAC-SHA-256 of the whole key under the *pepper*, a secret of
the server's that is no part of the tenants' files. Why not argon2id: docs/adr says so.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prism.documents import Problem
from prism.tenants.errors import TenantError

PEPPER_ENV = "PRISM_TENANT_PEPPER"
"""The pepper; without it, the file ``.pepper`` in the folder of tenants holds it."""

PEPPER_FILE = ".pepper"
MIN_PEPPER = 32
MAX_KEY = 256
"""Longer credentials are no key of ours and aren't looked at."""

KEY_ID = re.compile(r"[0-9a-f]{12}\Z")
HASH = re.compile(r"hmac-sha256:([0-9a-f]{8}):([0-9a-f]{64})\Z")
_KEY = re.compile(r"prism_([0-9a-f]{12})_[0-9a-f]{48}\Z")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made. ``text`` is the only copy there will ever be."""

    id: str
    text: str = field(repr=False)
    hash: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pepper:
    """The server's secret behind every hash."""

    secret: bytes = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """Tells peppers apart in the files, so that a lost one isn't taken for wrong keys."""
        return self._mac(b"fingerprint")[:8]

    def hash(self, key: str) -> str:
        """Return what is kept of ``key``."""
        return f"hmac-sha256:{self.fingerprint}:{self._mac(b'key:' + key.encode())}"

    def derive(self, purpose: str, *parts: str) -> str:
        """Return 64 hex digits that only this server can make, for ``purpose`` and ``parts``."""
        # Each part with its length: ("ab", "c") must not be ("a", "bc").
        text = "".join(f"{len(part.encode())}:{part}" for part in parts)
        return self._mac(f"{purpose}:{text}".encode())

    def new_key(self) -> NewKey:
        """Make a key."""
        key_id = secrets.token_hex(6)
        text = f"prism_{key_id}_{secrets.token_hex(24)}"
        return NewKey(key_id, text, self.hash(text))

    def _mac(self, message: bytes) -> str:
        return hmac.new(self.secret, message, "sha256").hexdigest()

    @classmethod
    def random(cls) -> Pepper:
        """Return a pepper of this process's own."""
        return cls(secrets.token_hex(32).encode())

    @classmethod
    def load(cls, folder: Path, environ: Mapping[str, str] = os.environ) -> Pepper | None:
        """Return the pepper of the environment or of ``folder``. Raises ``TenantError``."""
        given = environ.get(PEPPER_ENV)
        if given:
            return cls(_checked(given, PEPPER_ENV))
        path = folder / PEPPER_FILE
        try:
            text = path.read_text(encoding="utf-8").strip()
            mode = path.stat().st_mode
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise _wrong(str(path), f"can't be read: {error}", "check its permissions") from None
        if mode & 0o077:
            raise _wrong(
                str(path), "can be read by other users of this machine", f"run `chmod 600 {path}`"
            )
        return cls(_checked(text, str(path)))


def key_id(text: str) -> str | None:
    """Return the id inside a well-formed key, or ``None`` for anything else."""
    if len(text) > MAX_KEY:
        return None
    match = _KEY.match(text)
    return match[1] if match else None


def same(given: str, kept: str) -> bool:
    """Compare two hashes in a time that doesn't depend on where they differ."""
    return hmac.compare_digest(given.encode(), kept.encode())


def _checked(text: str, where: str) -> bytes:
    if len(text) < MIN_PEPPER:
        raise _wrong(
            where,
            f"is shorter than {MIN_PEPPER} characters",
            "make one with `openssl rand -hex 32`",
        )
    return text.encode()


def _wrong(where: str, message: str, fix: str) -> TenantError:
    return TenantError([Problem(where, 0, 0, "", message, fix)])
