"""Findings A-46 to A-64 and A-71 on the view change; scenarios S-9, S-10, S-12, S-19, S-28, S-29."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest

from support.byzantine import (
    A,
    B,
    C,
    D,
    E,
    acknowledge,
    block_of,
    deliver,
    faults,
    floor,
    new_view,
    new_view_certificate,
    prepare,
    put,
    req_vc,
    spy,
    trigger,
    view_change,
)
from support.world import World
from tepbft.core.block import NULL, Block
from tepbft.core.options import NodeOptions
from tepbft.protocols.tep.messages import (
    Body,
    Checkpoint,
    Commit,
    Final,
    Message,
    NewView,
    NewViewCertificate,
    NvAck,
    Prepare,
    ReqVc,
    Status,
    ViewChange,
    summary_digest,
)
from tepbft.protocols.tep.messages import Stable as StableMessage
from tepbft.trusted.port import PREPARE, EnterView, Order, Ui
from tepbft.wire import encode


def lose(*kinds: type) -> Any:
    return lambda sender, to, message: not isinstance(message, kinds)


def view_of(world: World, number: int) -> tuple[int, bool]:
    state = world.node(number).state
    return state.view, state.active


def work(world: World, count: int, tag: str, wait: int = 20_000) -> list[Any]:
    client = world.clients[0]
    made = []
    for number in range(count):
        requests = client.submit(put(f"{tag}{number}"))
        assert world.run(wait, client.done(requests)), (tag, number, world.executed())
        made += requests
    return made


# --- wishes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 5, 7])
def test_a46_f_plus_1_wishes_move_a_replica_its_own_included(n: int) -> None:
    """A-46: f wishes of others move nothing; one more does, without an own one."""
    world = World(n)
    world.filters.append(lambda s, t, m: False)
    f = (n - 1) // 2
    for sender in range(1, f + 1):
        deliver(world, sender, 0, req_vc(world, sender, 1))
    assert view_of(world, 0) == (0, True)
    deliver(world, f + 1, 0, req_vc(world, f + 1, 1))
    assert view_of(world, 0) == (1, False)


def test_a46_the_own_wish_counts() -> None:
    """A-46: with n = 3 one other and the own one are enough, though the third is dead."""
    world = World(3)
    world.crash(A)
    world.clients[0].submit(put("x"))
    assert world.run(10_000, lambda: view_of(world, B) == view_of(world, C) == (1, True))


def test_a47_wishes_are_signed_and_only_the_latest_of_a_node_counts() -> None:
    """A-47, S-19: forged ones are faults, a flood of one node's is one wish, old views ask for nothing."""
    world = World(5)
    world.filters.append(lambda s, t, m: False)
    forged = msgspec.structs.replace(req_vc(world, B, 1), sender=C)
    deliver(world, B, A, forged)
    assert faults(world, A) == ["bad_signature"]
    deliver(world, B, A, msgspec.structs.replace(req_vc(world, B, 1), sender=60))
    for target in range(1, 300):
        deliver(world, B, A, req_vc(world, B, target))
    deliver(world, C, A, req_vc(world, C, 1 << 62))
    deliver(world, D, A, req_vc(world, D, 0))
    state = world.node(A).state
    assert len(state.requests) <= 2
    assert view_of(world, A) == (0, True)


def test_a47_wishes_are_forgotten() -> None:
    """A3.4: soft state, gone after 4*T_rt unless repeated; three stale ones never add up with a later one."""
    world = World(5, options=NodeOptions(max_wait_ms=0, t_retransmit_ms=500))
    for sender in (B, C):
        deliver(world, sender, A, req_vc(world, sender, 1))
    world.run(2600)
    assert world.node(A).state.requests == {}
    deliver(world, D, A, req_vc(world, D, 1))
    assert view_of(world, A) == (0, True)


def test_s19_huge_targets_move_nobody_further_than_a_correct_node_asked_for() -> None:
    """S-19: f wishes for view 2^50 and one correct wish for view 1: the (f+1)-th largest is 1."""
    world = World(5)
    world.filters.append(lambda s, t, m: False)
    for sender in (D, E):
        deliver(world, sender, A, req_vc(world, sender, 1 << 50))
    deliver(world, B, A, req_vc(world, B, 1))
    assert view_of(world, A) == (1, False)


def test_a48_no_vote_in_a_view_that_is_not_certified() -> None:
    """A-48, A-52, I-9: the new primary's PREPARE and even its NEW-VIEW are not enough."""
    world = World(5)
    for number in (B, C, D, E):
        world.crash(number)
    world.filters.append(lambda s, t, m: False)
    for sender in (B, C, D):
        deliver(world, sender, A, req_vc(world, sender, 1))
    assert view_of(world, A) == (1, False)
    changes = [view_change(world, sender, 1) for sender in (B, C, D)]
    start = new_view(world, B, 1, changes, floor(world), [])
    early = prepare(world, B, 1, block_of(world, 1, world.clients[0].make(put("x"))))

    def votes() -> list[int]:
        asked = [r for r, a in world.hosts[A].statements if isinstance(r, Order) and isinstance(a, Ui)]
        return [request.view for request in asked]

    deliver(world, B, A, early)
    deliver(world, B, A, start)
    assert view_of(world, A) == (1, False) and votes() == []
    summary = summary_digest(0, 1, floor(world), ())
    deliver(world, C, A, acknowledge(world, C, 1, b"\0" * 32))  # of another summary: counts for nothing
    deliver(world, D, A, msgspec.structs.replace(acknowledge(world, D, 1, summary), sender=E))
    assert view_of(world, A) == (1, False) and votes() == []
    deliver(world, D, A, acknowledge(world, D, 1, summary))  # B's own, A's and D's: f+1 = 3
    assert view_of(world, A) == (1, True)
    assert votes() == [1]


def test_a49_one_replica_that_was_moved_moves_all() -> None:
    """A-49, S-19: f Byzantine and one correct wish reach D alone. Its VIEW-CHANGE proves them to the rest."""
    world = World(5)
    work(world, 2, "x")
    world.crash(E)
    world.hosts[E].store = type(world.hosts[E].store)()
    for sender in (E, A):
        deliver(world, sender, D, req_vc(world, sender, 1))
    deliver(world, B, D, req_vc(world, B, 1))
    assert view_of(world, D) == (1, False)
    assert world.run(3000, lambda: all(view_of(world, k) == (1, True) for k in (A, B, C, D)))
    work(world, 2, "y", wait=3000)
    assert world.agree()


# --- sizes and repetition ---------------------------------------------------------------------


def test_a50_messages_do_not_grow_with_failed_views() -> None:
    """A-50: the sixth VIEW-CHANGE in a row is no larger than the first (nothing is nested)."""
    world = World(5, window=8)
    work(world, 3, "x")
    world.filters.append(lose(NewView, NvAck, NewViewCertificate))
    sent = spy(world)
    world.crash(A)
    client = world.clients[0]
    client.submit(put("y"))
    world.run(120_000, lambda: view_of(world, C)[0] >= 7)
    sizes: dict[int, int] = {}
    for sender, _, message in sent:
        if isinstance(message, ViewChange) and sender == C:
            sizes[message.to] = len(encode(message))
    assert len(sizes) >= 6
    assert max(sizes.values()) <= min(sizes.values()) + 64  # signatures and counters differ by bytes
    assert all(message.content.certified is None for _, _, message in sent if isinstance(message, ViewChange))


def test_a55_heights_continue_across_views() -> None:
    """A-55, A-58: no renumbering, and every height executes once per replica, ever."""
    world = World(5)
    work(world, 3, "x")
    for dead in (A, B):
        world.crash(dead)
        work(world, 2, f"after{dead}")
    assert world.executed(C, D, E) == [7, 7, 7]
    for number in (C, D, E):
        assert [found["height"] for found in world.noticed(number, "executed")] == list(range(1, 8))
    world.check_prefixes()


def spoiled(start: NewView, how: str, world: World) -> NewView:
    change = msgspec.structs.replace
    changes = start.view_changes
    match how:
        case "missing":
            return change(start, view_changes=changes[:-1])
        case "twice":
            return change(start, view_changes=(changes[0], changes[0]))
        case "wrong summary":
            return change(start, nvc=(*start.nvc, b"z" * 32))
        case "hidden":
            return change(start, nvc=())
        case "wrong base":
            return change(start, base=start.base + 1)
        case "forged":
            bad = change(changes[1], to=changes[1].to + 1)
            return change(start, view_changes=(changes[0], bad))
        case "no ack":
            return change(start, ack=b"\0" * 64)
        case _:
            return change(start, signature=start.signature[:-1] + b"?")


@pytest.mark.parametrize(
    "how", ["missing", "twice", "wrong summary", "hidden", "wrong base", "forged", "no ack", "signature"]
)
def test_a56_a_new_view_that_does_not_follow_is_ignored(how: str) -> None:
    """A-56, S-10: not repaired, not half believed; the timer leads to the next view, where all goes on."""
    world = World(5)
    client = world.clients[0]
    client.submit(put("x"))
    no_votes = lambda s, t, m: not (isinstance(m, Commit) and m.head.view == 0)  # noqa: E731
    world.filters.append(no_votes)

    def spoil(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, NewView) and message.view == 1:
            deliver(world, B, to, spoiled(message, how, world))
            return False
        return not (isinstance(message, NvAck | NewViewCertificate) and message.view == 1)

    world.filters.append(spoil)
    world.run(6000, lambda: view_of(world, C)[0] >= 2)
    assert {"bad_new_view", "bad_signature", "bad_view_change"} & set(faults(world, C))
    assert 1 not in [found["view"] for found in world.noticed(C, "view_entered")]
    world.filters.clear()
    assert world.run(20_000, lambda: world.agree() and min(world.executed()) >= 1)
    world.check_prefixes()


def test_s9_a_prepare_against_the_own_new_view_is_refused() -> None:
    """S-9, P6: below the base, or another block where the new view names one."""
    world = World(3)
    world.crash(B)
    world.filters.append(lambda s, t, m: False)
    mine = Block(0, 1, NULL, 0, 0, b"")
    other = block_of(world, 1, world.clients[0].make(put("x")))
    certificate = new_view_certificate(world, 1, [mine.digest(world.chain_id)])
    deliver(world, B, C, certificate)
    assert view_of(world, C) == (1, True)
    deliver(world, B, C, prepare(world, B, 1, other))
    assert faults(world, C) == ["against_new_view"]
    assert not [r for r, _ in world.hosts[C].statements if isinstance(r, Order)]


# --- time -------------------------------------------------------------------------------------


def test_a59_both_timers_back_off() -> None:
    """A-59: the time between wishes doubles while nothing works, up to the maximum."""
    options = NodeOptions(max_wait_ms=0, t_request_ms=400, t_view_change_ms=400, t_max_ms=6400)
    world = World(3, options=options)
    world.filters.append(lose(NewView))
    times: list[int] = []
    left: list[int] = []

    def note(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, ViewChange) and sender == B and message.to not in left:
            left.append(message.to)
            times.append(world.now)
        return True

    world.filters.insert(0, note)
    world.clients[0].submit(put("x"), to=[B, C])
    world.crash(A)
    world.run(60_000)
    waits = [later - sooner for sooner, later in pairwise(times)]
    assert len(waits) >= 5
    for index, wait in enumerate(waits):
        assert wait >= min(400 << (index + 1), 6400)
    assert max(waits) < 6400 + 1500
    assert left == list(range(1, len(left) + 1))


def test_a59_s29_a_slow_world_settles() -> None:
    """A-59, S-29, I-22: real delays above every first timeout; back-off finds a view that lasts."""
    options = NodeOptions(max_wait_ms=0, t_request_ms=100, t_view_change_ms=100)
    world = World(5, options=options)
    world.delay_ms = lambda s, t, m: 300
    client = world.clients[0]
    requests = client.submit(put("x"))
    assert world.run(60_000, client.done(requests))
    moved = max(host.node.state.view for host in world.alive if host.node)
    assert 0 < moved <= 8
    for number in range(6):
        assert world.run(60_000, client.done(client.submit(put(f"k{number}"))))
    world.run(5000)
    assert world.agree()


def test_a59_back_off_decays_slowly() -> None:
    """A3.6: one step back per `stable_blocks` executed blocks of one view, not at once."""
    world = World(3, options=NodeOptions(max_wait_ms=0, stable_blocks=4), block_requests=1)
    world.crash(A)
    work(world, 1, "x")
    state = world.node(B).state
    assert state.backoff == 1 and state.view == 1
    work(world, 2, "y")
    assert state.backoff == 1
    work(world, 2, "z")
    assert state.backoff == 0


@pytest.mark.parametrize("kind", [ReqVc, ViewChange, NewView, NvAck])
def test_a60_s28_every_message_of_a_view_change_is_repeated(kind: type) -> None:
    """A-60, S-28: the first 300 ms of this kind are lost entirely; the view still comes about."""
    world = World(3)
    work(world, 1, "x")
    first: list[int] = []

    def lost_at_first(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, kind):
            first.append(world.now)
            return world.now > first[0] + 300
        return not isinstance(message, NewViewCertificate) or world.now > (first or [0])[0] + 300

    world.filters.append(lost_at_first)
    world.crash(A)
    work(world, 1, "y", wait=10_000)
    assert first and view_of(world, B) == view_of(world, C)
    assert view_of(world, B)[0] == 1


def test_a61_a_complaining_minority_is_served() -> None:
    """A-61: A never sends E anything. E complains alone; nobody leaves, but E gets the blocks, executes,
    and its timers stop."""
    world = World(5)
    world.filters.append(lambda s, t, m: not (s == A and t == E))
    world.filters.append(lambda s, t, m: not (t == E and isinstance(m, Commit | StableMessage | Checkpoint)))
    client = world.clients[0]
    for number in range(4):
        assert world.run(3000, client.done(client.submit(put(f"k{number}"))))
        world.run(1500)
    assert world.run(5000, lambda: world.executed(E) == [4])
    assert {host.node.state.view for host in world.alive if host.node} == {0}
    world.run(3000)
    assert world.node(E).replica.phase() == "active"


# --- evidence in the world --------------------------------------------------------------------


def test_a63_evidence_without_its_body_blocks_nobody() -> None:
    """A-63: Byzantine A proposes a block whose body nobody else has, and leaves with it as evidence. B
    sets that VIEW-CHANGE aside and starts the view with the others'."""
    world = World(5)
    world.crash(A)
    secret = prepare(world, A, 0, block_of(world, 1, world.clients[0].make(put("secret"), seq=7)))
    poison = view_change(world, A, 1, prepares=[secret.head], wishes=trigger(world, 1))
    for to in (B, C, D, E):
        world.post(A, to, poison)
    client = world.clients[0]
    requests = client.submit(put("x"))
    assert world.run(20_000, client.done(requests))
    assert view_of(world, B)[0] == 1
    stored = world.hosts[B].store.block(1)
    assert stored is not None and stored.certificate.digest != secret.head.digest


def test_a63_a_new_view_is_acknowledged_only_with_all_its_bodies() -> None:
    """A-63, I-10: C knows what the view proposes again by digest only, and waits."""
    world = World(3)
    for number in (A, B):
        world.crash(number)
    world.filters.append(lambda s, t, m: False)
    hidden = block_of(world, 1, world.clients[0].make(put("x")))
    head = prepare(world, A, 0, hidden).head
    changes = [view_change(world, A, 1, prepares=[head]), view_change(world, B, 1)]
    deliver(world, B, C, new_view(world, B, 1, changes, floor(world), [head.digest]))
    asked = [r for r, _ in world.hosts[C].statements]
    assert not any(isinstance(r, EnterView) for r in asked)
    assert world.node(C).state.own_ack is None
    deliver(world, B, C, Body(hidden))
    assert any(isinstance(r, EnterView) for r, _ in world.hosts[C].statements)
    assert view_of(world, C) == (1, True)  # f+1 = 2: B's own acknowledgement and this one


def test_a64_a_replica_above_the_new_base_answers_with_its_certificate() -> None:
    """A-64: E is stable at 3 alone; B, C, D start view 1 at base 0 and propose 1..3 again. E votes for
    none of it and gives them its certificate instead."""
    world = World(5)
    world.filters.append(
        lambda s, t, m: not (isinstance(m, Checkpoint | StableMessage | Status) and E not in (t,))
    )
    work(world, 3, "x")
    world.run(100)
    assert [world.node(k).state.stable_height for k in (B, C, D, E)] == [0, 0, 0, 3]
    world.crash(A)
    apart = world.isolate(E)
    client = world.clients[0]
    requests = client.submit(put("y"), to=[B, C, D])
    assert world.run(20_000, client.done(requests))
    certificate = world.node(B).state.certificate
    assert certificate is not None and (certificate.base, certificate.top) == (0, 3)
    world.filters.remove(apart)
    world.filters.clear()
    world.filters.append(lose(Status, Checkpoint))
    repeated = next(
        Prepare(0, slot.prepares[1], None) for h, slot in world.node(B).state.slots.items() if h == 2
    )
    deliver(world, B, E, certificate)
    sent = spy(world)
    deliver(world, B, E, repeated)
    assert [(to, m.certificate.height) for _, to, m in sent if isinstance(m, StableMessage)] == [(B, 3)]
    world.run(50)
    assert world.node(B).state.stable_height == 3
    votes = [r for r, _ in world.hosts[E].statements if isinstance(r, Order) and r.view == 1]
    assert all(request.height > 3 for request in votes)


def test_a71_blocks_are_proposed_again_bit_for_bit_and_the_rest_is_batched_anew() -> None:
    """A-71: X was voted for: it comes back with its digest, time stamp and all. What nobody but the dead
    primary knew vanishes; its requests are still pending, and a later block has them."""
    world = World(5, block_requests=4)
    client = world.clients[0]
    world.filters.append(lambda s, t, m: not (isinstance(m, Commit) and m.head.view == 0))
    known = client.submit(*[put(f"x{i}") for i in range(3)])
    world.run(100)
    world.filters.append(lambda s, t, m: not (isinstance(m, Prepare) and s == A))
    vanished = client.submit(*[put(f"y{i}") for i in range(3)])
    world.run(100)
    original = world.node(A).state.slots[1].bodies
    lost = world.node(A).state.slots[2].bodies
    assert len(original) == len(lost) == 1
    world.crash(A)
    assert world.run(20_000, client.done([*known, *vanished]))
    stored = world.hosts[C].store.block(1)
    assert stored is not None and {stored.certificate.digest: stored.block} == original
    assert stored.certificate.view == 1
    later = world.hosts[C].store.block(2)
    assert later is not None and later.certificate.digest not in lost
    world.filters.clear()
    world.start(A)
    world.run(3000)
    assert world.agree()


def test_s12_acknowledgements_withheld_and_new_view_sent_to_f_only() -> None:
    """S-12: B gives its NEW-VIEW to C alone; nobody is stuck."""
    world = World(5)
    work(world, 1, "x")
    world.filters.append(lambda s, t, m: not (isinstance(m, NewView) and s == B and t != C))
    world.crash(A)
    work(world, 2, "y", wait=30_000)
    world.run(3000)
    assert world.agree()
    world.check_prefixes()


def test_s13_f_byzantine_primaries_in_a_row() -> None:
    """S-13: the first sends no bodies, the second proposes against its own new view: two views later the
    request is executed."""
    world = World(5)

    def attack(sender: int, to: int, message: Message) -> bool:
        if sender == A and isinstance(message, Prepare | Body) and message.block is not None:
            return False
        if sender == B and isinstance(message, Prepare):
            return False
        return not (sender in (A, B) and isinstance(message, Final | Commit))

    world.filters.append(attack)
    client = world.clients[0]
    requests = client.submit(put("x"))
    assert world.run(60_000, client.done(requests))
    assert view_of(world, C)[0] == 2


@pytest.mark.parametrize("k", [1, 8])
def test_i5_a_host_that_lost_its_disk_but_not_its_component_lives_on(k: int) -> None:
    """A2, I-5: it cannot explain its registers when it has to leave the view. It must neither stop nor
    stop the others; once a stable checkpoint covers them it counts fully again."""
    world = World(5, checkpoint_interval=k)
    work(world, 3, "x")
    world.crash(C)
    world.hosts[C].store = type(world.hosts[C].store)()
    world.start(C)
    world.crash(A)
    work(world, 12, "y")
    world.run(2000)
    assert world.agree()
    world.crash(B)
    work(world, 12, "z", wait=60_000)
    world.check_prefixes()


def test_registers_of_all_views_are_one_statement_each() -> None:
    """I-3 over everything asked in a run with three views."""
    world = World(3)
    work(world, 2, "x")
    for _ in range(2):
        number = world.node(C).state.primary if world.hosts[C].node else B
        world.crash(number)
        world.run(200)
        alive = [host.number for host in world.alive]
        world.clients[0].submit(put(f"z{number}"), to=alive)
        world.run(6000)
        world.start(number)
        world.run(2000)
    for host in world.hosts:
        seen: dict[tuple[int, int], bytes] = {}
        for request, answer in host.statements:
            if isinstance(request, Order) and isinstance(answer, Ui):
                assert seen.setdefault((request.view, request.height), request.digest) == request.digest
        assert any(isinstance(r, Order) and r.kind == PREPARE for h in world.hosts for r, _ in h.statements)
    world.check_prefixes()
