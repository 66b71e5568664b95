"""Where replies go, and when: `node.replies`."""

from __future__ import annotations

from tepbft.core.block import OK, Receipt, Request
from tepbft.execution.outcomes import Outcomes, new_outcomes
from tepbft.node.replies import CONNECTIONS_PER_CLIENT, Replies
from tepbft.types import ConnectionId


def receipt(client: bytes, seq: int = 1) -> Receipt:
    return Receipt(client * 16, 1, seq, bytes(32), OK, b"r")


def block_of(*receipts: Receipt) -> Outcomes:
    requests = [Request(one.client, one.session, one.seq, b"op", b"") for one in receipts]
    outcomes = new_outcomes(requests, [one.request_digest for one in receipts])
    for one in receipts:
        outcomes.add(one.status, one.result)
    return outcomes


def test_outcomes_are_grouped_per_connection_and_height() -> None:
    replies = Replies(after_stable=False)
    one, two = ConnectionId(1), ConnectionId(2)
    replies.heard(one, [b"a" * 16, b"b" * 16])
    replies.heard(two, [b"b" * 16])
    block = block_of(receipt(b"a"), receipt(b"b"), receipt(b"a", 9), receipt(b"c"))
    out = replies.executed(5, block, {2: (3, receipt(b"a", 9))})
    assert sorted((r.connection, r.height, len(r.receipts)) for r in out) == [(1, 3, 1), (1, 5, 2), (2, 5, 1)]
    assert {r.connection: list(r.receipts) for r in out if r.height == 5} == {1: block[:2], 2: block[1:2]}


def test_a_closed_connection_is_forgotten_with_what_waits_for_it() -> None:
    replies = Replies(after_stable=True)
    one, two = ConnectionId(1), ConnectionId(2)
    replies.heard(one, [b"a" * 16])
    replies.heard(two, [b"a" * 16])
    assert replies.executed(4, block_of(receipt(b"a")), {}) == []
    replies.closed(one)
    assert [(r.connection, r.height) for r in replies.stable(4)] == [(2, 4)]
    assert replies.stable(9) == []
    replies.closed(two)
    replies.closed(two)
    assert replies.executed(5, block_of(receipt(b"a")), {}) == [] == replies.stable(5)
    assert replies._routes == {} == replies._clients


def test_replies_wait_for_their_own_height() -> None:
    replies = Replies(after_stable=True)
    replies.heard(ConnectionId(1), [b"a" * 16])
    replies.executed(4, block_of(receipt(b"a", 1)), {})
    replies.executed(5, block_of(receipt(b"a", 2)), {})
    assert [r.height for r in replies.stable(4)] == [4]
    assert [r.height for r in replies.stable(8)] == [5]


def test_i17_one_client_on_many_connections_is_bounded() -> None:
    """I-17: the least recent connection makes room."""
    replies = Replies(after_stable=False)
    for number in range(CONNECTIONS_PER_CLIENT + 10):
        replies.heard(ConnectionId(number), [b"a" * 16])
    out = replies.executed(1, block_of(receipt(b"a")), {})
    assert len(out) == CONNECTIONS_PER_CLIENT
    assert min(r.connection for r in out) == 10
