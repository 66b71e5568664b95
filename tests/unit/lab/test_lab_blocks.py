"""Believing f+1 nodes that send the same bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tepbft import wire
from tepbft.core.block import OK, Receipt
from tepbft.errors import PeerFault
from tepbft.lab.blocks import REMEMBERED, BlockMatcher, split_view


def an_outcome(view: int = 0, height: int = 1, result: bytes = b"r") -> bytes:
    """An encoded Outcome."""
    receipt = Receipt(b"c" * 16, 1, 1, bytes(32), OK, result)
    return wire.encode(wire.Outcome(view, height, [receipt]))


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1))
def test_the_view_stands_in_front_and_is_split_off(view: int, height: int) -> None:
    parts = split_view(an_outcome(view, height))
    assert parts is not None and parts[0] == view
    assert parts[1] == split_view(an_outcome(0, height))[1]  # type: ignore[index]


@pytest.mark.parametrize(
    "data", [b"", b"\x94\x03", wire.encode(wire.NotAdmitted([])), b"\x94\x03\xc0\x00\x90"]
)
def test_other_messages_are_no_outcomes(data: bytes) -> None:
    assert split_view(data) is None and BlockMatcher(1).add(0, data) is None


def test_a_block_is_told_once_when_enough_nodes_agree_whatever_their_view() -> None:
    matcher = BlockMatcher(2)
    assert matcher.add(0, an_outcome(view=0)) is None
    assert matcher.add(0, an_outcome(view=5)) is None, "one node counts once"
    found = matcher.add(1, an_outcome(view=300))
    assert found is not None and found.height == 1 and found.receipts[0].result == b"r"
    assert matcher.add(2, an_outcome()) is None


def test_a_liar_convinces_nobody_and_stops_nobody() -> None:
    matcher = BlockMatcher(2)
    assert matcher.add(2, an_outcome(result=b"lie")) is None
    assert matcher.add(0, an_outcome()) is None
    found = matcher.add(1, an_outcome())
    assert found is not None and found.receipts[0].result == b"r"


def test_memory_is_bounded_and_stragglers_of_forgotten_blocks_count_for_nothing() -> None:
    matcher = BlockMatcher(2)
    for height in range(REMEMBERED + 1):
        assert matcher.add(0, an_outcome(height=height)) is None
    assert matcher.add(1, an_outcome(height=0)) is None, "forgotten"
    assert matcher.add(1, an_outcome(height=REMEMBERED)) is not None


def test_agreed_nonsense_is_a_fault() -> None:
    """f+1 nodes that send the same malformed bytes: more are faulty than may be."""
    matcher = BlockMatcher(1)
    with pytest.raises(PeerFault):
        matcher.add(0, an_outcome()[:-1])
