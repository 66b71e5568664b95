"""Counting a load: what is an outcome, what is a failure, and how long nothing happened."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tepbft.cli.load import Measured, drive, percentile
from tepbft.client.events import NOT_ADMITTED, Outcome
from tepbft.core.block import CONFLICT, OK, REFUSED
from tepbft.errors import TepbftError


def an_outcome(seq: int, status: int = OK) -> Outcome:
    """An outcome of that status."""
    return Outcome(1, seq, 5, status, b"", b"", (0, 1), 2.5)


def test_a_refusal_is_an_agreed_outcome_and_a_conflict_is_not() -> None:
    """A-25: a refusal is ordered and recorded like any other outcome."""
    measured = Measured()
    for seq, status in enumerate([OK, REFUSED, CONFLICT, NOT_ADMITTED]):
        measured.record(an_outcome(seq, status))
    assert (measured.executed, measured.refused, measured.failed) == (1, 1, 2)
    assert measured.committed == 2 and measured.finished == 4
    assert len(measured.errors) == 2


def test_the_longest_gap_and_the_rate() -> None:
    measured = Measured(started_s=10.0, completions_s=[10.5, 10.6, 12.0, 12.1])
    assert measured.longest_gap_ms() == pytest.approx(1400)
    assert measured.per_second() == pytest.approx(4 / 2.1)
    assert Measured().longest_gap_ms() == 0 and Measured().per_second() == 0


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_percentiles_are_values_of_the_list(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert percentile(values, 0.0) == min(values) and percentile(values, 1.0) == max(values)
    assert sum(value <= found for value in values) >= int(share * len(values))


class Server:
    """Stands for a client: answers every request a moment later, the seventh with an error."""

    def __init__(self) -> None:
        self.outstanding = self.most = self.seen = 0

    def submit_nowait(self, operation: bytes) -> asyncio.Future[Outcome]:
        self.seen += 1
        self.outstanding += 1
        self.most = max(self.most, self.outstanding)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        loop.call_soon(self._answer, future, self.seen)
        return future

    def _answer(self, future: asyncio.Future[Outcome], seq: int) -> None:
        self.outstanding -= 1
        if seq == 7:
            future.set_exception(TepbftError("request 7", "no outcome", "Try again"))
        else:
            future.set_result(an_outcome(seq))


@pytest.mark.parametrize("count", [0, 1, 16, 100])
async def test_the_window_is_kept_full_and_never_exceeded(count: int) -> None:
    server: Any = Server()
    measured = Measured()
    operations: Iterator[bytes] = (b"x" for _ in range(count))
    await drive(server, operations, 8, measured, lambda: None)
    assert server.seen == count == measured.finished
    assert server.most == min(8, count)
    assert measured.failed == (1 if count >= 7 else 0)
