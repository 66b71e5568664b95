"""Findings A-31 to A-36 on checkpoints and garbage collection; scenarios S-46 and S-47."""

from __future__ import annotations

from typing import Any

import pytest

from support.byzantine import A, B, C, block_of, checkpoint, commit, deliver, prepare, put, spy
from support.world import World
from tepbft.core.options import NodeOptions
from tepbft.protocols.tep.messages import Checkpoint, Commit, Message, Prepare
from tepbft.protocols.tep.messages import Stable as StableMessage
from tepbft.trusted.port import COMMIT, AdvanceFloor, Order, SignCheckpoint, Ui


class Noisy:
    """An application that is not deterministic while `noise` is set, for `times` operations."""

    def __init__(self, inner: Any, noise: bytes) -> None:
        self.inner, self.noise, self.times = inner, noise, 1 << 30

    def execute(self, context: Any, operation: bytes) -> bytes:
        if self.noise and self.times > 0:
            self.times -= 1
            context.put(b"noise", self.noise + context.height.to_bytes(8, "big"))
        result: bytes = self.inner.execute(context, operation)
        return result


def make_noisy(world: World, *numbers: int) -> list[Noisy]:
    made = []
    for number in numbers:
        host = world.hosts[number]
        world.crash(number)
        host.application = Noisy(host.application, bytes([number + 1]))
        made.append(host.application)
        world.start(number)
    return made


def work(world: World, count: int, tag: str, wait: int = 20_000) -> None:
    client = world.clients[0]
    for number in range(count):
        requests = client.submit(put(f"{tag}{number}"))
        assert world.run(wait, client.done(requests)), (tag, number, world.executed())


def test_a31_checkpoints_match_on_content_across_views() -> None:
    """A-31: A executed block 1 in view 0; B and C execute it in view 1. Their checkpoints still match."""
    world = World(4)
    cut = lambda s, t, m: not (isinstance(m, Commit) and m.head.view == 0 and t != A)  # noqa: E731
    world.filters.append(cut)
    world.filters.append(lambda s, t, m: not (s == A and world.now > 1050))
    client = world.clients[0]
    requests = client.submit(put("x"))
    world.run(100)
    assert world.executed() == [1, 0, 0, 0]
    assert world.run(20_000, client.done(requests))
    world.filters.clear()
    world.run(2000)
    assert world.agree()
    views = {host.store.block(1).certificate.view for host in world.hosts}  # type: ignore[union-attr]
    assert views == {0, 1}
    assert {host.node.state.stable_height for host in world.alive if host.node} == {1}
    assert not any(world.noticed(number, "diverged") for number in range(4))


def test_a32_execution_is_tentative_until_stable() -> None:
    """A-32: two blocks execute, none is stable: the stored state does not move; a restart executes them
    again to the same headers; stability installs them."""
    world = World(3)
    hold = lambda s, t, m: not isinstance(m, Checkpoint | StableMessage)  # noqa: E731
    world.filters.append(hold)
    work(world, 2, "x")
    node = world.node(B)
    assert node.state.executed == 2 and node.state.stable_height == 0
    head = node.state.head.digest()
    world.crash(B)
    assert world.hosts[B].store.recover().installed == 0
    world.start(B)
    assert world.node(B).state.head.digest() == head
    world.filters.remove(hold)
    world.run(2000)
    assert world.hosts[B].store.recover().installed == 2
    assert world.agree()


def test_a34_evidence_goes_with_stability_and_never_with_a_view_change() -> None:
    """A-34, I-16: what is above the stable height survives leaving, entering and the next leaving."""
    world = World(3, checkpoint_interval=8)
    world.filters.append(lambda s, t, m: not isinstance(m, Checkpoint))
    work(world, 3, "x")
    before = {h: dict(slot.prepares) for h, slot in world.node(B).state.slots.items()}
    assert sorted(before) == [1, 2, 3]
    world.crash(A)
    work(world, 1, "y")
    state = world.node(B).state
    assert state.view == 1 and state.stable_height == 0
    for height in (1, 2, 3):
        assert state.slots[height].prepares[1].digest == before[height][0].digest
        assert state.slots[height].bodies
    world.filters.clear()
    work(world, 4, "z")
    assert world.run(2000, lambda: state.stable_height == 8)
    assert all(height > 8 for height in state.slots)
    assert all(height > 8 for height in state.checkpoints)


def test_a35_s46_a_replica_that_computed_something_else_stops_voting_and_heals() -> None:
    """A-35, S-46: nondeterminism on one replica, for a while: diverged, then healed by executing the
    agreed blocks anew; votes again afterwards."""
    world = World(3)
    make_noisy(world, C)[0].times = 1
    work(world, 1, "x")
    world.run(30)
    assert world.noticed(C, "diverged")
    assert world.run(3000, lambda: bool(world.noticed(C, "healed")))
    work(world, 2, "y")
    world.run(1000)
    assert world.agree() and world.node(C).replica.phase() == "active"
    world.crash(B)  # from now on C's votes are needed
    work(world, 25, "z")
    world.check_prefixes()


def test_a35_a_diverged_replica_signs_nothing() -> None:
    """A-35: neither votes, nor checkpoints, nor departures, for as long as it is diverged."""
    world = World(3)
    make_noisy(world, C)
    work(world, 1, "x")
    world.run(30)
    assert world.noticed(C, "diverged")
    mark = len(world.hosts[C].statements)
    work(world, 3, "y", wait=2000)
    later = world.hosts[C].statements[mark:]
    assert all(isinstance(request, AdvanceFloor) for request, _ in later)
    assert "execution differs" in world.node(C).status(world.now).verdict


def test_a35_what_was_proposed_while_it_was_diverged_gets_its_vote_afterwards() -> None:
    """A-35: n = 3 and B is gone, so block 2 needs C's vote, and C is diverged when the proposal comes. Once
    healed it votes, in the same view."""
    options = NodeOptions(max_wait_ms=0, t_request_ms=30_000)
    world = World(3, window=4, snapshot_interval=1, options=options)
    make_noisy(world, C)[0].times = 2
    work(world, 1, "x")
    world.run(30)
    assert world.node(C).replica.phase() == "diverged"
    world.crash(B)
    client = world.clients[0]
    requests = client.submit(put("y"), to=[A, C])
    world.run(100)
    assert world.node(C).replica.phase() == "diverged" and world.executed(A) == [1]
    assert world.run(8000, client.done(requests))
    assert world.noticed(C, "state_transferred") and world.node(A).state.view == 0


def test_a35_a_replica_that_diverges_again_takes_a_snapshot() -> None:
    """A-35, S-46: re-execution gives the wrong result again; only the agreed state helps, and it comes
    from a peer. The window has moved by more than BL meanwhile, and still its votes count afterwards."""
    world = World(3, window=4, snapshot_interval=4, keep_blocks=1024)
    noisy = make_noisy(world, C)[0]
    work(world, 30, "x")
    assert world.noticed(C, "diverged")
    noisy.noise = b""
    assert world.run(20_000, lambda: world.agree() and world.node(C).replica.phase() == "active")
    assert world.noticed(C, "state_transferred")
    world.crash(B)
    work(world, 9, "y")
    world.check_prefixes()


def test_a35_a_diverged_replica_that_is_restarted_comes_back() -> None:
    """A-35: a person restarts the odd one out, which is what people do. It must not refuse to start because
    the agreed blocks now execute to the agreed result."""
    world = World(3)
    noisy = make_noisy(world, C)[0]
    work(world, 1, "x")
    world.run(30)
    assert world.noticed(C, "diverged")
    world.crash(C)
    noisy.noise = b""
    world.start(C)
    work(world, 2, "y")
    world.run(3000)
    assert world.agree()
    world.check_prefixes()


@pytest.mark.parametrize("n", [3, 5])
def test_s46_nondeterminism_everywhere_halts_with_an_alarm(n: int) -> None:
    """S-46: no checkpoint is stable, every node raises the alarm, no client accepts a result that only one
    node computed, once replies wait for stability."""
    world = World(n, reply_after="stable", options=NodeOptions(max_wait_ms=0, t_max_ms=2000))
    make_noisy(world, *range(n))
    client = world.clients[0]
    requests = client.submit(put("x"))
    world.run(4000)
    assert all(host.node.state.stable_height == 0 for host in world.alive if host.node)
    for number in range(n):
        assert any(found["what"] == "executions differ" for found in world.noticed(number, "alarm"))
    assert client.outcome(requests[0]) is None


@pytest.mark.parametrize("k", [1, 8])
def test_a36_checkpoints_every_k_blocks(k: int) -> None:
    """A-36: n(n-1) CHECKPOINTs per K blocks, and stability moves in steps of K."""
    n = 4
    world = World(n, checkpoint_interval=k, block_requests=1)
    sent = spy(world)
    work(world, 16, "x")
    world.run(100)
    assert world.executed() == [16] * n
    assert {host.node.state.stable_height for host in world.alive if host.node} == {16}
    made = [m for _, _, m in sent if isinstance(m, Checkpoint)]
    assert {m.height for m in made} == set(range(k, 17, k))
    assert len(made) == n * (n - 1) * 16 // k
    signed = [r.height for r, a in world.hosts[A].statements if isinstance(r, SignCheckpoint)]
    assert signed == list(range(k, 17, k))


def test_a36_blocks_above_the_last_checkpoint_survive_a_view_change() -> None:
    """A-36: with K = 8, five blocks are executed and not stable; a view change proposes them again."""
    world = World(5, checkpoint_interval=8)
    world.filters.append(lambda s, t, m: not isinstance(m, Checkpoint))
    work(world, 5, "x")
    heads = {host.store.block(5).header.digest() for host in world.hosts}  # type: ignore[union-attr]
    world.crash(A)
    work(world, 1, "y")
    certificate = world.node(B).state.certificate
    assert certificate is not None and (certificate.base, certificate.top) == (0, 5)
    assert heads == {world.hosts[C].store.block(5).header.digest()}  # type: ignore[union-attr]
    world.start(A)
    world.run(2000)
    assert world.agree()


def test_s47_null_blocks_duplicates_and_reproposals_give_identical_headers() -> None:
    """S-47: a gap filled by NULL, a block that three views propose, a block with nothing but duplicates."""
    world = World(5, checkpoint_interval=8)
    client = world.clients[0]
    work(world, 1, "x")
    first = client.make(put("same"))
    again = prepare_blocks(world, first)
    for proposal in again:
        for to in (B, C, 3, 4):
            world.post(A, to, proposal)
    world.crash(A)

    def no_commits_below_three(sender: int, to: int, message: Message) -> bool:
        return not (isinstance(message, Commit) and message.head.view < 3 and message.head.height > 1)

    world.filters.append(no_commits_below_three)
    assert world.run(60_000, lambda: min(world.executed()) >= 4)
    world.filters.clear()
    work(world, 2, "y")
    world.start(A)
    world.run(3000)
    assert world.agree()
    world.check_prefixes()
    kinds = [world.hosts[B].store.block(h).block.kind for h in range(1, 6)]  # type: ignore[union-attr]
    assert kinds == [0, 1, 0, 0, 1] or kinds == [0, 1, 0, 0, 0]
    views = {world.hosts[B].store.block(h).certificate.view for h in (3, 4)}  # type: ignore[union-attr]
    assert min(views) >= 3
    digests = [p.head.digest for p in again]
    assert [world.hosts[C].store.block(h).certificate.digest for h in (3, 4)] == digests  # type: ignore[union-attr]


def prepare_blocks(world: World, first: Any) -> list[Prepare]:
    """A proposes heights 3 and 4 with the same request, and leaves a hole at 2."""
    one = prepare(world, A, 0, block_of(world, 3, first))
    two = prepare(world, A, 0, block_of(world, 4, first))
    return [one, two]


def test_s18_votes_of_diverged_and_correct_replicas_do_not_mix() -> None:
    """I-15: two different hashes at one height never add up to a certificate."""
    world = World(5)
    for number in (A, B):
        world.crash(number)
    world.filters.append(lambda s, t, m: False)
    deliver(world, A, C, checkpoint(world, A, 1, b"1" * 32))
    deliver(world, B, C, checkpoint(world, B, 1, b"2" * 32))
    deliver(world, 3, C, checkpoint(world, 3, 1, b"3" * 32))
    state = world.node(C).state
    assert state.stable_height == 0
    assert [len(v) for v in state.checkpoints[1].values()] == [1, 1, 1]
    twice = checkpoint(world, A, 1, b"1" * 32)
    for _ in range(3):
        deliver(world, A, C, twice)
    assert state.stable_height == 0


def test_i10_a_voter_holds_the_body_until_stability() -> None:
    """I-10: what was voted for can be served, from memory and after a restart."""
    world = World(3)
    world.crash(A)
    world.filters.append(lambda s, t, m: False)
    proposal = prepare(world, A, 0, block_of(world, 1, world.clients[0].make(put("x"))))
    deliver(world, A, B, proposal)
    votes = [r for r, a in world.hosts[B].statements if isinstance(r, Order) and isinstance(a, Ui)]
    assert [vote.kind for vote in votes] == [COMMIT]
    world.crash(B)
    world.start(B)
    assert world.node(B).state.body(1, proposal.head.digest) == proposal.block
    again = [r for r, a in world.hosts[B].statements if isinstance(r, Order) and isinstance(a, Ui)]
    assert {(r.height, r.digest) for r in again} == {(1, proposal.head.digest)}
    assert commit(world, C, proposal).head == proposal.head
