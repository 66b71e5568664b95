"""Findings about execution, clients and the pool (A-24 to A-45, A-58, A-71; S-41 to S-47), each as a test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tepbft.core.block import (
    CONFLICT,
    DUPLICATE,
    NORMAL,
    OK,
    OUT_OF_WINDOW,
    REFUSED,
    STALE,
    Block,
    Request,
    digest_of,
    encode_body,
    genesis_header,
    null_block,
)
from tepbft.execution.executor import Executed, Executor
from tepbft.execution.port import Context, OperationRefused
from tepbft.execution.snapshot import decode_chunk
from tepbft.mempool import Mempool, MempoolOptions
from tepbft.seal import Sealer, Sealing
from tepbft.storage.port import StateWrites

CHAIN = b"\x11" * 32
WINDOW = 8
ALICE, BOB = b"A" * 16, b"B" * 16


class Counter:
    """`+name` counts, `-name` counts and then refuses, `?` asks for time and seed."""

    def execute(self, context: Context, operation: bytes) -> bytes:
        name = operation[1:]
        if operation == b"?":
            return b"%d " % context.timestamp_ms + context.seed
        count = b"%d" % (int(context.get(name) or b"0") + 1)
        context.put(name, count)
        if operation.startswith(b"-"):
            raise OperationRefused("refused")
        return count


class Disk:
    """The installed state."""

    def __init__(self) -> None:
        self.state: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.state.get(key)

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        return iter(sorted((k, v) for k, v in self.state.items() if start <= k < end))

    def install(self, layers: Sequence[StateWrites]) -> None:
        for layer in layers:
            for key, value in layer.writes.items():
                if value is None:
                    self.state.pop(key, None)
                else:
                    self.state[key] = value


class Replica:
    """An executor and its disk."""

    def __init__(self, application: object | None = None, snapshot_interval: int = 1000) -> None:
        self.disk = Disk()
        self.executor = Executor(
            chain_id=CHAIN,
            application=application or Counter(),  # type: ignore[arg-type]
            reader=self.disk,
            header=genesis_header(CHAIN, 0),
            client_window=WINDOW,
            snapshot_interval=snapshot_interval,
        )

    def run(self, requests: Sequence[Request], ts: int = 0) -> Executed:
        body = encode_body(list(requests))
        return self.run_block(Block(0, self.executor.height + 1, NORMAL, ts, len(requests), body), requests)

    def run_block(self, block: Block, requests: Sequence[Request] = ()) -> Executed:
        digests = [digest_of(CHAIN, r) for r in requests]
        return self.executor.execute(block, block.digest(CHAIN), requests, digests)

    def install(self, height: int | None = None) -> None:
        self.disk.install(self.executor.install(self.executor.height if height is None else height))
        self.executor.settle()

    def value(self, name: bytes) -> bytes | None:
        return self.executor.get(b"a" + name)


def ask(seq: int, op: bytes = b"+n", client: bytes = ALICE, session: int = 1) -> Request:
    return Request(client, session, seq, op, b"")


def statuses(executed: Executed) -> list[int]:
    return [receipt.status for receipt in executed.receipts]


# --- blocks -----------------------------------------------------------------------------------


def test_a24_one_operation_in_two_blocks_takes_effect_once():
    """A-24: two heights may hold the same request; the second is skipped and answered from the first."""
    replica = Replica()
    first = replica.run([ask(1)])
    second = replica.run([ask(1), ask(2)])
    assert statuses(second) == [DUPLICATE, OK]
    assert second.replies[0] == (1, first.receipts[0])
    assert replica.value(b"n") == b"2"


def test_a25_what_depends_on_state_is_an_outcome_not_a_fault_of_the_block():
    """A-25: a refused operation leaves no trace but its receipt, and its number is used up."""
    replica = Replica()
    assert statuses(replica.run([ask(1, b"-n"), ask(1, b"-n"), ask(2)])) == [REFUSED, DUPLICATE, OK]
    assert replica.value(b"n") == b"1"


def test_a26_time_and_randomness_are_agreed():
    """A-26: two replicas answer alike; time does not go back when a later view proposes older blocks."""
    one, two = Replica(), Replica()
    for ts in (100, 40, 120):
        a, b = (r.run([ask(r.executor.height + 1, b"?")], ts) for r in (one, two))
        assert a == b
        assert a.header.ts >= 100
    assert one.run([ask(4, b"?")], 0).receipts[0].result.startswith(b"120 ")


def test_a27_s47_a_block_keeps_its_name_when_null_blocks_come_below_it():
    """A-27, S-47: the digest has no parent; only executed headers are chained."""
    requests = [ask(1)]
    block = Block(0, 2, NORMAL, 5, 1, encode_body(requests))
    below = (null_block(0, 1), Block(0, 1, NORMAL, 0, 0, b"\x90"))
    headers = []
    for first in below:
        replica = Replica()
        replica.run_block(first)
        headers.append(replica.run_block(block, requests).header)
    assert headers[0].block_digest == headers[1].block_digest
    assert headers[0].parent != headers[1].parent
    assert headers[0].state_root == headers[1].state_root


def test_s47_null_and_duplicate_only_blocks_give_identical_headers_everywhere():
    """S-47: one replica executed the original in this process, one restarted in between."""
    one, two = Replica(), Replica()
    requests = [ask(1), ask(2)]
    blocks = [
        (Block(0, 1, NORMAL, 7, 2, encode_body(requests)), requests),
        (null_block(0, 2), []),
        (Block(0, 3, NORMAL, 7, 2, encode_body(requests)), requests),
        (null_block(0, 4), []),
    ]
    for block, content in blocks:
        a = one.run_block(block, content)
        two.executor.restore(two.executor.head)
        b = two.run_block(block, content)
        two.install()
        assert a == b
    assert one.executor.head.state_root != genesis_header(CHAIN, 0).state_root
    assert a.header.ts == 7


def test_a32_a58_execution_after_a_crash_repeats_itself():
    """A-32, A-58, I-11: what was tentative is executed again, with identical headers."""
    replica, headers = Replica(), []
    for seq in range(1, 7):
        headers.append(replica.run([ask(seq), ask(seq, client=BOB)]).header)
    replica.install(3)
    survivor = Replica()
    survivor.disk.state = dict(replica.disk.state)
    survivor.executor.restore(headers[2])
    for seq in range(4, 7):
        assert survivor.run([ask(seq), ask(seq, client=BOB)]).header == headers[seq - 1]
    assert survivor.value(b"n") == b"12"


# --- the client table -------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3])))
def test_a39_ce6_no_pipelined_request_is_lost(order):
    """A-39, CE6: whatever order the network or the primary makes of pipelined requests, all execute."""
    replica = Replica()
    for seq in order:
        assert statuses(replica.run([ask(seq, b"+%d" % seq)])) == [OK]
    assert [replica.value(b"%d" % seq) for seq in (1, 2, 3)] == [b"1"] * 3


@settings(deadline=None)
@given(st.permutations(list(range(1, WINDOW + 1)) * 2), st.integers(1, 6))
def test_i12_s41_every_interleaving_of_retransmissions_executes_exactly_once(order, size):
    """I-12, S-41: a full window, each request ordered twice, in any order and any batching."""
    replica = Replica()
    replies: dict[int, set[tuple[int, bytes]]] = {}
    for start in range(0, len(order), size):
        executed = replica.run([ask(seq, b"+%d" % seq) for seq in order[start : start + size]])
        for height, receipt in executed.replies:
            replies.setdefault(receipt.seq, set()).add((height, receipt.digest()))
        if start % 2:
            replica.install()
    assert all(replica.value(b"%d" % seq) == b"1" for seq in range(1, WINDOW + 1))
    assert all(len(told) == 1 for told in replies.values())


def test_s41_gaps_and_the_edge_of_the_window():
    """S-41: the window moves over the contiguous prefix only, and reopens once the gap is filled."""
    replica = Replica()
    assert statuses(replica.run([ask(s) for s in range(2, WINDOW + 2)])) == [OK] * (WINDOW - 1) + [
        OUT_OF_WINDOW
    ]
    assert statuses(replica.run([ask(1), ask(WINDOW + 1), ask(2 * WINDOW + 2)])) == [OK, OK, OUT_OF_WINDOW]
    assert statuses(replica.run([ask(2 * WINDOW + 1)])) == [OK]


def test_a37_s44_replies_come_out_of_a_transferred_table():
    """A-37, A-33, S-44: after garbage collection and state transfer a retransmission gets its reply."""
    origin = Replica(snapshot_interval=2)
    first = origin.run([ask(1), ask(3)])
    snapshot = origin.run([ask(1, client=BOB)])
    receiver = Replica(snapshot_interval=2)
    assert snapshot.snapshot is not None
    receiver.disk.state = dict(pair for chunk in snapshot.snapshot for pair in decode_chunk(chunk))
    receiver.executor.restore(snapshot.header)
    assert receiver.executor.outcome(ALICE, 1, 3) == (1, first.receipts[1])
    again = receiver.run([ask(3), ask(2), ask(1)])
    assert statuses(again) == [DUPLICATE, OK, DUPLICATE]
    assert again == origin.run([ask(3), ask(2), ask(1)])


def test_a40_reception_decides_nothing():
    """A-40: replicas that heard of different requests execute a block alike."""
    one, two = Replica(), Replica()
    for seq in (1, 5, 99):
        one_more = ask(seq)
        two.executor.classify(one_more.client, 1, seq, digest_of(CHAIN, one_more))
    assert one.run([ask(5), ask(1)]) == two.run([ask(5), ask(1)])


def test_a41_s43_a_restarted_client_begins_a_new_session():
    """A-41, S-43: numbers start over; what is left of the old session is stale, also in one block."""
    replica = Replica()
    replica.run([ask(1), ask(2)])
    executed = replica.run([ask(3), ask(1, session=2), ask(4), ask(2, session=2)])
    assert statuses(executed) == [OK, OK, STALE, OK]
    assert replica.executor.outcome(ALICE, 1, 3) is None


def test_a42_s42_two_operations_under_one_number():
    """A-42, S-42: the ordered one wins; the other is a conflict; both leave every pool, so that no
    timer of the loser runs on and deposes a correct primary."""
    mine, other = ask(1, b"+mine"), ask(1, b"+other")
    replicas, pools = [Replica(), Replica()], [Mempool(MempoolOptions()) for _ in range(2)]
    for pool, request in zip(pools, (mine, other), strict=True):
        pool.admit_many([request], [digest_of(CHAIN, request)], 0)
    for replica, pool in zip(replicas, pools, strict=True):
        replica.run([mine])
        pool.executed_many([(ALICE, 1, 1)], 1)
        assert not pool.overdue(10**9, 1)
    late = [replica.run([other]) for replica in replicas]
    assert late[0] == late[1]
    assert statuses(late[0]) == [CONFLICT]
    assert late[0].replies == [(2, late[0].receipts[0])]
    assert replicas[0].value(b"other") is None


def test_s46_a_replica_with_a_wrong_state_goes_back_and_on():
    """S-46, A-35: one replica computes something else once; its header gives it away; after going back
    to the installed state it executes like the others."""

    class Unsteady(Counter):
        wrong = True

        def execute(self, context: Context, operation: bytes) -> bytes:
            if self.wrong and operation == b"+b":
                context.put(b"extra", b"1")
            return super().execute(context, operation)

    healthy, faulty = Replica(), Replica(Unsteady())
    blocks = [[ask(1, b"+a")], [ask(2, b"+b")], [ask(3, b"+c")]]
    right = [healthy.run(block).header for block in blocks]
    assert faulty.run(blocks[0]).header == right[0]
    faulty.install()
    assert faulty.run(blocks[1]).header != right[1]
    faulty.run(blocks[2])
    faulty.executor.rollback(right[0])
    Unsteady.wrong = False
    assert [faulty.run(block).header for block in blocks[1:]] == right[1:]
    assert faulty.value(b"extra") is None


# --- pool and sealer --------------------------------------------------------------------------


def admit(pool: Mempool, requests: Sequence[Request], now_ms: int = 0) -> list[tuple[int, str]]:
    return pool.admit_many(requests, [digest_of(CHAIN, r) for r in requests], now_ms)


def test_a28_blocks_under_way_share_no_request():
    """A-28: parallel sealing does not pack a request twice."""
    pool = Mempool(MempoolOptions())
    admit(pool, [ask(seq) for seq in range(1, 21)])
    taken = [pool.take(6, 1 << 20) for _ in range(5)]
    numbers = [request.seq for batch in taken for request in batch.requests]
    assert sorted(numbers) == list(range(1, 21))


def test_a71_requests_of_vanished_blocks_are_batched_anew():
    """A-71: a backup knows requests from Prepares alone; when their block has no evidence, the next
    primary proposes them; those proposed again are left alone."""
    backup = Mempool(MempoolOptions())
    blocks = [[ask(1), ask(2)], [ask(3)], [ask(1, client=BOB)]]
    for now, block in enumerate(blocks):
        backup.register_block(b"%d" % now, block, [digest_of(CHAIN, r) for r in block], now)
    assert backup.take(10, 1 << 20).requests == []
    backup.reset_in_flight([(r.client, r.session, r.seq) for r in blocks[1]], [b"1"])
    assert {(r.client, r.seq) for r in backup.take(10, 1 << 20).requests} == {
        (ALICE, 1),
        (ALICE, 2),
        (BOB, 1),
    }


def test_a23_an_accepted_request_keeps_its_timer_until_it_executes():
    """A-23, CE4: being proposed, even being agreed above a hole, stops no timer."""
    backup = Mempool(MempoolOptions())
    admit(backup, [ask(1)], now_ms=10)
    backup.register_block(b"block", [ask(1), ask(2)], [digest_of(CHAIN, ask(s)) for s in (1, 2)], 500)
    assert backup.overdue(1010, 1000)
    backup.executed_many([(ALICE, 1, 1)], 1010)
    assert not backup.overdue(1499, 1000) and backup.overdue(1500, 1000)


def test_a44_a_request_known_to_one_backup_only_is_forwarded_not_complained_about():
    """A-44: at T_fwd it goes to the primary, well before its deadline."""
    backup, primary = Mempool(MempoolOptions()), Mempool(MempoolOptions())
    admit(backup, [ask(1)])
    forwarded = backup.due_for_forwarding(500, 500)
    assert not backup.overdue(500, 1000)
    admit(primary, forwarded, 501)
    assert primary.take(1, 1 << 20).requests == [ask(1)]


def test_a30_s42_one_client_cannot_fill_the_pool():
    """A-30, S-42, I-17: quota and cap hold against floods of numbers and sessions."""
    pool = Mempool(MempoolOptions(client_quota=10, capacity=30, minimum=30))
    flood = [ask(seq, session=session) for session in range(20) for seq in range(1, 20)]
    assert len(admit(pool, flood)) == len(flood) - 10
    assert admit(pool, [ask(1, client=BOB)]) == []


def test_overload_is_answered_with_busy_and_starts_no_timer():
    """A3.6: what is not admitted is nobody's deadline."""
    pool = Mempool(MempoolOptions(client_quota=10**6, minimum=512, capacity=4096))
    refused = admit(pool, [ask(seq) for seq in range(1, 2000)])
    assert [code for _, code in refused] == ["busy"] * (1999 - 512)
    pool.executed_many(pool.pending_keys(), 400)
    assert not pool.overdue(10**9, 1)


def test_a16_the_primary_stays_inside_the_window():
    """A-16, I-18: BL blocks above stable, no more, whatever waits."""
    sealer = Sealer(block_requests=1, block_bytes=1, window=4, in_flight_limit=100, max_wait_ms=0)
    stable, height, proposed = 10, 11, []
    while sealer.should_seal(Sealing(99, 50, 5000, 0, len(proposed), height, stable)):
        proposed.append(height)
        height += 1
    assert proposed == [11, 12, 13, 14]
