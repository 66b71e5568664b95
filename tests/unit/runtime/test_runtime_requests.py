"""Requests on their way to the node: `runtime.requests`."""

from __future__ import annotations

from tepbft.core.block import Request, encode_body
from tepbft.core.requests import open_body
from tepbft.runtime.requests import RequestQueue
from tepbft.types import ConnectionId


def numbered(count: int) -> list[Request]:
    return [Request(bytes(16), 1, seq, b"", b"") for seq in range(count)]


def test_what_a_connection_says_in_many_frames_costs_one_step() -> None:
    """Requests join those of their connection that wait already, up to the size of one part; a long list
    makes several."""
    queue = RequestQueue(256)
    assert not queue
    for connection, count in ((1, 3), (1, 250), (1, 4), (2, 1), (1, 600), (1, 10), (1, 0)):
        queue.put(ConnectionId(connection), numbered(count))
    events = []
    while queue:
        events.append(queue.take(more=False, pressed=True))
    sizes = [(event.connection, len(event.requests)) for event in events]
    assert sizes == [(1, 253), (1, 4), (2, 1), (1, 256), (1, 256), (1, 98)]
    assert [request.seq for request in events[0].requests] == [*range(3), *range(250)]
    assert [event.more for event in events] == [True] * 5 + [False]
    assert all(event.pressed for event in events)


def test_a_table_is_cut_and_joined_as_a_list_is() -> None:
    queue = RequestQueue(10)
    chain = bytes(32)
    for count in (4, 3, 14, 2, 9):
        queue.put(ConnectionId(1), open_body(chain, encode_body(numbered(count)))[0])
    parts = []
    while queue:
        parts.append([request.seq for request in queue.take(more=True, pressed=False).requests])
    assert parts == [[0, 1, 2, 3, 0, 1, 2], [*range(10)], [10, 11, 12, 13, 0, 1], [*range(9)]]


def test_nothing_is_left_of_what_is_cleared() -> None:
    queue = RequestQueue(10)
    queue.put(ConnectionId(1), numbered(3))
    queue.clear()
    assert not queue
    queue.put(ConnectionId(1), numbered(2))
    event = queue.take(more=True, pressed=False)
    assert (len(event.requests), event.more, bool(queue)) == (2, True, False)
