"""Latencies in buckets of constant relative width, as HdrHistogram has them.

Two significant digits or better: a value of `v` microseconds falls into a bucket no wider than v/64.
Histograms of several processes add up; percentiles are read off the sum.
"""

from __future__ import annotations

from collections.abc import Iterable

SUB_BUCKETS = 64
"""Buckets per power of two."""


def bucket_of(value_us: int) -> int:
    """Index of the bucket that holds `value_us`."""
    if value_us < 2 * SUB_BUCKETS:
        return max(0, value_us)
    shift = value_us.bit_length() - SUB_BUCKETS.bit_length()
    return (shift << 6) + (value_us >> shift)


def value_of(bucket: int) -> int:
    """The largest value of a bucket, microseconds: a percentile is never told too small."""
    if bucket < 2 * SUB_BUCKETS:
        return bucket
    shift = (bucket >> 6) - 1
    return (((bucket & 63) + SUB_BUCKETS + 1) << shift) - 1


class Histogram:
    """Counts per bucket, and the exact extremes."""

    __slots__ = ("counts", "max_us", "min_us", "sum_us", "total")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.total = 0
        self.sum_us = 0
        self.max_us = 0
        self.min_us = 0

    def record(self, value_us: int, count: int = 1) -> None:
        """Count a value, microseconds, `count` times."""
        value_us = max(0, value_us)
        bucket = bucket_of(value_us)
        self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.min_us = value_us if not self.total else min(self.min_us, value_us)
        self.max_us = max(self.max_us, value_us)
        self.total += count
        self.sum_us += value_us * count

    def add(self, other: Histogram) -> None:
        """Take up the counts of another."""
        if not other.total:
            return
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.min_us = other.min_us if not self.total else min(self.min_us, other.min_us)
        self.max_us = max(self.max_us, other.max_us)
        self.total += other.total
        self.sum_us += other.sum_us

    def percentile_ms(self, share: float) -> float:
        """The value that `share` (0..1) of all values do not exceed, milliseconds; 0 if there are none."""
        if not self.total:
            return 0.0
        wanted = max(1, -(-int(share * self.total * 1_000_000) // 1_000_000))
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= wanted:
                return min(value_of(bucket), self.max_us) / 1000
        return self.max_us / 1000

    def summary(self) -> dict[str, float]:
        """p50, p95, p99, max and mean in milliseconds."""
        return {
            "p50": round(self.percentile_ms(0.50), 3),
            "p95": round(self.percentile_ms(0.95), 3),
            "p99": round(self.percentile_ms(0.99), 3),
            "max": round(self.max_us / 1000, 3),
            "mean": round(self.sum_us / self.total / 1000, 3) if self.total else 0.0,
        }

    def pairs(self) -> list[tuple[int, int]]:
        """(bucket, count), ascending: what another process needs."""
        return sorted(self.counts.items())

    @classmethod
    def from_pairs(
        cls, pairs: Iterable[tuple[int, int]], *, min_us: int, max_us: int, sum_us: int
    ) -> Histogram:
        """Inverse of `pairs`, with the exact figures beside them."""
        found = cls()
        for bucket, count in pairs:
            found.counts[bucket] = count
            found.total += count
        found.min_us, found.max_us, found.sum_us = min_us, max_us, sum_us
        return found
