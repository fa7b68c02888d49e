"""Token buckets, on a clock that the test turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.tenants import Bucket, Meter, TenantLimits


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_worth_in_one_go_and_then_steadily():
    clock = Clock()
    bucket = Bucket(60, clock)
    assert [bucket.take(1) for _ in range(60)] == [0.0] * 60
    assert bucket.take(1) == pytest.approx(1.0)
    clock.now += 0.5
    assert bucket.take(1) == pytest.approx(0.5)
    clock.now += 0.5
    assert bucket.take(1) == 0.0
    clock.now += 3600  # nothing is saved up beyond a minute
    assert [bucket.take(1) for _ in range(60)] == [0.0] * 60
    assert bucket.take(1) > 0


def test_what_does_not_fit_waits_for_a_full_bucket_and_is_owed():
    clock = Clock()
    bucket = Bucket(100, clock)
    bucket.take(1)
    assert bucket.take(250) == pytest.approx(0.6)
    clock.now += 0.6
    assert bucket.take(250) == 0.0
    assert bucket.wait(1) == pytest.approx((150 + 1) * 60 / 100)


def test_a_charge_may_owe():
    clock = Clock()
    bucket = Bucket(60, clock)
    bucket.charge(90)
    assert bucket.wait(1) == pytest.approx(31)
    clock.now += 31
    assert bucket.take(1) == 0.0


@given(
    st.integers(1, 1000),
    st.lists(
        st.tuples(st.floats(0, 50, allow_nan=False), st.floats(0.1, 400, allow_nan=False)),
        max_size=60,
    ),
)
def test_nobody_gets_more_than_a_burst_and_the_rate(per_minute, asked):
    clock = Clock()
    bucket = Bucket(per_minute, clock)
    start, taken = clock.now, 0.0
    for pause, amount in asked:
        clock.now += pause
        amount = min(amount, per_minute)
        if not bucket.take(amount):
            taken += amount
        assert taken <= per_minute + (clock.now - start) * per_minute / 60 + 1e-6


@given(st.integers(1, 1000), st.floats(0.1, 1000, allow_nan=False))
def test_who_waits_as_long_as_told_gets_in(per_minute, amount):
    clock = Clock()
    bucket = Bucket(per_minute, clock)
    bucket.take(per_minute)
    clock.now += bucket.wait(amount) + 1e-6
    assert bucket.take(amount) == 0.0


def test_new_limits_keep_what_was_used():
    clock = Clock()
    meter = Meter(TenantLimits(requests_per_minute=10), clock)
    assert meter.chars is None
    assert meter.requests is not None
    for _ in range(10):
        assert meter.requests.take(1) == 0.0
    meter.update(TenantLimits(requests_per_minute=12, chars_per_minute=5))
    assert [meter.requests.take(1) > 0 for _ in range(3)] == [False, False, True]
    assert meter.chars is not None
    meter.update(TenantLimits(requests_per_minute=1))
    assert meter.requests.take(1) > 0
    assert meter.chars is None
    meter.update(TenantLimits())
    assert meter.requests is None
