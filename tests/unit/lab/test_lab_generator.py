"""When an open loop's requests are due."""

from __future__ import annotations

import pytest

from tepbft.lab.generator import due_by


@pytest.mark.parametrize(("now", "due"), [(999, 0), (1_000, 1), (10_999, 1), (11_000, 2), (1_001_000, 101)])
def test_the_first_request_is_due_at_the_beginning(now: int, due: int) -> None:
    """Issued an interval late, every latency would be too long by that interval."""
    assert due_by(now, 1_000, 100.0) == due
