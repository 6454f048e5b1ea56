"""Figures of calls: buckets, sums, quantiles."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.figures import Figures, bounds, bucket_of


@given(st.integers(0, 2**42 - 1))
def test_a_duration_lies_within_its_bucket(microseconds: int) -> None:
    low, high = bounds(bucket_of(microseconds * 1_000))
    assert low <= microseconds < high
    assert (high - low) <= max(1, low / 8)


def test_buckets_follow_each_other() -> None:
    numbers = [bucket_of(microseconds * 1_000) for microseconds in range(10_000)]
    assert all(after - before in (0, 1) for before, after in itertools.pairwise(numbers))


@pytest.mark.parametrize(("nanoseconds", "bucket"), [(-5, 0), (0, 0), (999, 0), (1_000, 1), (2**70, bucket_of(2**62))])
def test_what_is_out_of_bounds(nanoseconds: int, bucket: int) -> None:
    assert bucket_of(nanoseconds) == bucket


@given(st.lists(st.integers(1_000_000, 10**10), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_is_near_the_true_one(durations: list[int], share: float) -> None:
    figures = Figures()
    for one in durations:
        figures.count(one, failed=False)
    found = figures.quantile(share)
    true = sorted(durations)[max(0, -(-len(durations) * share // 1).__int__() - 1)] / 1e6
    assert found is not None
    assert true * 0.87 <= found <= true * 1.13


def test_no_calls_have_no_quantile() -> None:
    assert Figures().quantile(0.5) is None
    assert Figures().error_rate == 0


def test_figures_add_up() -> None:
    parts = [Figures(), Figures()]
    parts[0].count(1_000_000, failed=True)
    parts[1].count(3_000_000, failed=False)
    total = Figures.sum(parts)
    assert (total.calls, total.errors, sum(total.buckets.values())) == (2, 1, 2)
    assert (parts[0].calls, parts[1].calls) == (1, 1)


@pytest.mark.parametrize(("failed", "errors"), [(False, 0), (True, 1)])
def test_an_attempt_more_is_no_call_more(failed: bool, errors: int) -> None:
    figures = Figures()
    figures.count(1_000, failed=True)
    figures.amend(failed=failed)
    assert (figures.calls, figures.errors) == (1, errors)
