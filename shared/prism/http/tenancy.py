"""Whose request it is, and what follows from that: policy, limits, cache, the engine's key.

The tenant is known from its API key alone, before anything else of the request is read. No other
header, no field of the body, no model's name has a say in which policy a request is under.

Where there are tenants, the key that counts is the tenant's. It ends here: towards the engine it is
replaced by the engine's own key, if that has one.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from prism.config import Settings
from prism.documents import Problem
from prism.http.asgi import Scope, headers
from prism.http.credentials import CREDENTIALS, check_operator, credential, unauthorised
from prism.http.errors import (
    BadRequest,
    TenantDisabled,
    TooManyRequests,
    Unauthorised,
)
from prism.http.family import Call, Reading
from prism.moderator import Moderator
from prism.policy.compiled import CompiledPolicy
from prism.record.metrics import Metrics
from prism.session import Session
from prism.steer.stamp import Stamp
from prism.tenants.directory import Directory, KeyState, Tenant
from prism.tenants.errors import TenantError
from prism.tenants.limits import Clock, Meter
from prism.tenants.model import ANONYMOUS, DEFAULT, TenantLimits
from prism.tenants.store import Stamp as Seen

_log = logging.getLogger("prism.http")

OPEN = frozenset(
    {
        "/health", "/ping", "/version", "/load", "/metrics", "/metrics/",
        "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json",
    }
)  # fmt: skip
"""Routes of the engine that need no key where there are tenants: no word of a tenant on them."""

LOOK = 1.0
"""Seconds between two looks at the folder of tenants and at the policies that they name."""
PAUSE = 10.0
"""Seconds before another try where the folder could not be read."""
PATIENCE = 2.0
"""Seconds that a request waits for changed files to be read. Then what was read before holds."""

MAX_SALT = 128


@dataclass(frozen=True, slots=True)
class Guest:
    """One request's tenant, with what its request may do."""

    tenant: str
    moderator: Moderator
    reading: Reading
    max_body_bytes: int
    refusals: tuple[str, ...] = ()  # what the token layer says when it refuses under this policy
    max_upload_bytes: int = 25_000_000  # of forms with a file
    _meter: Meter | None = None
    _salt: Callable[..., str] | None = None
    _credential: bytes | None = None  # towards the engine
    _strip: bool = False

    @property
    def policy(self) -> CompiledPolicy:
        """The policy in effect for the request."""
        return self.moderator.policy

    @property
    def stamp(self) -> Stamp:
        """What tells the token layer of it."""
        return Stamp(self.policy.digest, self.tenant)

    def session(self, locale: str | None = None) -> Session:
        """Return the state of the request."""
        return self.moderator.session(tenant=self.tenant, locale=locale)

    def forward(self, scope: Scope) -> Scope:
        """Return ``scope`` as the engine may see it: with its own key instead of the tenant's."""
        if not self._strip:
            return scope
        kept = [pair for pair in scope["headers"] if pair[0].lower() not in CREDENTIALS]
        if self._credential is not None:
            kept.append((b"authorization", b"Bearer " + self._credential))
        return {**scope, "headers": kept}

    def begin(self, call: Call) -> None:
        """Admit the request that was read. Raises :class:`TooManyRequests`, :class:`BadRequest`.

        The cache of one tenant's prompts answers, by its speed, questions about them; so each
        tenant gets a part of its own. A salt of the client's divides that part further.
        """
        if self._strip and call.body.get("priority") not in (None, 0):
            raise BadRequest(
                "'priority' is not available on a server with tenants: it would put one tenant's "
                "requests before another's",
                param="priority",
                code="not_moderated",
            )
        if self._salt is not None:
            parts = _client_salt(call.body.get("cache_salt"))
            call.body = {**call.body, "cache_salt": self._salt(self.tenant, *parts)}
        meter = self._meter
        if meter is None:
            return
        most = meter.limits.concurrent_streams
        if most is not None and call.choices > most:
            raise BadRequest(
                f"the request asks for {call.choices} answers at once, and {most} is the limit",
                param="n",
                code="out_of_range",
            )
        if most is not None and meter.streams + call.choices > most:
            raise TooManyRequests(
                f"over the limit of {most} answers at once; wait for one to end", retry_after=1
            )
        if meter.chars is not None and (wait := meter.chars.take(call.chars)):
            raise TooManyRequests(
                f"over the limit of {meter.chars.capacity} characters a minute", retry_after=wait
            )
        meter.streams += call.choices

    def end(self, call: Call, answered: int) -> None:
        """Give back what :meth:`begin` took; ``answered`` characters were generated."""
        if self._meter is None:
            return
        self._meter.streams -= call.choices
        if self._meter.chars is not None:
            self._meter.chars.charge(answered)


@dataclass(slots=True)
class _Books:
    """What a look at the folder came to. Replaced as a whole."""

    directory: Directory
    moderators: Mapping[str, Moderator]
    wrong: int = 0  # problems of files, each of which counts as it was before


@dataclass(slots=True)
class _House:
    """What holds for everybody."""

    settings: Settings
    reading: Reading
    api_keys: list[bytes]
    engine_key: bytes | None
    token_layer: bool
    shared: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def refusals(self, policy: CompiledPolicy) -> tuple[str, ...]:
        """Return the token layer's refusals under ``policy``: its own words and the strictest's."""
        if not self.token_layer:
            return ()
        if policy.digest not in self.shared:
            both = (policy, self.settings.strictest)
            texts = {text for each in both for text in each.messages.values()}
            self.shared[policy.digest] = tuple(sorted(texts))
        return self.shared[policy.digest]


class Tenancy:
    """Tells tenants apart.

    ``clock`` counts seconds, ``now`` tells the time, ``chance`` returns a number in [0, 1).
    Everything here runs on the event loop but the reading of changed files, which is done beside
    it. A change of the folder holds for requests that come :data:`LOOK` seconds later.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        reading: Reading,
        metrics: Metrics,
        api_keys: Sequence[str] = (),
        engine_key: str | None = None,
        token_layer: bool = False,
        clock: Clock = time.monotonic,
        now: Clock = time.time,
        chance: Callable[[], float] = random.SystemRandom().random,
    ) -> None:
        self._house = _House(
            settings,
            reading,
            [key.encode() for key in api_keys],
            engine_key.encode("latin-1") if engine_key else None,
            token_layer,
        )
        self._metrics = metrics
        self._clock = clock
        self._now = now
        self._chance = chance
        self._meters: dict[str, Meter] = {}
        self._default = Moderator(settings.policy, settings.models)
        self._anonymous: Moderator | None = None
        self._books: _Books | None = None
        self._next_look = clock()
        self._seen: Seen | None = None
        self._unread = False  # whether the last look found nothing that could be read
        self._task: asyncio.Task[None] | None = None
        if (tenants := settings.tenants) is not None:
            self._books = self._open(tenants.directory, {}, 0)
            if tenants.anonymous is not None:
                known = self._books.moderators.get(tenants.anonymous.digest)
                self._anonymous = known or Moderator(tenants.anonymous, settings.models)

    def server(self) -> Guest:
        """Return the guest of the server's own requests (the self-test's)."""
        limits = self._house.settings.limits
        refusals = self._house.refusals(self._default.policy)
        reading = self._house.reading
        return Guest(
            DEFAULT,
            self._default,
            reading,
            limits.max_body_bytes,
            refusals,
            limits.max_upload_bytes,
        )

    def report(self) -> dict[str, Any]:
        """Return what the health report says of the tenants: how much of their files is wrong."""
        if self._books is None:
            return {}
        return {"tenants": {"problems": self._books.wrong + self._unread}}

    async def admit(self, scope: Scope) -> Guest:
        """Return whose request it is.

        Raises :class:`Unauthorised`, :class:`TenantDisabled` or :class:`TooManyRequests`.
        """
        if self._books is None:
            self._check_engine_key(scope)
            return self.server()
        await self._look()
        guest = self._identify(self._books, scope)
        meter = guest._meter
        if meter is not None and meter.requests is not None and (wait := meter.requests.take(1)):
            raise TooManyRequests(
                f"over the limit of {meter.requests.capacity} requests a minute", retry_after=wait
            )
        return guest

    async def visit(self, path: str, scope: Scope) -> Guest:
        """Return whose request it is on a route of the engine's that isn't moderated.

        Raises what :meth:`admit` does, but on the routes that are open to all.
        """
        if self._books is None:
            return self.server()  # the engine looks at its keys itself
        if path in OPEN or scope["method"] == "OPTIONS":
            return replace(self.server(), _strip=True)
        return await self.admit(scope)

    def operator(self, scope: Scope) -> Guest:
        """Return the guest of a request that carries the operator's key, to be sent on without it.

        Raises :class:`~prism.http.errors.NotModerated` for any other.
        """
        check_operator(scope, self._house.settings.admin_key)
        credential = self._house.engine_key
        return replace(self.server(), _strip=True, _credential=credential)

    def _identify(self, books: _Books, scope: Scope) -> Guest:
        text = credential(scope)
        if text is None:
            return self._stranger(books, "an API key is needed", "missing_api_key")
        found = books.directory.find(text, self._now())
        if found.state is KeyState.UNKNOWN or found.tenant is None:
            return self._stranger(books, "the API key is not known here", "invalid_api_key")
        if found.state is KeyState.DISABLED:
            raise TenantDisabled("this account is disabled", code="tenant_disabled")
        if found.state is KeyState.EXPIRED:
            raise unauthorised("the API key has expired", "expired_api_key")
        tenant = found.tenant
        return self._guest(books, tenant.id, books.moderators[self._pick(tenant)], tenant.limits)

    def _stranger(self, books: _Books, message: str, code: str) -> Guest:
        tenants = self._house.settings.tenants
        if self._anonymous is None or tenants is None:
            raise unauthorised(message, code)
        return self._guest(books, ANONYMOUS, self._anonymous, tenants.anonymous_limits)

    def _pick(self, tenant: Tenant) -> str:
        # Nothing that a client can foresee or choose: else it would choose a policy.
        if tenant.canary is not None and self._chance() < tenant.share:
            return tenant.canary.digest
        return tenant.policy.digest

    def _guest(self, books: _Books, name: str, moderator: Moderator, limits: TenantLimits) -> Guest:
        house = self._house
        meter = self._meters.get(name)
        if meter is None:
            meter = self._meters[name] = Meter(limits, self._clock)
        meter.update(limits)
        server, reading, pepper = house.settings.limits, house.reading, books.directory.pepper

        def salt(*parts: str) -> str:
            return pepper.derive("cache_salt", *parts)

        return Guest(
            name,
            moderator,
            replace(
                reading,
                max_prompt_chars=_least(reading.max_prompt_chars, limits.max_prompt_chars),
                max_choices=_least(reading.max_choices, limits.max_choices),
            ),
            _least(server.max_body_bytes, limits.max_body_bytes),
            house.refusals(moderator.policy),
            _least(server.max_upload_bytes, limits.max_body_bytes),
            meter,
            salt if reading.engine == "vllm" else None,
            house.engine_key,
            True,
        )

    def _check_engine_key(self, scope: Scope) -> None:
        """Keep out whom the engine would keep out: a refusal is an answer, too."""
        if not self._house.api_keys:
            return
        scheme, _, given = (headers(scope, b"authorization") or [""])[0].partition(" ")
        given_raw = given.strip().encode("latin-1", "replace")
        fine = [hmac.compare_digest(given_raw, key) for key in self._house.api_keys]
        if scheme.lower() != "bearer" or not any(fine):
            raise Unauthorised("a valid API key is needed", code="invalid_api_key")

    # What changed

    async def _look(self) -> None:
        """See whether the folder has changed; if so, wait for the news, though not for ever."""
        tenants = self._house.settings.tenants
        if tenants is not None and self._clock() >= self._next_look and self._task is None:
            self._next_look = self._clock() + LOOK
            stamp = tenants.store.stamp()
            if stamp is None or stamp != self._seen:
                self._task = asyncio.get_running_loop().create_task(
                    self._reload(stamp), name="prism-tenants"
                )
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=PATIENCE)

    async def _reload(self, stamp: Seen | None) -> None:
        try:
            self._books = await asyncio.to_thread(self._read)
            self._seen, self._unread = stamp, False
        except Exception as error:  # those who are known stay known
            self._metrics.failure("tenants")
            _log.error("the tenants can't be read; what was read before holds: %s", error)
            self._next_look, self._unread = self._clock() + PAUSE, True
        finally:
            self._task = None

    def _read(self) -> _Books:
        tenants, books = self._house.settings.tenants, self._books
        assert tenants is not None
        assert books is not None
        moderators = dict(books.moderators)

        def accept(policy: CompiledPolicy) -> None:
            if policy.digest not in moderators:
                moderators[policy.digest] = self._moderator(policy)

        directory, problems = tenants.store.reload(accept)
        if problems:
            self._metrics.failure("tenants")
        for problem in problems:
            _log.error("a tenant's file is wrong; what it was before holds: %s", problem)
        return self._open(directory, moderators, len(problems))

    def _open(self, directory: Directory, known: Mapping[str, Moderator], problems: int) -> _Books:
        """Make what is missing, one moderator for each policy, however many tenants have it."""
        moderators = {
            digest: known.get(digest) or self._moderator(policy)
            for digest, policy in directory.policies.items()
        }
        return _Books(directory, moderators, problems)

    def _moderator(self, policy: CompiledPolicy) -> Moderator:
        """Make a policy's moderator. Raises ``ProblemsError`` where it can't be served here."""
        settings = self._house.settings
        marked = settings.strictest.watermark == "required"
        if policy.watermark == "required" and not marked:
            # The engine's workers know the policies of the start, and none of those demanded one.
            message, fix = "demands a watermark, and none did when the server started", "restart it"
            raise TenantError([Problem(f"policy {policy.id!r}", 0, 0, "watermark", message, fix)])
        return Moderator(policy, settings.models)


def _client_salt(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, str) or not 0 < len(value) <= MAX_SALT:
        raise BadRequest(
            f"cache_salt must be a string of 1 to {MAX_SALT} characters",
            param="cache_salt",
            code="invalid_type",
        )
    return (value,)


def _least(server: int, tenant: int | None) -> int:
    return server if tenant is None else min(server, tenant)
