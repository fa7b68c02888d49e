"""Token buckets: how much a tenant may ask of the server.

A bucket holds a minute's worth, is full at first and fills up steadily, so an allowance may be
spent in one go and is never saved up beyond a minute. All of it runs on the event loop of one
process; a server of several processes has as many buckets.
"""

from __future__ import annotations

from collections.abc import Callable

from prism.tenants.model import TenantLimits

Clock = Callable[[], float]


class Bucket:
    """An allowance per minute. ``clock`` counts seconds and never goes back."""

    __slots__ = ("_clock", "_level", "_seen", "capacity")

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self.capacity = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._seen = clock()

    def take(self, amount: float) -> float:
        """Take ``amount`` and return 0, or take nothing and return the seconds to wait."""
        wait = self.wait(amount)
        if not wait:
            self._level -= amount
        return wait

    def wait(self, amount: float) -> float:
        """Return the seconds until ``amount`` is there; more than fits waits for a full bucket."""
        self._fill()
        short = min(amount, self.capacity) - self._level
        return max(0.0, short * 60 / self.capacity)

    def charge(self, amount: float) -> None:
        """Take what was used already: the bucket may owe, and is then empty for longer."""
        self._fill()
        self._level -= amount

    def resize(self, per_minute: int) -> None:
        """Change the allowance; what was used stays used."""
        self._fill()
        self._level += per_minute - self.capacity
        self.capacity = per_minute

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(
            float(self.capacity), self._level + (now - self._seen) * self.capacity / 60
        )
        self._seen = now


class Meter:
    """What one tenant is using. It outlives a change of the tenant's limits."""

    __slots__ = ("_clock", "_limits", "chars", "requests", "streams")

    def __init__(self, limits: TenantLimits, clock: Clock) -> None:
        self._clock = clock
        self._limits = limits
        self.streams = 0  # being answered now
        self.requests = self._bucket(None, limits.requests_per_minute)
        self.chars = self._bucket(None, limits.chars_per_minute)

    @property
    def limits(self) -> TenantLimits:
        """What holds now."""
        return self._limits

    def update(self, limits: TenantLimits) -> None:
        """Hold the tenant to new limits from now on."""
        if limits == self._limits:
            return
        self._limits = limits
        self.requests = self._bucket(self.requests, limits.requests_per_minute)
        self.chars = self._bucket(self.chars, limits.chars_per_minute)

    def _bucket(self, known: Bucket | None, per_minute: int | None) -> Bucket | None:
        if per_minute is None:
            return None
        if known is None:
            return Bucket(per_minute, self._clock)
        known.resize(per_minute)
        return known
