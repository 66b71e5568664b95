"""The fidelity switches of A11, the message counts of B8, and the configuration BL = 1, K = 1."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from support.byzantine import A, B, C, put, spy
from support.world import World
from tepbft.core.options import NodeOptions
from tepbft.protocols.tep.messages import Checkpoint, Commit, Message, Prepare, Status

# One request at a time, no timer in reach: nothing is sent twice. STATUS is no part of B8.
QUIET = NodeOptions(
    max_wait_ms=0, t_request_ms=60_000, t_view_change_ms=60_000, t_status_ms=100_000, t_retransmit_ms=100_000
)


def run_one(n: int, crashed: int, **parameters: Any) -> tuple[Counter[str], int]:
    """Messages on the wire for one request of batch 1 that was sent to the primary only, and replies."""
    world = World(n, options=QUIET, **parameters)
    for number in range(n - crashed, n):
        world.crash(number)
    sent = spy(world)
    client = world.clients[0]
    # Every replica is told where the client listens without the request counting again.
    request = client.make(put("x"))
    replied = {"count": 0}
    heard = client.heard

    def count(node: int, height: int, receipts: Any) -> None:
        replied["count"] += len(receipts)
        heard(node, height, receipts)

    client.heard = count  # type: ignore[method-assign]
    client.send([request], to=[A])
    world.run(500)
    assert all(host.node.state.executed == 1 for host in world.alive if host.node)
    return Counter(type(m).__name__ for _, _, m in sent if not isinstance(m, Status)), replied["count"]


def total(counts: Counter[str], live: int) -> int:
    """Convention N: the request, all protocol messages, one reply of each live replica."""
    return 1 + sum(counts.values()) + live


def without(counts: Counter[str], *names: str) -> Counter[str]:
    return Counter({name: count for name, count in counts.items() if name not in names})


@pytest.mark.parametrize(("f", "expected"), [(1, 10), (2, 26), (3, 50)])
def test_b8_ordering_with_the_primarys_vote_implied(f: int, expected: int) -> None:
    """I-29: 4f^2 + 4f + 2, counted without checkpoints."""
    counts, _ = run_one(2 * f + 1, 0)
    assert total(without(counts, "Checkpoint"), 2 * f + 1) == expected == 4 * f * f + 4 * f + 2


@pytest.mark.parametrize(("f", "expected"), [(1, 7), (2, 16), (3, 29)])
def test_b8_ordering_with_f_crashed_backups(f: int, expected: int) -> None:
    """I-29, A-14: 2f^2 + 3f + 2."""
    counts, _ = run_one(2 * f + 1, f)
    assert total(without(counts, "Checkpoint"), f + 1) == expected == 2 * f * f + 3 * f + 2


@pytest.mark.parametrize(("f", "free", "crashed"), [(1, 12, 9), (2, 30, 20), (3, 56, 35)])
def test_b8_ordering_with_an_explicit_commit_of_the_primary(f: int, free: int, crashed: int) -> None:
    """B8 (i): the paper's 2f^2 + 5f + 2 is what the network counts with f crashed backups, an explicit
    primary Commit and no checkpoints; fault-free it is 4f^2 + 6f + 2."""
    n = 2 * f + 1
    counts, _ = run_one(n, 0, primary_explicit_commit=True)
    assert total(without(counts, "Checkpoint"), n) == free == 4 * f * f + 6 * f + 2
    counts, _ = run_one(n, f, primary_explicit_commit=True)
    assert total(without(counts, "Checkpoint"), f + 1) == crashed == 2 * f * f + 5 * f + 2


@pytest.mark.parametrize(("f", "free", "crashed"), [(1, 16, 11), (2, 46, 28), (3, 92, 53)])
def test_b8_with_a_checkpoint_per_block(f: int, free: int, crashed: int) -> None:
    """A-36, A-68: 8f^2 + 6f + 2 fault-free, 4f^2 + 5f + 2 with f crashed backups."""
    n = 2 * f + 1
    counts, _ = run_one(n, 0)
    assert total(counts, n) == free == 8 * f * f + 6 * f + 2
    counts, _ = run_one(n, f)
    assert total(counts, f + 1) == crashed == 4 * f * f + 5 * f + 2


@pytest.mark.parametrize("n", [3, 4, 5, 7])
def test_b8_parts(n: int) -> None:
    """Per block: n-1 PREPAREs, (n-1)^2 COMMITs, n(n-1) CHECKPOINTs, and nothing else."""
    counts, replies = run_one(n, 0)
    assert counts == {"Prepare": n - 1, "Commit": (n - 1) ** 2, "Checkpoint": n * (n - 1)}
    assert replies == 1  # the client was connected to the primary only


@pytest.mark.parametrize("n", [3, 5, 7])
def test_i29_a_view_change_costs_what_it_may(n: int) -> None:
    """I-29: at most n(n-1) REQ-VCs, VIEW-CHANGEs and NV-ACKs, n-1 NEW-VIEWs, for one view change."""
    options = NodeOptions(max_wait_ms=0, t_request_ms=500, t_view_change_ms=60_000, t_retransmit_ms=30_000)
    world = World(n, options=options)
    sent = spy(world)
    world.crash(A)
    client = world.clients[0]
    requests = client.submit(put("x"))
    assert world.run(5000, client.done(requests))
    counts = Counter(type(m).__name__ for _, _, m in sent)
    live = n - 1
    assert counts["ReqVc"] <= live * (n - 1)
    assert counts["ViewChange"] == live * (n - 1)
    assert counts["NewView"] == n - 1
    assert counts["NvAck"] <= live * (n - 1)


# --- switches ---------------------------------------------------------------------------------


def test_reply_after_stable_waits_for_the_checkpoint() -> None:
    """A11 `reply_after`: executed is not enough; the reply is the same."""
    for when, expected in (("execute", True), ("stable", False)):
        world = World(3, reply_after=when)
        client = world.clients[0]
        hold = lambda s, t, m: not isinstance(m, Checkpoint)  # noqa: E731
        world.filters.append(hold)
        requests = client.submit(put("x"))
        assert world.run(300, client.done(requests)) == expected
        world.run(20)
        assert world.executed() == [1, 1, 1]
        world.filters.remove(hold)
        assert world.run(3000, client.done(requests))
        found = client.outcome(requests[0])
        assert found is not None and found[0] == 1 and found[1].status == 0


def test_strict_sequential_orders_the_same_blocks() -> None:
    """A11, A-15: on or off, all requests execute and all agree."""
    world = World(4, strict_sequential=True, block_requests=1, window=8)
    sent = spy(world)
    client = world.clients[0]
    requests = client.submit(*[put(f"k{i}") for i in range(20)])
    assert world.run(5000, client.done(requests))
    world.run(500)
    assert world.agree()
    for number in (B, C):
        heights = [m.head.height for s, t, m in sent if isinstance(m, Commit) and s == number and t == A]
        assert heights == sorted(heights)


@pytest.mark.parametrize("carries", [False, True])
def test_commit_carries_block_makes_fetching_unnecessary(carries: bool) -> None:
    """A11, A-04: with the body in the COMMIT a backup that missed the PREPARE needs no fetch."""
    world = World(4, commit_carries_block=carries)
    sent = spy(world)
    world.filters.append(lambda s, t, m: not (isinstance(m, Prepare) and t == C))
    client = world.clients[0]
    requests = client.submit(put("x"))
    assert world.run(500, client.done(requests))
    world.run(100)
    assert world.executed() == [1] * 4
    fetched = any(type(m).__name__ == "FetchBody" for _, _, m in sent)
    assert fetched == (not carries)
    assert all(
        (m.block is not None) == carries for _, _, m in sent if isinstance(m, Commit) and m.sender == B
    )


def test_primary_explicit_commit_is_counted_once() -> None:
    """A11, A-14: the redundant message is on the wire and changes no quorum."""
    world = World(5, primary_explicit_commit=True)
    sent = spy(world)
    world.filters.append(lambda s, t, m: not (isinstance(m, Commit) and s != A))
    world.clients[0].submit(put("x"))
    world.run(200)
    assert any(isinstance(m, Commit) and m.sender == A for _, _, m in sent)
    assert world.executed() == [0] * 5
    slot = world.node(B).state.slots[1]
    assert [sorted(voters) for voters in slot.votes.values()] == [[A, B]]
    assert not world.noticed(B, "peer_fault")


# --- BL = 1, K = 1 ----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 4, 5])
def test_bl_1_k_1_is_the_sequential_protocol(n: int) -> None:
    """A11: the regression configuration: one block at a time, each stable before the next is proposed."""
    world = World(n, window=1, checkpoint_interval=1, block_requests=2)
    client = world.clients[0]
    highest = {"gap": 0}

    def watch(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, Prepare):
            state = world.node(sender).state
            highest["gap"] = max(highest["gap"], message.head.height - state.stable_height)
        return True

    world.filters.append(watch)
    begin = world.now
    requests = client.submit(*[put(f"k{i}") for i in range(20)])
    assert world.run(5000, client.done(requests))
    assert highest["gap"] <= 1
    assert world.now - begin < 400  # ten blocks without a single retransmission timeout
    world.crash(A)
    requests = client.submit(*[put(f"j{i}") for i in range(10)])
    assert world.run(10_000, client.done(requests))
    world.start(A)
    world.run(3000)
    assert world.agree()
    world.check_prefixes()


def test_bl_1_with_delays_of_different_links_waits_for_no_timeout() -> None:
    """A-21: a fast link brings the next PREPARE before the CHECKPOINTs of a slow one: it is kept, and used
    as soon as the window has moved."""
    world = World(3, window=1)
    world.delay_ms = lambda s, t, m: 30 if isinstance(m, Checkpoint) and t == B else 1
    sent = spy(world)
    client = world.clients[0]
    requests = client.submit(put("a"))
    world.run(5)
    requests += client.submit(put("b"))
    assert world.run(300, lambda: world.executed() == [2, 2, 2])
    assert len([m for s, t, m in sent if isinstance(m, Prepare) and t == B and m.head.height == 2]) == 1
