"""The shell: what is done with effects, in which order, and what a crash in between leaves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from runtime_support import until
from shell_support import World, checkpoint, configuration, effects, identity, outcome_record, record

from tepbft.core.block import Receipt, Request, genesis_header
from tepbft.core.configuration import ReplaceTc
from tepbft.core.events import (
    AdmissionRequested,
    ClientRequests,
    ConnectionClosed,
    Effects,
    Event,
    InstallState,
    PeerMessage,
    Reply,
    SaveSnapshot,
    Send,
    TcAnswered,
    Tick,
)
from tepbft.crypto.node_key import NodeKey
from tepbft.errors import ContractBroken, TepbftError
from tepbft.runtime.bridge import Declined, Executed
from tepbft.runtime.readmission import Readmission
from tepbft.runtime.shell import MERGE_EVENTS, PROBE_MS, RETRY_S
from tepbft.storage.errors import StoreFull
from tepbft.trusted.port import AdvanceFloor, Ui
from tepbft.types import ConnectionId
from tepbft.wire import Submit, WantProof

ORDER = ["append", "snapshot", "certify", "send", "reply", "busy"]


def peer_messages(world: World, *items: bytes) -> None:
    world.inbox.source("peer", 1).put(list(items), sum(map(len, items)))


def on_messages(found: dict[bytes, Effects]) -> Any:
    def script(event: Event) -> Effects | None:
        return found.pop(event.message, None) if isinstance(event, PeerMessage) else None

    return script


async def test_effects_are_carried_out_in_the_order_that_they_state() -> None:
    """Style rule 4, I-16: durable before signed, signed before sent, sent before told."""
    world = World(on_messages({b"a": effects(1)}))
    peer_messages(world, b"a")
    world.shell.turn()
    assert world.kinds() == ORDER
    assert world.node.events[1:] == [TcAnswered(checkpoint(1), Ui(1, b"s")), Tick(1_000_000)]
    assert world.log[4] == ("reply", (1, 3))


def outcome(tag: int, **more: Any) -> Effects:
    """What the execution of a block leaves, and a reply."""
    made = Effects(persist=[outcome_record(tag)], replies=[Reply(ConnectionId(tag), tag, [])])
    for name, value in more.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("outlives_host", "kinds"), [(False, ["certify", "force"]), (True, ["force", "certify"])]
)
async def test_an_outcome_is_written_before_a_reply_and_forced_before_a_signature_counts(
    outlives_host: bool, kinds: list[str]
) -> None:
    """ADR 0022: a reply need not wait for the disk; nothing that is signed may go without it."""
    world = World(on_messages({b"a": outcome(1), b"b": Effects(certify=[checkpoint(1)])}))
    world.device.outlives_host = outlives_host
    peer_messages(world, b"a")
    world.shell.turn()
    assert world.kinds() == ["write", "reply"]
    world.log.clear()
    peer_messages(world, b"b")
    world.shell.turn()
    assert world.kinds() == kinds


@pytest.mark.parametrize(
    ("outlives_host", "kinds"),
    [(False, ["write", "certify", "force", "answer"]), (True, ["write", "force", "certify", "answer"])],
)
async def test_the_component_works_while_the_disk_does_if_both_forget_together(
    outlives_host: bool, kinds: list[str]
) -> None:
    """ADR 0023: a vote is on the disk before it counts; hardware is not even asked for it before."""
    world = World(on_messages({b"a": Effects(persist=[record(1)], certify=[checkpoint(1)])}))
    world.device.outlives_host = outlives_host
    answers = world.device.answers

    def answer() -> list[Ui]:
        world.log.append(("answer", None))
        return answers()

    world.device.answers = answer  # type: ignore[method-assign]
    peer_messages(world, b"a")
    world.shell.turn()
    assert world.kinds() == kinds


async def test_a_disk_that_fails_while_the_component_works_is_no_lost_component() -> None:
    world = World(lambda event: Effects(persist=[record(1)], certify=[checkpoint(1)]))

    def fail() -> None:
        raise TepbftError("journal", "an I/O error", "Replace the disk.")

    world.store.force = fail  # type: ignore[method-assign]
    with pytest.raises(TepbftError, match="Replace the disk"):
        await world.shell.run()
    assert "send" not in world.kinds()


async def test_a_component_that_dies_while_it_is_asked_silences_the_node() -> None:
    world = World(on_messages({b"a": effects(1, store=[])}))
    world.device.dying = True
    peer_messages(world, b"a")
    world.shell.turn()
    assert world.kinds() == ["write", "certify", "force"]
    assert world.shell.status().phase == "silent"


async def test_moving_the_floor_alone_asks_for_nothing() -> None:
    """It goes in front of the next request; what is persisted with it is on the disk meanwhile."""
    moved = Effects(persist=[record(1)], certify=[AdvanceFloor(4)], replies=[Reply(ConnectionId(5), 9, [])])
    world = World(on_messages({b"a": moved, b"b": Effects(certify=[checkpoint(7)])}))
    peer_messages(world, b"a")
    world.shell.turn()
    assert world.kinds() == ["append", "reply"]
    peer_messages(world, b"b")
    world.shell.turn()
    assert world.log[-1] == ("certify", [4, 7])


@pytest.mark.parametrize(
    ("more", "kinds"),
    [
        ({"certify": [checkpoint(1)]}, ["write", "certify", "force", "reply"]),
        ({"store": [SaveSnapshot(1, [b""])]}, ["append", "snapshot", "reply"]),
        ({"persist": [outcome_record(1), record(2)]}, ["append", "reply"]),
    ],
)
async def test_an_outcome_that_something_depends_on_is_forced(more: dict[str, Any], kinds: list[str]) -> None:
    world = World(on_messages({b"a": outcome(1, **more)}))
    peer_messages(world, b"a")
    world.shell.turn()
    assert world.kinds() == kinds


async def test_an_outcome_is_forced_after_a_while_in_any_case() -> None:
    """An idle node does not leave the last outcomes to the operating system."""
    world = World(on_messages({b"a": outcome(1)}))
    peer_messages(world, b"a")
    world.shell.turn()
    world.log.clear()
    world.clock.now += 1001
    world.shell.turn()
    assert world.kinds() == ["force"]


async def test_what_the_component_signed_does_not_wait_for_the_next_append() -> None:
    """ADR 0017: it was durable before it was signed, and leaves before the disk is waited for again."""
    signed = effects(1, announce=[Send((1, 2), "vote")])
    world = World(on_messages({b"a": signed}))
    peer_messages(world, b"a", b"b")
    world.shell.turn()
    assert world.log[:3] == [("send", "vote"), ("left", ["vote"]), ("append", [1])]
    assert world.kinds() == ["send", *ORDER]
    assert [type(event) for event in world.node.events[:3]] == [PeerMessage, TcAnswered, PeerMessage]


async def test_nothing_that_may_leave_waits_for_the_component() -> None:
    """ADR 0024: what an earlier step of the same turn sends is on its way before this one is asked for."""
    first = Effects(send=[Send((1,), "status")], announce=[Send((1,), "vote")])
    world = World(on_messages({b"a": first, b"b": Effects(certify=[checkpoint(1)])}))
    peer_messages(world, b"a", b"b")
    world.shell.turn()
    kinds = [kind for kind, _ in world.log]
    assert kinds == ["send", "send", "left", "certify"]
    assert world.log[2] == ("left", ["vote", "status"])


async def test_what_a_turn_sends_leaves_together_at_its_end() -> None:
    world = World(on_messages({bytes([n]): Effects(announce=[Send((1,), n)]) for n in range(5)}))
    peer_messages(world, *[bytes([n]) for n in range(5)])
    world.shell.turn()
    assert [entry for entry in world.log if entry[0] == "left"] == [("left", list(range(5)))]


async def test_a_vote_and_the_outcome_that_it_brings_about_leave_together() -> None:
    """With f = 1: the outcome is only written, so that nothing would keep the vote waiting (ADR 0022)."""
    world = World(on_messages({b"a": outcome(1, announce=[Send((1, 2), "vote")])}))
    peer_messages(world, b"a")
    world.shell.turn()
    assert world.kinds() == ["send", "write", "reply"]


async def test_an_announcement_with_nothing_to_store_holds_up_nothing() -> None:
    vote = Effects(announce=[Send((1, 2), "vote")], replies=[Reply(ConnectionId(5), 9, [])])
    world = World(on_messages({b"a": vote, b"b": effects(2, store=[], certify=[])}))
    peer_messages(world, b"a", b"b")
    world.shell.turn()
    assert world.kinds() == ["send", "reply", "append", "send", "reply", "busy"]


async def test_an_announcement_leaves_even_if_the_disk_is_full() -> None:
    world = World(on_messages({b"a": effects(1, announce=[Send((1, 2), "vote")])}))
    world.store.fail = [StoreFull(Path("/d"), "the disk is full")] * 3
    peer_messages(world, b"a")
    world.shell.turn()
    for _ in range(2):
        world.shell.work()
        assert world.log == [("send", "vote"), ("left", ["vote"])]
    world.shell.work()
    assert world.kinds() == ["send", *ORDER]


async def test_answers_of_the_component_come_before_later_events() -> None:
    count = MERGE_EVENTS + 3
    world = World(on_messages({bytes([n]): effects(n, store=[]) for n in range(count)}))
    peer_messages(world, *[bytes([n]) for n in range(count)])
    while world.inbox:
        world.shell.turn()
    answered = [event.request for event in world.node.events if isinstance(event, TcAnswered)]
    assert answered == [checkpoint(n) for n in range(count)]
    kinds = [type(event) for event in world.node.events]
    assert kinds[: 2 * MERGE_EVENTS] == [PeerMessage] * MERGE_EVENTS + [TcAnswered] * MERGE_EVENTS
    assert kinds[2 * MERGE_EVENTS] is PeerMessage


async def test_one_append_serves_a_batch() -> None:
    world = World(on_messages({bytes([n]): effects(n, store=[], certify=[]) for n in range(20)}))
    peer_messages(world, *[bytes([n]) for n in range(20)])
    world.shell.turn()
    assert world.log[0] == ("append", list(range(20)))
    assert world.kinds().count("append") == 1
    assert [value for kind, value in world.log if kind == "send"] == [f"message{n}" for n in range(20)]


async def test_a_change_of_the_store_is_visible_to_the_next_step() -> None:
    """What a step wants stored is stored before the node is asked anything else."""
    install = InstallState([], 7, genesis_header(b"c" * 32, 7))
    world = World(lambda event: None)
    seen: list[list[str]] = []

    def script(event: Event) -> Effects | None:
        if isinstance(event, PeerMessage):
            seen.append(world.kinds())
            return Effects(persist=[record(1)], store=[install]) if event.message == b"a" else None
        return None

    world.node.script = script
    peer_messages(world, b"a", b"b")
    world.shell.turn()
    assert seen == [[], ["append", "install"]]


@pytest.mark.parametrize("crash_in", ["append", "snapshot", "certify"])
async def test_a_crash_in_between_lets_nothing_out(crash_in: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash at any point ends in a retransmission, never in a broken promise."""
    world = World(on_messages({b"a": effects(1)}))

    class Crash(BaseException):
        pass

    def crash(*args: Any, **options: Any) -> None:
        raise Crash

    target: Any = world.device if crash_in == "certify" else world.store
    method = {"append": "append", "snapshot": "save_snapshot", "certify": "ask"}[crash_in]
    monkeypatch.setattr(target, method, crash)
    peer_messages(world, b"a")
    with pytest.raises(Crash):
        world.shell.turn()
    assert world.kinds() == ORDER[: ORDER.index(crash_in)]


async def test_a_full_disk_loses_nothing_and_lets_nothing_out() -> None:
    """The node stands still, says so, and goes on where it stopped."""
    world = World(on_messages({b"a": effects(1), b"b": effects(2)}))
    world.store.fail = [StoreFull(Path("/d"), "the disk is full")] * 2
    peer_messages(world, b"a", b"b")
    world.shell.turn()
    assert world.log == []
    status = world.shell.status()
    assert (status.phase, status.heals, status.verification) == ("halted", False, "2 threads")
    assert "free some space" in status.verdict
    world.shell.work()
    assert world.log == []
    world.shell.work()
    assert [kind for kind in world.kinds() if kind == "append"] == ["append"] * 2
    assert [value for kind, value in world.log if kind == "send"] == ["message1", "message2"]
    assert (world.shell.status().phase, world.shell.status().verification) == ("active", "2 threads")


async def test_a_full_disk_in_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tepbft.runtime.shell.RETRY_S", 0.01)
    assert RETRY_S > 0.01
    world = World(on_messages({b"a": effects(1)}))
    world.store.fail = [StoreFull(Path("/d"), "the disk is full")] * 3
    peer_messages(world, b"a")
    task = asyncio.create_task(world.shell.run())
    await until(lambda: "send" in world.kinds())
    world.shell.stop()
    assert await task == 0


async def test_votes_are_urgent_only_while_something_is_undecided() -> None:
    world = World(lambda event: None)
    world.node.open = False
    task = asyncio.create_task(world.shell.run())
    await until(lambda: not world.inbox.votes_wanted)
    world.node.open = True
    peer_messages(world, b"a proposal")
    await until(lambda: world.inbox.votes_wanted)
    world.shell.stop()
    assert await task == 0


async def test_malformed_input_stops_at_the_shell() -> None:
    world = World(lambda event: None)
    peer_messages(world, b"bad", b"good")
    world.inbox.source("client", 5).put([b"garbage"], 7)
    world.shell.turn()
    assert [e.message for e in world.node.events if isinstance(e, PeerMessage)] == [b"good"]
    assert ("drop", "malformed") in world.log


async def test_requests_and_proofs_of_clients() -> None:
    world = World(lambda event: None)
    request = Request(b"c" * 16, 1, 1, b"op", b"")
    items = [Submit(b"x" * 32, [request]), WantProof(b"c" * 16, 1, 8)]
    world.inbox.source("client", 5).put(items, 100)
    world.shell.turn()
    assert ClientRequests(ConnectionId(5), [request]) in world.node.events
    assert ("client", ("proof", 8)) in world.log


async def test_a_broken_contract_stops_the_node_with_its_own_exit_code() -> None:
    def broken(event: Event) -> Effects | None:
        raise ContractBroken("two blocks at one height")

    assert await World(broken).shell.run() == 70

    def bug(event: Event) -> Effects | None:
        raise KeyError(3)

    assert await World(bug).shell.run() == 70


async def test_a_damaged_store_is_reported_to_the_caller() -> None:
    world = World(lambda event: Effects(persist=[record(1)]))
    world.store.fail = [TepbftError("journal", "an I/O error", "Replace the disk.")]
    with pytest.raises(TepbftError, match="Replace the disk"):
        await world.shell.run()


async def test_ticks_come_without_input_and_stop_ends_the_loop() -> None:
    world = World(lambda event: None)
    world.clock.step = 1
    task = asyncio.create_task(world.shell.run())
    await until(lambda: sum(isinstance(event, Tick) for event in world.node.events) >= 3)
    world.shell.stop()
    assert await task == 0
    assert world.log[0] == ("start", None)


def test_a_block_that_is_due_does_not_wait_for_the_next_tick() -> None:
    world = World(lambda event: None)

    def ticks_at(now: int, seal_at_ms: int | None) -> int:
        world.clock.now, world.node.seal_at_ms = now, seal_at_ms
        before = len(world.node.events)
        world.shell.turn()
        return len(world.node.events) - before

    assert ticks_at(1000, None) == 1
    assert ticks_at(1003, None) == ticks_at(1003, 1004) == 0  # the next tick comes 10 ms later
    assert ticks_at(1004, 1004) == 1
    assert ticks_at(1013, None) == 0
    assert ticks_at(1014, 2000) == 1


async def test_a_lost_component_silences_the_node_until_it_has_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A8.2: nothing that could depend on it leaves; the node core is made anew from the store."""
    monkeypatch.setattr("tepbft.runtime.shell.RETRY_S", 0.01)
    world = World(on_messages({b"a": effects(1, store=[]), b"b": effects(2, store=[])}))
    world.shell.turn()
    world.device.dead = True
    other = type(world.device)(world.log)
    world.reopened = [TepbftError("trusted component", "did not start", "Look."), other]
    peer_messages(world, b"a")
    world.shell.turn()
    assert world.kinds() == ["write", "force"]  # durable, but neither signed nor sent
    status = world.shell.status()
    assert (status.phase, status.heals) == ("silent", True)
    assert "trusted component" in status.verdict
    task = asyncio.create_task(world.shell.run())
    await until(lambda: "rebuild" in world.kinds())
    peer_messages(world, b"b")
    await until(lambda: ("send", "message2") in world.log)
    world.shell.stop()
    assert await task == 0
    assert ("send", "message1") not in world.log
    assert world.shell.core.device is other
    assert world.shell.status().phase == "active"


async def test_a_component_that_ends_while_the_node_is_idle_is_noticed() -> None:
    world = World(lambda event: None)
    world.shell.turn()
    world.device.dead = True
    world.shell.turn()
    assert world.shell.status().phase == "active"
    world.clock.now += PROBE_MS
    world.shell.turn()
    assert world.shell.status().phase == "silent"


OPERATOR = NodeKey.from_seed(b"\x05" * 32)


def with_operator() -> Any:
    cfg = configuration()
    members = list(cfg.members)
    fields = {name: getattr(members[0], name) for name in members[0].__struct_fields__}
    members[0] = type(members[0])(**{**fields, "operator_key": OPERATOR.public})
    return type(cfg)(0, 0, tuple(members))


async def test_a_cold_component_asks_for_admission_until_it_is_a_member() -> None:
    """A8.2, I-20: a new key is put forward by the operator's signature, again and again."""
    world = World(lambda event: None, Readmission(b"c" * 32, 0, b"\x05" * 32, interval_ms=100))
    world.node.configuration = with_operator()
    world.shell.core = type(world.shell.core)(world.node, world.store, world.device, world.new_identity)  # type: ignore[arg-type]

    def asked() -> list[ReplaceTc]:
        return [event.change for event in world.node.events if isinstance(event, AdmissionRequested)]

    world.shell.turn()
    world.shell.turn()
    assert len(asked()) == 1
    world.clock.now += 100
    world.shell.turn()
    first, second = asked()
    assert first == second  # the component attests once
    assert (first.old_tc_id, first.new_tc_id) == (b"\x00" * 16, b"\x99" * 16)
    assert world.kinds().count("certify") == 1
    world.node.configuration = configuration(b"\x99" * 16)
    world.clock.now += 1000
    world.shell.turn()
    assert len(asked()) == 2


async def test_a_wrong_operator_key_is_given_up_once_and_for_all() -> None:
    readmission = Readmission(b"c" * 32, 0, b"\x06" * 32, interval_ms=1)
    for now in (0, 10, 20):
        assert readmission.due(with_operator(), identity(b"\x99" * 16), lambda a: Ui(1, b""), now) is None


# --- the bridge -------------------------------------------------------------------------------

REQUEST = Request(b"c" * 16, 1, 7, b"op", b"")


def receipt(seq: int) -> Receipt:
    return Receipt(b"c" * 16, 1, seq, b"d" * 32, 0, b"done")


async def test_an_http_request_finds_its_own_outcome() -> None:
    def script(event: Event) -> Effects | None:
        if isinstance(event, ClientRequests):
            return Effects(replies=[Reply(event.connection, 9, [receipt(6), receipt(7)])])
        return None

    world = World(script)
    task = asyncio.create_task(world.shell.run())
    assert await world.bridge.submit(REQUEST, 5) == Executed(9, receipt(7))
    await until(lambda: any(isinstance(event, ConnectionClosed) for event in world.node.events))
    assert world.bridge.waiting == 0
    world.shell.stop()
    await task
    assert "reply" not in world.kinds()


async def test_waiters_are_bounded_and_time_out() -> None:
    world = World(lambda event: None)
    tasks = [asyncio.create_task(world.bridge.submit(REQUEST, 0.2)) for _ in range(4)]
    await asyncio.sleep(0)
    assert await world.bridge.submit(REQUEST, 5) == Declined("busy")
    assert not await world.bridge.wait_stable(99, 5)
    assert await asyncio.gather(*tasks) == [None] * 4
    assert world.bridge.waiting == 0


async def test_waiting_for_a_stable_height() -> None:
    world = World(lambda event: None)
    task = asyncio.create_task(world.bridge.wait_stable(5, 5))
    await asyncio.sleep(0)
    world.bridge.stable(4)
    assert not task.done()
    world.bridge.stable(6)
    assert await task
    assert await world.bridge.wait_stable(6, 0)
    assert not await world.bridge.wait_stable(7, 0.01)


async def test_notices_feed_the_metrics() -> None:
    world = World(on_messages({b"a": effects(1)}))
    peer_messages(world, b"a")
    world.shell.turn()
    text = world.metrics.render().decode()
    assert "tepbft_executed_requests_total 2.0" in text
    assert 'tepbft_trusted_calls_total{kind="SignCheckpoint"} 1.0' in text
    assert "tepbft_journal_append_seconds_count 1.0" in text
    assert Send((1,), "x").to == (1,)


async def test_a_node_with_no_time_to_spare_says_so_with_requests() -> None:
    """What the sealer is told of the load: that more is to come, and that there was no pause."""
    world = World(lambda event: None)
    task = asyncio.create_task(world.shell.run())
    request = Request(bytes(16), 1, 8, b"op", b"")

    async def heard(count: int) -> list[ClientRequests]:
        def found() -> list[ClientRequests]:
            return [event for event in world.node.events if isinstance(event, ClientRequests)]

        world.inbox.source("client", 5).put([Submit(b"x" * 32, [request] * count)], 100)
        before = len(found())
        await until(lambda: len(found()) > before and not world.inbox)
        return found()[before:]

    await until(lambda: any(isinstance(event, Tick) for event in world.node.events))
    await asyncio.sleep(0)
    world.clock.now += 5000  # all of it in `_pause`
    assert [(event.more, event.pressed) for event in await heard(1)] == [(False, False)]
    world.clock.step = 50  # at every look: now the node has something to do most of the time
    await heard(1)
    assert [event.pressed for event in await heard(300)] == [True, True]
    world.shell.stop()
    await task
