"""Back-off is bounded and jittered, and counts failures in a row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.recovery import Backoff, Failures

EXACT = Backoff(first_seconds=1, limit_seconds=10, factor=2, jitter=0)


@pytest.mark.parametrize(("failures", "seconds"), [(0, 1), (1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (10**9, 10)])
def test_delay_doubles_up_to_the_limit(failures: int, seconds: float) -> None:
    assert EXACT.delay(failures, 0.5) == seconds


@given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True), st.floats(0, 1))
def test_delay_stays_within_its_jitter(failures: int, chance: float, jitter: float) -> None:
    backoff = Backoff(first_seconds=0.1, limit_seconds=5, jitter=jitter)
    longest = Backoff(first_seconds=0.1, limit_seconds=5, jitter=0).delay(failures, 0)
    assert longest * (1 - jitter) <= backoff.delay(failures, chance) <= longest


def test_failures_count_until_reset() -> None:
    failures = Failures(chance=lambda: 0.0)
    assert [failures.next(EXACT) for _ in range(3)] == [1, 2, 4]
    failures.reset()
    assert failures.next(EXACT) == 1
