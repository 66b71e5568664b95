"""Driving many clients, each with a window of requests in flight, and counting what comes of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tepbft.client.aio import Client
from tepbft.client.events import Outcome
from tepbft.core.block import OK, REFUSED
from tepbft.errors import TepbftError

_MAX_ERRORS = 5


@dataclass
class Measured:
    """What became of a load. A refusal is an outcome: ordered, recorded, provable."""

    executed: int = 0
    refused: int = 0
    failed: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    completions_s: list[float] = field(default_factory=list)
    """When each outcome arrived (monotonic), ascending."""
    started_s: float = 0.0
    errors: list[str] = field(default_factory=list)
    """The first few."""

    @property
    def committed(self) -> int:
        """Requests with an agreed outcome."""
        return self.executed + self.refused

    @property
    def finished(self) -> int:
        """Requests over, one way or another."""
        return self.committed + self.failed

    def record(self, outcome: Outcome) -> None:
        """Count an outcome now."""
        if outcome.status == OK:
            self.executed += 1
        elif outcome.status == REFUSED:
            self.refused += 1
        else:
            self.fail(f"{outcome.status_name}: {outcome.result.decode('utf-8', 'replace')}")
            return
        self.latencies_ms.append(outcome.latency_ms)
        self.completions_s.append(time.monotonic())

    def fail(self, reason: str) -> None:
        """Count a request without an agreed outcome."""
        self.failed += 1
        if len(self.errors) < _MAX_ERRORS:
            self.errors.append(reason)

    def per_second(self) -> float:
        """Agreed outcomes per second, from the first submission to the last outcome."""
        if not self.completions_s:
            return 0.0
        return len(self.completions_s) / max(1e-9, self.completions_s[-1] - self.started_s)

    def longest_gap_ms(self) -> float:
        """The longest time without any outcome, between the first and the last."""
        times = self.completions_s
        return max((later - earlier for earlier, later in pairwise(times)), default=0.0) * 1000


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0..1) of `values` lie (nearest rank); 0 for none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered)) - 1))]


async def drive(
    client: Client,
    operations: Iterator[bytes],
    in_flight: int,
    measured: Measured,
    progressed: Callable[[], None],
) -> None:
    """Submit all `operations`, `in_flight` at a time, without a task per request."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    outstanding = 0

    def launch() -> None:
        nonlocal outstanding
        operation = next(operations, None)
        if operation is None:
            if outstanding == 0 and not over.done():
                over.set_result(None)
            return
        outstanding += 1
        client.submit_nowait(operation).add_done_callback(finished)

    def finished(future: asyncio.Future[Outcome]) -> None:
        nonlocal outstanding
        outstanding -= 1
        if future.cancelled() or over.done():
            return
        error = future.exception()
        if isinstance(error, TepbftError):
            measured.fail(str(error))
        elif error is not None:
            over.set_exception(error)
            return
        else:
            measured.record(future.result())
        progressed()
        launch()

    for _ in range(in_flight):
        launch()
    await over
