"""A tenant's file as it is written: every key that may stand in it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from prism.documents import Model, custom_error
from prism.policy.model import Locale, Message, ModeName, RuleEntry, Text, Tiers
from prism.tenants.keys import HASH, KEY_ID

FORMAT = 1
MAX_KEYS = 2
"""Live keys of one tenant: the current one, and during a rotation the one before."""

ANONYMOUS = "anonymous"
"""Whose requests those without a known key are, where the operator lets them in."""

DEFAULT = "default"
"""Whose requests all are, where there are no tenants."""

TENANT_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")
ID_FIX = "use up to 64 lower-case letters, digits, `-` and `_`, a letter or digit first"
RESERVED = frozenset({ANONYMOUS, DEFAULT})


def check_id(name: str) -> str:
    """Return ``name`` if a tenant may be called so. Raises a pydantic error with a way out."""
    if not TENANT_ID.match(name):
        raise custom_error(f"{name[:60]!r} is not a valid tenant id", ID_FIX)
    if name in RESERVED:
        raise custom_error(f"{name!r} is a name that PRISM itself uses", "choose another id")
    return name


def timestamp(text: str) -> float:
    """Return ``text`` (ISO 8601 with a zone) in seconds since 1970. Raises ``ValueError``."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no time zone")
    return moment.timestamp()


def written(seconds: float) -> str:
    """Return a moment as files hold it: ``2026-11-02T08:30:00Z``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _time(text: str) -> str:
    try:
        timestamp(text)
    except (ValueError, OverflowError):
        fix = "write it like 2026-11-02T08:30:00Z, the zone included"
        raise custom_error(f"{text[:40]!r} is not a point in time", fix) from None
    return text


def _key_id(text: str) -> str:
    if not KEY_ID.match(text):
        raise custom_error(f"{text[:40]!r} is not a key's id", "let `prism tenant rotate` write it")
    return text


def _hash(text: str) -> str:
    if not HASH.match(text):
        # The value itself is not repeated: it may be a key that was pasted here.
        raise custom_error("is not a key's hash", "let `prism tenant rotate` write it")
    return text


def _version(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and value != FORMAT:
        message = f"version {value} is not one that this release reads"
        raise custom_error(message, f"write `prism: {FORMAT}`")
    return value


def _keys(keys: list[KeyEntry]) -> list[KeyEntry]:
    if len(keys) > MAX_KEYS:
        raise custom_error(
            f"holds {len(keys)} keys, and at most {MAX_KEYS} may be live", "remove the oldest"
        )
    if len({key.id for key in keys}) < len(keys):
        raise custom_error("holds the same key twice", "keep one of the two")
    return keys


Time = Annotated[str, AfterValidator(_time)]


class KeyEntry(Model):
    """One key, without its secret."""

    id: Annotated[str, AfterValidator(_key_id)] = Field(examples=["id: 0123456789ab"])
    hash: Annotated[str, AfterValidator(_hash)] = Field(examples=["hash: hmac-sha256:…"])
    created: Time = Field(examples=["created: 2026-11-02T08:30:00Z"])
    expires: Time | None = Field(default=None, examples=["expires: 2026-12-01T00:00:00Z"])


class Overrides(Model):
    """What a tenant's policy changes in the one it starts from; same keys as in a policy file."""

    locale: Locale | None = Field(default=None, examples=["locale: en"])
    messages: dict[Locale, Message] | None = Field(
        default=None, examples=['messages: {en: "I can\'t help with that."}']
    )
    tiers: Tiers | None = Field(default=None, examples=["tiers: {encoder: off}"])
    on_tier_failure: Literal["close", "open"] | None = Field(
        default=None, examples=["on_tier_failure: close"]
    )
    unknown_language: Literal["allow", "flag", "block"] | None = Field(
        default=None, examples=["unknown_language: flag"]
    )
    watermark: Literal["required", "off"] | None = Field(
        default=None, examples=["watermark: required"]
    )
    rules: list[RuleEntry] = Field(default=[], examples=["rules: [{id: code-names, …}]"])


class CanaryEntry(Model):
    """A policy that a share of the tenant's requests gets, to try it out."""

    policy: Text = Field(examples=["policy: next.yaml"])
    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(examples=["share: 0.1"])


class TenantLimits(Model):
    """How much of the server a tenant may use. What is left out has no limit of the tenant's own.

    The sizes can only be smaller than the server's own limits: the smaller one holds.
    """

    requests_per_minute: int | None = Field(
        default=None, ge=1, examples=["requests_per_minute: 600"]
    )
    concurrent_streams: int | None = Field(default=None, ge=1, examples=["concurrent_streams: 8"])
    chars_per_minute: int | None = Field(default=None, ge=1, examples=["chars_per_minute: 500000"])
    max_body_bytes: int | None = Field(default=None, ge=1024, examples=["max_body_bytes: 100000"])
    max_prompt_chars: int | None = Field(default=None, ge=1, examples=["max_prompt_chars: 50000"])
    max_choices: int | None = Field(default=None, ge=1, le=1024, examples=["max_choices: 4"])


class TenantFile(Model):
    """A tenant's file. Paths are relative to it."""

    prism: Annotated[int, BeforeValidator(_version)] = Field(examples=["prism: 1"])
    tenant: Annotated[str, AfterValidator(check_id)] = Field(examples=["tenant: acme"])
    title: Text | None = Field(default=None, examples=["title: ACME, support desk"])
    disabled: bool = Field(default=False, examples=["disabled: true"])
    policy: Text | None = Field(default=None, examples=["policy: strict"])
    mode: ModeName | None = Field(default=None, examples=["mode: monitor"])
    overrides: Overrides | None = Field(default=None, examples=["overrides: {rules: […]}"])
    canary: CanaryEntry | None = Field(
        default=None, examples=["canary: {policy: next.yaml, share: 0.1}"]
    )
    limits: TenantLimits = Field(
        default=TenantLimits(), examples=["limits: {requests_per_minute: 600}"]
    )
    keys: Annotated[list[KeyEntry], AfterValidator(_keys)] = Field(
        default=[], examples=["keys: []"]
    )
