"""Findings A-30 and A-42 to A-45 on clients, as far as the node answers for them; scenario S-42."""

from __future__ import annotations

import pytest

from support.byzantine import A, B, C, put, spy
from support.world import World
from tepbft.core.block import OK, Receipt
from tepbft.core.options import NodeOptions
from tepbft.protocols.tep.messages import Final, Forward, Message, Prepare, Status


def views(world: World) -> set[int]:
    return {host.node.state.view for host in world.alive if host.node}


def pending(world: World) -> list[int]:
    return [len(host.node.mempool) for host in world.alive if host.node]


@pytest.mark.parametrize("first", [A, B])
def test_a42_two_operations_under_one_number_start_no_view_change(first: int) -> None:
    """A-42, S-42: one outcome for the number clears both operations from every pool."""
    world = World(3)
    client = world.clients[0]
    one, two = client.make(put("k", "1"), seq=1), client.make(put("k", "2"), seq=1)
    client.send([one], to=[first])
    client.send([two], to=[number for number in range(3) if number != first])
    world.run(10_000)
    assert views(world) == {0}
    assert pending(world) == [0, 0, 0]
    assert world.agree() and world.executed(A)[0] >= 1
    kept = {world.node(number).find_outcome(client.id, 1, 1)[1].request_digest for number in range(3)}  # type: ignore[index]
    assert len(kept) == 1
    other = world.clients[1]
    assert world.run(1000, other.done(other.submit(put("z"))))


def test_s42_what_a_client_left_behind_starts_no_view_change() -> None:
    """A-41, A-42: a number far above the window, and a retired session, stay pending nowhere."""
    world = World(3)
    client = world.clients[0]
    client.send([client.make(put("far"), seq=10_000)], to=[B])
    client.send([client.make(put("gap"), seq=100)], to=[C])
    newer = client.make(put("new"), seq=1, session=2)
    client.send([newer])
    world.run(8000)
    assert views(world) == {0}
    assert pending(world) == [0, 0, 0]
    assert world.agree()


def test_s42_bad_signatures_and_strangers_are_refused_at_the_door() -> None:
    """S-42, I-13: refused with a code, never pooled, never proposed."""
    world = World(3)
    sent = spy(world)
    client = world.clients[0]
    good = client.make(put("x"))
    forged = type(good)(good.client, good.session, good.seq, put("y"), good.auth)
    stranger = type(good)(b"?" * 16, 1, 1, good.op, good.auth)
    client.send([forged, stranger], to=[A])
    assert [code for *_, code in client.refused] == ["unknown_client", "bad_signature"]
    assert pending(world) == [0, 0, 0]
    world.run(500)
    assert not any(isinstance(m, Prepare) for _, _, m in sent)


def test_a30_a_client_has_a_quota_and_what_is_refused_starts_no_timer() -> None:
    """A-30, A3.6: requests beyond the client's window are BUSY; nobody complains about them."""
    world = World(3, client_window=8)
    world.crash(B)
    world.crash(C)
    client = world.clients[0]
    client.submit(*[put(f"k{i}") for i in range(20)], to=[A])
    assert len(world.node(A).mempool) == 8
    assert {code for *_, code in client.refused} <= {"busy", "out_of_window"}
    assert len(client.refused) == 12


@pytest.mark.parametrize("to", [B, C])
def test_a44_a_request_that_reached_a_backup_only_is_forwarded(to: int) -> None:
    """A-44: it is executed within the deadline of the backup, and the correct primary stays."""
    world = World(3, options=NodeOptions(max_wait_ms=0, t_request_ms=1000))
    sent = spy(world)
    client = world.clients[0]
    client.submit(put("x"), to=[to])
    assert world.run(900, lambda: world.executed() == [1, 1, 1])
    assert {s for s, _, m in sent if isinstance(m, Forward)} == {to}
    world.run(3000)
    assert views(world) == {0}


def test_a44_forwarding_does_not_hide_a_primary_that_censors() -> None:
    """A-44, S-5: a forwarded request still counts from its first sight."""
    world = World(3)
    client = world.clients[0]

    def censor(sender: int, to: int, message: Message) -> bool:
        return not (isinstance(message, Forward) and to == A)

    world.filters.append(censor)
    begin = world.now
    client.submit(put("x"), to=[B, C])
    assert world.run(10_000, lambda: min(world.executed()) >= 1)
    assert world.node(B).state.view == 1
    asked = [n for n in world.hosts[B].notices if n.name == "view_change_requested"]
    assert asked and world.now - begin < 3000


def test_s5_one_censored_number_of_a_pipelining_client_is_executed() -> None:
    """S-5, A-39: A serves every number but one; the others' timers notice."""
    world = World(3)
    client = world.clients[0]
    hidden = client.make(put("hidden"))
    served = [client.make(put(f"k{i}")) for i in range(5)]
    client.send(served)
    client.send([hidden], to=[B, C])
    world.filters.append(lambda s, t, m: not (isinstance(m, Forward) and t == A))
    assert world.run(10_000, client.done([*served]))
    assert world.run(10_000, lambda: client.outcome(hidden) is not None)


def test_a45_a_repeated_request_pushes_the_certificate() -> None:
    """A-45, A-33: B and D never saw the block; the client's repetition at the one that did is enough,
    without any STATUS."""
    world = World(4)
    client = world.clients[0]
    world.filters.append(lambda s, t, m: t != 3 or isinstance(m, Final | Status))
    world.filters.append(lambda s, t, m: not (s == 3 and not isinstance(m, Status)))
    requests = client.submit(put("x"), to=[A, B, C])
    assert world.run(1000, client.done(requests))
    world.run(150)
    sent = spy(world)
    client.send(requests, to=[A])
    pushed = [to for s, to, m in sent if isinstance(m, Final) and s == A]
    assert pushed == [3]  # nothing is pushed to those that have shown the block
    assert world.run(100, lambda: world.executed(3) == [1])


def test_a45_a_repeated_request_is_answered_from_the_client_table() -> None:
    """A-45, S-44: the same reply again, at the height where it took effect, after a restart, too."""
    world = World(3)
    client = world.clients[0]
    requests = client.submit(put("x"))
    assert world.run(1000, client.done(requests))
    assert world.run(1000, client.done(client.submit(put("y"))))
    world.run(100)
    first = client.outcome(requests[0])
    client.answers.clear()
    world.crash(B)
    world.start(B)
    client.send(requests)
    assert client.outcome(requests[0]) == first
    assert first is not None and first[0] == 1 and isinstance(first[1], Receipt) and first[1].status == OK
    assert world.executed() == [2, 2, 2]
