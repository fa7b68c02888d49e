"""What the rooms of one server share: its engine, its tenants, its judges, its books."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from prism.config import Settings
from prism.http.asgi import ASGIApp
from prism.http.books import Books
from prism.http.errors import Unavailable
from prism.http.pool import Pool
from prism.http.routes import HEALTH
from prism.http.selftest import SelfTest
from prism.http.stored import Stored
from prism.http.tenancy import Guest, Tenancy
from prism.record.metrics import Metrics
from prism.steer import stamp


@dataclass(slots=True)
class Server:
    """One server with PRISM in it.

    ``serial``: the engine works on one request at a time, and can't be stopped in the middle of an
    answer in one piece.
    """

    app: ASGIApp
    settings: Settings
    layers: tuple[str, ...]
    tenancy: Tenancy
    metrics: Metrics
    books: Books
    selftest: SelfTest
    serial: bool = False
    processed_logprobs: bool = False
    pool: Pool = field(default_factory=Pool)
    stored: Stored = field(default_factory=Stored)
    active: int = 0  # moderated requests in flight

    @property
    def ok(self) -> bool:
        """Whether every layer is live and every decision can be put on record."""
        return self.selftest.ok and self.books.ok

    def require_live(self) -> None:
        """Raise :class:`Unavailable` unless the server is fit to judge another request."""
        if not self.selftest.ok:
            names = ", ".join(self.selftest.missing)
            raise Unavailable(
                f"not serving: layer not live: {names}; see {HEALTH}",
                code="layer_not_live",
                retry_after=5,
            )
        self.books.require_room()

    @contextlib.contextmanager
    def counted(self, weight: int) -> Iterator[None]:
        """Count a request as in flight."""
        self._count(weight)
        try:
            yield
        finally:
            self._count(-weight)

    def _count(self, change: int) -> None:
        self.active += change
        self.metrics.active(change)


@contextlib.contextmanager
def stamped(guest: Guest, locale: str | None = None) -> Iterator[None]:
    """Let the token layer know whose request the calls made inside are, under which policy.

    ``locale``: what it is refused in.
    """
    token, language = stamp.current.set(guest.stamp), stamp.language.set(locale)
    try:
        yield
    finally:
        stamp.language.reset(language)
        stamp.current.reset(token)
