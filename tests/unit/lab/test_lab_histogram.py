"""Latencies in buckets against the exact values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tepbft.lab.histogram import Histogram, bucket_of, value_of

VALUES = st.lists(st.integers(0, 10_000_000), min_size=1, max_size=300)


def a_histogram(values: list[int]) -> Histogram:
    """A histogram of those values."""
    found = Histogram()
    for value in values:
        found.record(value)
    return found


@given(st.integers(0, 1 << 50))
def test_a_bucket_holds_its_value_and_is_narrow(value: int) -> None:
    high = value_of(bucket_of(value))
    assert value <= high <= value + value // 64
    assert bucket_of(high) == bucket_of(value) and bucket_of(high + 1) == bucket_of(value) + 1


@given(VALUES, st.floats(0, 1))
def test_a_percentile_is_never_too_small_and_at_most_a_bucket_too_large(
    values: list[int], share: float
) -> None:
    """Nearest rank, exactly: the smallest value that at least `share` of all do not exceed."""
    found_us = round(a_histogram(values).percentile_ms(share) * 1000)
    ordered = sorted(values)
    wanted = max(1, -(-int(share * len(values) * 1_000_000) // 1_000_000))
    exact = ordered[wanted - 1]
    assert exact <= found_us <= min(exact + exact // 64, ordered[-1])


@given(VALUES, VALUES)
def test_histograms_of_two_processes_add_up(first: list[int], second: list[int]) -> None:
    left, right = a_histogram(first), a_histogram(second)
    sent = Histogram.from_pairs(right.pairs(), min_us=right.min_us, max_us=right.max_us, sum_us=right.sum_us)
    left.add(sent)
    both = a_histogram(first + second)
    assert left.counts == both.counts and left.total == both.total
    assert (left.min_us, left.max_us, left.sum_us) == (min(first + second), max(first + second), both.sum_us)
    assert left.summary() == both.summary()


def test_nothing_measured_is_zero_and_adds_nothing() -> None:
    empty, one = Histogram(), a_histogram([5])
    assert empty.summary() == {"p50": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0, "mean": 0.0}
    one.add(empty)
    assert one.total == 1 and one.min_us == 5
    empty.record(-3)  # a clock that was set back
    assert empty.max_us == 0 and empty.total == 1


def test_counts_weigh() -> None:
    found = Histogram()
    found.record(1000, 99)
    found.record(50_000, 1)
    assert found.percentile_ms(0.5) < 1.02 and found.percentile_ms(0.99) < 1.02
    assert found.percentile_ms(1.0) == 50.0
