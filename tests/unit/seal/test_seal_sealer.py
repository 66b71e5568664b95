"""When a block is cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tepbft.seal import Sealer, Sealing

SEALER = Sealer(block_requests=10, block_bytes=1000, window=16, in_flight_limit=4, max_wait_ms=5)


def moment(**changed) -> Sealing:
    values = {
        "now_ms": 100,
        "waiting": 1,
        "waiting_bytes": 10,
        "oldest_waiting_ms": 100,
        "in_flight": 1,
        "next_height": 7,
        "stable": 5,
    }
    return Sealing(**{**values, **changed})


@pytest.mark.parametrize(
    ("changed", "seals"),
    [
        ({"in_flight": 0}, True),  # idle: at once
        ({}, False),  # busy: wait for company
        ({"waiting": 10}, True),  # a full block by count
        ({"waiting": 5, "waiting_bytes": 1000}, True),  # by size
        ({"now_ms": 105}, True),  # the oldest waited long enough
        ({"now_ms": 104}, False),
        ({"now_ms": 105, "in_flight": 4}, False),  # enough under way
        ({"waiting": 99, "in_flight": 4}, False),
        ({"in_flight": 0, "next_height": 21}, True),  # the last height of the window
        ({"in_flight": 0, "next_height": 22}, False),  # above stable + BL
        ({"in_flight": 0, "waiting": 0, "oldest_waiting_ms": None}, False),  # no empty blocks
        ({"more": True, "waiting": 9, "now_ms": 105}, False),  # the next ones are being verified
        ({"more": True, "waiting": 10}, True),
        ({"more": True, "now_ms": 299}, False),
        ({"more": True, "now_ms": 300}, True),  # but not for ever
        ({"more": True, "in_flight": 0, "waiting": 9, "now_ms": 104}, False),  # idle: 64 or a full block
        ({"more": True, "in_flight": 0, "now_ms": 105}, True),
        ({"pressed": True, "waiting": 9, "now_ms": 299}, False),  # no time for one block more
        ({"pressed": True, "waiting": 10}, True),
        ({"pressed": True, "now_ms": 300}, True),
        ({"pressed": True, "in_flight": 0}, True),  # but the others must have something to do
    ],
)
def test_rule(changed, seals):
    """A3.3: seal on size or on max_wait, inside the window; at once if nothing is under way."""
    assert SEALER.should_seal(moment(**changed)) is seals


moments = st.builds(
    Sealing,
    now_ms=st.integers(90, 120),
    waiting=st.integers(0, 12),
    waiting_bytes=st.integers(0, 1200),
    oldest_waiting_ms=st.integers(90, 100),
    in_flight=st.integers(0, 5),
    next_height=st.integers(1, 30),
    stable=st.integers(0, 10),
    more=st.booleans(),
    pressed=st.booleans(),
)


@settings(deadline=None)
@given(moments)
def test_waking_up_in_time_is_enough(now):
    """`wake_at_ms` is the moment at which time alone makes the difference."""
    wake = SEALER.wake_at_ms(now)
    if wake is None:
        later = replace(now, now_ms=now.now_ms + 10**6)
        assert not SEALER.should_seal(later)
        return

    def at(time: int) -> bool:
        return SEALER.should_seal(replace(now, now_ms=time))

    assert at(wake)
    assert wake == now.now_ms or not at(wake - 1)
