"""The pool: admission, fairness, forgetting, bounds (A9, A-28, A-42, A-44, I-17)."""

from __future__ import annotations

import pytest

from tepbft.core.block import Request, digest_of, encode_body
from tepbft.core.requests import EXTENSION, body_of, open_body
from tepbft.mempool import Mempool, MempoolOptions
from tepbft.mempool.entry import size_of
from tepbft.mempool.pool import BODY_OVERHEAD_BYTES, BUSY, TOO_LARGE


def request(who: int, seq: int, op: bytes = b"op", session: int = 1, auth: bytes = b"sig") -> Request:
    return Request(bytes([who]) * 16, session, seq, op, auth)


def digest(r: Request) -> bytes:
    return repr((r.client, r.session, r.seq, r.op)).encode()


def key(r: Request) -> tuple[bytes, int, int]:
    return r.client, r.session, r.seq


def admit(pool: Mempool, *requests: Request, now: int = 0) -> list[tuple[int, str]]:
    return pool.admit_many(requests, [digest(r) for r in requests], now)


def register(pool: Mempool, *requests: Request, now: int = 0, name: bytes = b"block") -> None:
    pool.register_block(name, requests, [digest(r) for r in requests], now)


def verified(pool: Mempool, one: Request) -> bool:
    return pool.unverified([one], [digest(one)]) == []


def take(pool: Mempool, count: int = 100, size: int = 1 << 20) -> list[tuple[int, int]]:
    batch = pool.take(count, size)
    assert batch.digests == [digest(r) for r in batch.requests]
    return [(r.client[0], r.seq) for r in batch.requests]


def test_taken_requests_stay_pending_until_executed():
    """A-23, A3.6: timers stop at execution, not when a request is proposed."""
    pool = Mempool(MempoolOptions())
    one = request(1, 1)
    assert admit(pool, one, now=5) == []
    assert admit(pool, one, now=9) == []
    assert take(pool) == [(1, 1)] and take(pool) == []
    assert (len(pool), pool.waiting, pool.oldest_pending_ms()) == (1, 0, 5)
    assert pool.overdue(105, 100) and not pool.overdue(104, 100)
    pool.executed_many([key(one)], 200)
    assert (len(pool), pool.oldest_pending_ms(), pool.overdue(10**9, 0)) == (0, None, False)


def test_taking_is_round_robin_over_clients():
    """A9: a client with many requests does not delay the others; turns continue with the next block."""
    pool = Mempool(MempoolOptions())
    admit(pool, *[request(1, s) for s in range(1, 8)], *[request(2, s) for s in (1, 2)], request(3, 1))
    assert take(pool, 4) == [(1, 1), (2, 1), (3, 1), (1, 2)]
    assert take(pool, 2) == [(2, 2), (1, 3)]
    admit(pool, request(3, 2))
    assert take(pool, 3) == [(1, 4), (3, 2), (1, 5)]


def test_what_fits_into_one_block_is_taken_whole():
    """Nobody waits for another then, so each client's requests stand together, in order."""
    pool = Mempool(MempoolOptions())
    admit(pool, request(1, 1), request(2, 1), request(1, 2), request(2, 2), request(3, 1), request(1, 3))
    pool.executed_many([key(request(2, 1))], 1)
    register(pool, request(1, 2))
    assert take(pool, 4) == [(1, 1), (1, 3), (2, 2), (3, 1)]
    assert pool.waiting == pool.waiting_bytes == 0 and take(pool) == []
    admit(pool, request(2, 3))
    assert take(pool) == [(2, 3)]


def test_a_block_keeps_its_bytes():
    """A-30: `max_bytes` bounds the encoded body; what does not fit comes first next time."""
    pool = Mempool(MempoolOptions())
    asks = [request(who, 1, bytes(200 * who)) for who in range(1, 6)]
    admit(pool, *asks)
    while pool.waiting:
        batch = pool.take(100, 1300)
        assert batch.requests and len(encode_body(batch.requests)) <= 1300
    admit(pool, request(1, 2, bytes(900)), request(2, 2, bytes(900)), request(3, 2, b""))
    assert take(pool, 10, 1100) == [(1, 2)]
    assert take(pool, 10, 1100) == [(2, 2), (3, 2)]


def test_a_request_that_fits_into_no_block_does_not_bar_the_way():
    pool = Mempool(MempoolOptions())
    register(pool, request(1, 1, bytes(900)))
    admit(pool, request(2, 1))
    pool.reset_in_flight([])
    admit(pool, request(3, 1))
    assert take(pool, 1, 500) == [(2, 1)]
    assert take(pool, 10, 500) == [(3, 1)]
    assert len(pool) == 3 and pool.waiting == 0


def test_requests_above_the_bounds_are_not_taken_up():
    """A9, A3.6: quota per client, cap, size; no timer runs for them."""
    pool = Mempool(MempoolOptions(client_quota=2, capacity=4, minimum=4, max_request_bytes=200))
    assert admit(pool, request(1, 1), request(1, 2), request(1, 3)) == [(2, BUSY)]
    assert admit(pool, request(2, 1, bytes(200))) == [(0, TOO_LARGE)]
    assert admit(pool, request(2, 1), request(3, 1), request(4, 1)) == [(2, BUSY)]
    pool.executed_many([key(request(1, 1))], 0)
    assert admit(pool, request(4, 1)) == []
    assert len(pool) == 4


def test_bytes_are_bounded():
    """I-17: operations of the largest size do not exhaust memory."""
    pool = Mempool(MempoolOptions(capacity_bytes=1000))
    assert admit(pool, request(1, 1, bytes(500)), request(1, 2, bytes(500))) == [(1, BUSY)]
    register(pool, request(2, 1, bytes(500)))
    assert len(pool) == 1
    pool.executed_many([key(request(1, 1))], 0)
    assert admit(pool, request(1, 2, bytes(500))) == []


def test_the_limit_follows_what_is_executed():
    """A3.6: the pool holds what the node executes within the budget, so overload ends in BUSY and
    not in view changes; idle time does not shrink it, slow execution does."""
    options = MempoolOptions(client_quota=10**6, minimum=10, capacity=5000, budget_ms=500)
    pool = Mempool(options)
    assert pool.limit == 10
    now, seq = 0, 0
    for _ in range(200):  # 40 requests in 20 ms: 2000 per second
        asks = [request(1, seq + i) for i in range(40)]
        seq += 40
        admit(pool, *asks, now=now)
        now += 20
        pool.executed_many([key(r) for r in asks], now)
    assert 900 <= pool.limit <= 1000
    now += 60_000
    admit(pool, request(1, seq), now=now)
    assert pool.limit >= 900
    pool.executed_many([key(request(1, seq))], now + 10_000)
    assert pool.limit == 10


def test_fast_execution_does_not_lift_the_cap():
    pool = Mempool(MempoolOptions(minimum=2, capacity=3))
    for now in range(0, 5000, 100):
        admit(pool, request(1, now + 1), now=now)
        pool.executed_many([key(request(1, now + 1))] * 10_000, now + 100)
    assert pool.limit == 3


def test_a42_execution_clears_the_number_whatever_its_content():
    """A-42, S-42: the losing operation of a double-signing client leaves no timer behind."""
    pool = Mempool(MempoolOptions())
    mine, other, third = request(1, 1, b"mine"), request(1, 1, b"other"), request(1, 1, b"third")
    assert admit(pool, mine, other, third) == []
    assert len(pool) == 1
    assert verified(pool, mine) and not verified(pool, third)
    pool.executed_many([key(other)], 0)
    assert len(pool) == 0 and not pool.overdue(10**9, 0)
    assert not verified(pool, mine)


def test_a42_a_block_with_the_other_operation_puts_the_number_in_flight():
    pool = Mempool(MempoolOptions())
    admit(pool, request(1, 1, b"mine"))
    register(pool, request(1, 1, b"other"))
    assert take(pool) == []
    pool.executed_block(b"block", [request(1, 1, b"other")], 0)
    assert len(pool) == 0 and pool.oldest_pending_ms() is None


def test_verification_is_remembered_for_exactly_one_authenticator():
    """Another authenticator over the same request has to be verified for itself."""
    pool = Mempool(MempoolOptions())
    admit(pool, request(1, 1, auth=b"good"))
    block = [request(1, 1, auth=b"good"), request(1, 1, auth=b"bad"), request(2, 1)]
    assert pool.unverified(block, [digest(r) for r in block]) == [1, 2]
    assert pool.unverified([request(3, 3)], [b"unknown"]) == [0]


def test_accepted_prepares_register_their_requests_above_the_quota():
    """A3.3: they are pending, with timers, and not proposed again."""
    pool = Mempool(MempoolOptions(client_quota=1, capacity=1, minimum=1, prepared_capacity=6))
    admit(pool, request(1, 1), now=1)
    register(pool, *[request(1, s) for s in range(1, 6)], now=2, name=b"one")
    register(pool, request(3, 1), request(3, 2), now=3, name=b"beyond")  # not tracked: it exceeds the bound
    assert len(pool) == 6 and pool.blocks() == [b"one"]
    assert pool.waiting == 0
    pool.executed_many([key(request(1, 1))], 3)
    assert pool.oldest_pending_ms() == 2
    assert admit(pool, request(2, 1)) == []  # requests of Prepares use up nobody's admission
    pool.executed_block(b"one", [request(1, s) for s in range(1, 6)], 4)
    assert len(pool) == 1 and pool.blocks() == []


def test_a28_a_block_that_comes_to_nothing_leaves_its_requests_behind():
    """A-28, A-71: they are pending by themselves then, since the block was seen; known ones once only."""
    pool = Mempool(MempoolOptions())
    admit(pool, request(1, 2), now=1)
    register(pool, request(1, 1), request(1, 2), now=5, name=b"kept")
    register(pool, request(2, 1), request(2, 2), now=6, name=b"lost")
    pool.reset_in_flight([key(request(1, 1)), key(request(1, 2))], [b"kept"])
    assert pool.blocks() == [b"kept"] and pool.oldest_pending_ms() == 1
    assert verified(pool, request(2, 1))
    assert take(pool) == [(2, 1), (2, 2)]
    pool.unpack([b"kept", b"unknown"])
    assert pool.pending_keys() == [
        key(r) for r in (request(1, 2), request(1, 1), request(2, 1), request(2, 2))
    ]
    assert pool.waiting == 0 and len(pool) == 4


def test_a28_a71_after_a_view_change_the_rest_is_waiting_again():
    """A-28, A-71: what the new view does not propose again returns, by first sight."""
    pool = Mempool(MempoolOptions())
    admit(pool, request(1, 1), request(1, 2), now=1)
    register(pool, request(2, 1), now=2)
    admit(pool, request(1, 3), now=3)
    assert take(pool, 2) == [(1, 1), (1, 2)]
    pool.reset_in_flight([key(request(1, 2))])
    assert pool.oldest_waiting_ms() == 1
    assert take(pool, 2) == [(1, 1), (2, 1)]
    assert take(pool) == [(1, 3)]
    assert pool.oldest_waiting_ms() is None


def test_a44_each_request_is_forwarded_once_per_view():
    """A-44, A3.6: after T_fwd, once; again when another primary is in charge; never while in a block."""
    pool = Mempool(MempoolOptions())
    admit(pool, request(1, 1), request(1, 2), now=0)
    admit(pool, request(1, 3), now=50)
    register(pool, request(1, 2))
    assert [r.seq for r in pool.due_for_forwarding(99, 100)] == []
    assert [r.seq for r in pool.due_for_forwarding(100, 100)] == [1]
    assert [r.seq for r in pool.due_for_forwarding(200, 100)] == [3]
    assert pool.due_for_forwarding(10**6, 100) == []
    pool.reset_in_flight([])
    assert [r.seq for r in pool.due_for_forwarding(10**6, 100)] == [1, 2, 3]


def test_forwarding_is_bounded_per_call():
    pool = Mempool(MempoolOptions())
    admit(pool, *[request(1, s, bytes(100)) for s in range(1, 10)])
    assert [r.seq for r in pool.due_for_forwarding(100, 0, limit=2)] == [1, 2]
    assert [r.seq for r in pool.due_for_forwarding(100, 0, max_bytes=320)] == [3, 4]
    assert [r.seq for r in pool.due_for_forwarding(100, 0, max_bytes=1)] == [5]
    assert [r.seq for r in pool.due_for_forwarding(100, 0)] == [6, 7, 8, 9]


@pytest.mark.parametrize("taking", [True, False])
def test_i17_queues_do_not_outgrow_what_is_pending(taking):
    """I-17: behind one request that never executes, millions may come and go."""
    pool = Mempool(MempoolOptions())
    admit(pool, request(1, 1))
    for seq in range(1, 20_000):
        ask = request(2, seq)
        admit(pool, ask)
        if taking:
            pool.take(10, 1000)
        pool.executed_many([key(ask)], 0)
    assert len(pool) == 1
    assert len(pool._queues._waiting) + len(pool._queues._unforwarded) < 4096
    assert len(pool._queues._pending) < 4096 and len(pool._clients) == 1 and len(pool._round) < 4096


def test_pending_keys_allow_to_drop_what_a_state_transfer_decided():
    pool = Mempool(MempoolOptions())
    admit(pool, request(1, 1), request(1, 2))
    pool.executed_many([k for k in pool.pending_keys() if k[2] == 1], 0)
    assert pool.pending_keys() == [key(request(1, 2))]


def test_the_room_of_a_body_is_estimated_from_above():
    """The overhead per request covers the longest encoding there is."""
    longest = [Request(b"\xff" * 16, 2**63 - 1, 2**63 - 1, bytes(1 << 18), bytes(1024))] * 3
    pool = Mempool(MempoolOptions(max_request_bytes=1 << 20))
    register(pool, *longest)
    pool.reset_in_flight([])
    estimate = pool.waiting_bytes * 3 + BODY_OVERHEAD_BYTES
    assert len(encode_body(longest)) <= estimate


# --- pending together (ADR 0019) --------------------------------------------------------------


def together(pool: Mempool) -> bool:
    """Nothing is set apart."""
    return not pool._entries


def test_what_keeps_together_goes_the_whole_way_without_being_looked_at_singly():
    """Blocks in flight, requests that wait, and more that come: each client's numbers in order."""
    pool = Mempool(MempoolOptions())
    assert admit(pool, request(1, 1), request(1, 2), request(2, 7), now=1) == []
    assert take(pool) == [(1, 1), (1, 2), (2, 7)]
    pool.proposed(b"first")
    assert admit(pool, request(1, 3), request(2, 8), request(1, 4), now=2) == []
    assert admit(pool, request(3, 1), request(1, 5), now=3) == []
    assert (len(pool), pool.waiting, pool.oldest_pending_ms(), pool.oldest_waiting_ms()) == (8, 5, 1, 2)
    assert pool.waiting_bytes == sum(size_of(request(1, 1)) for _ in range(5))
    assert take(pool) == [(1, 3), (2, 8), (1, 4), (3, 1), (1, 5)]
    pool.proposed(b"second")
    pool.executed_block(b"first", [request(1, 1), request(1, 2), request(2, 7)], 4)
    assert (len(pool), pool.waiting, pool.oldest_pending_ms()) == (5, 0, 2)
    assert together(pool)
    pool.executed_block(b"second", [request(1, 3), request(2, 8), request(1, 4), request(3, 1)], 5)
    assert len(pool) == 0 and not pool._clients and pool._bytes == 0


def test_a_block_gives_its_clients_their_quota_back():
    pool = Mempool(MempoolOptions(client_quota=3))
    for name, seq in ((b"first", 1), (b"second", 2)):
        admit(pool, request(1, seq))
        take(pool)
        pool.proposed(name)
    assert admit(pool, request(1, 3), request(1, 4)) == [(1, "busy")]
    pool = Mempool(MempoolOptions(client_quota=3))
    for name, seq in ((b"first", 1), (b"second", 2)):
        admit(pool, request(1, seq))
        take(pool)
        pool.proposed(name)
    pool.executed_block(b"first", [request(1, 1)], 1)
    assert admit(pool, request(1, 3), request(1, 4)) == [] and together(pool)


@pytest.mark.parametrize(
    "again",
    [
        (request(1, 2),),  # a repetition
        (request(1, 2, op=b"other"),),  # another content under a number that is pending
        (request(1, 3), request(1, 3)),  # twice at once
        (request(1, 4), request(1, 3)),  # in another order
        (request(1, 1, session=0),),  # of an older session
    ],
)
def test_what_may_be_pending_already_is_looked_at_by_itself(again):
    """A-42: a number is pending once, whatever comes under it."""
    pool = Mempool(MempoolOptions())
    admit(pool, request(1, 1), request(1, 2))
    assert pool.unverified(again, [digest(one) for one in again]) == [
        index for index, one in enumerate(again) if one != request(1, 2)
    ]
    assert admit(pool, *again) == []
    assert not together(pool)
    numbers = {key(one) for one in (request(1, 1), request(1, 2), *again)}
    assert len(pool) == len(numbers) == pool.waiting
    assert set(pool.pending_keys()) == numbers


def test_a42_a_block_of_another_primary_takes_numbers_from_what_is_together():
    pool = Mempool(MempoolOptions())
    admit(pool, request(1, 1), request(1, 2), request(2, 1))
    take(pool)
    pool.proposed(b"mine")
    pool.executed_block(b"theirs", [request(1, 2, op=b"other"), request(2, 1)], 1)
    assert pool.pending_keys() == [key(request(1, 1))]
    pool.executed_block(b"mine", [request(1, 1), request(1, 2), request(2, 1)], 2)
    assert len(pool) == 0 and not pool._clients and pool._admitted == 0 and pool._bytes == 0


def test_a28_a_number_that_is_together_and_in_a_block_that_comes_to_nothing_is_pending_once():
    pool = Mempool(MempoolOptions())
    register(pool, request(1, 1), request(1, 2), now=1)
    admit(pool, request(1, 2), request(1, 3), now=2)
    assert together(pool) and len(pool) == 4
    pool.unpack([b"block"])
    assert pool.pending_keys() == [key(request(1, 1)), key(request(1, 2)), key(request(1, 3))]
    assert (len(pool), pool.waiting) == (3, 2)
    pool.executed_many(pool.pending_keys(), 3)
    assert len(pool) == 0 and not pool._clients and pool._bytes == 0


def test_a28_what_was_together_in_a_block_waits_again_in_a_new_view():
    pool = Mempool(MempoolOptions())
    admit(pool, request(1, 1), request(2, 1), now=1)
    take(pool)
    pool.proposed(b"mine")
    admit(pool, request(1, 2), now=2)
    pool.reset_in_flight([key(request(2, 1))])
    assert (len(pool), pool.waiting, pool.oldest_waiting_ms()) == (3, 2, 1)
    assert take(pool) == [(1, 1), (1, 2)]


def test_more_than_fits_into_a_block_is_shared_out_fairly():
    pool = Mempool(MempoolOptions())
    admit(pool, *[request(1, seq) for seq in range(1, 6)])
    admit(pool, request(2, 1))
    assert take(pool, 3) == [(1, 1), (2, 1), (1, 2)]
    assert take(pool, 3) == [(1, 3), (1, 4), (1, 5)]


@pytest.mark.skipif(not EXTENSION, reason="the extension does not run on this machine")
def test_requests_in_tables_stay_in_tables():
    """A body that is opened, admitted in parts, and taken again is the same body."""
    chain = bytes(32)
    listed = [request(who, seq) for who in (1, 2) for seq in range(1, 40)]
    body = encode_body(listed)
    opened, digests = open_body(chain, body)
    pool = Mempool(MempoolOptions())
    for at in range(0, len(opened), 16):
        assert pool.admit_many(opened[at : at + 16], digests[at : at + 16], 0) == []
    batch = pool.take(100, 1 << 20)
    assert type(batch.requests) is type(opened) and list(batch.requests) == listed
    assert list(batch.digests) == list(digests) == [digest_of(chain, one) for one in listed]
    assert body_of(batch.requests) == body
    pool.proposed(b"block")
    pool._set_apart()
    assert [entry.request for entry in pool._entries.values()] == listed
