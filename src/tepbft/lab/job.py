"""What a load generator is told, and what it reports: the contract between it and the benchmark."""

from __future__ import annotations

import time

from msgspec import Struct


class Job(Struct, forbid_unknown_fields=True):
    """What one generator does. Times in seconds."""

    cluster: str
    clients: list[str]
    app: str
    payload: int
    pipeline: int
    rate: float
    """Requests per second that are due; 0 for a closed loop."""
    warmup_s: float
    seconds: float
    drain_s: float
    transactions: int
    """End the window after so many answers, if that comes before `seconds` are over; 0: do not."""
    prepare: int
    """Requests of each client to sign in advance."""
    seed: int
    bundle: int = 1
    """Operations in a request."""


class Report(Struct, forbid_unknown_fields=True):
    """What came of it, within the measured window unless it says otherwise."""

    committed: int
    refused: int
    """Of the committed: operations that the application declined."""
    shed: int
    """Open loop: requests that were due and declined as BUSY, or that found no client with room."""
    busy: int
    """Closed loop: repetitions after a BUSY."""
    retransmitted: int
    due: int
    """Open loop: requests that were due in the window."""
    late_ms: float
    """Open loop: how far the generator itself fell behind its schedule, at most."""
    window_s: float
    """How long the window was."""
    outstanding: int
    """Requests without an answer when the drain ended."""
    signed_live: int
    cpu_s: float
    """CPU time of this process in the window."""
    buckets: list[tuple[int, int]]
    min_us: int
    max_us: int
    sum_us: int
    gap_ms: float
    """The longest time without any answer in the window."""
    timeline: list[int]
    """Answers per 100 ms since the window began, the drain included."""
    errors: list[str]


def now_us() -> int:
    """The system-wide monotonic clock, microseconds."""
    return time.monotonic_ns() // 1000
