"""Parts of the world: keys, clocks, disks, components, the network."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from tepbft.core.block import Header, null_block
from tepbft.core.configuration import Configuration, Member
from tepbft.sim.clock import WALL_MS, Clock
from tepbft.sim.component import Component, Statement
from tepbft.sim.crypto import Keys, component_key, derive, make_keys
from tepbft.sim.disk import Disk
from tepbft.storage.errors import StoreFull
from tepbft.storage.port import BodyRecord
from tepbft.trusted.port import COMMIT, PREPARE, Order, Refused, Ui, order_body

CHAIN = bytes(range(32))


def make(mode: str) -> tuple[Keys, Component, Configuration, list[Statement]]:
    """One component of a chain with one member entry."""
    keys = make_keys(mode, 5)
    keys.bind(CHAIN)
    seen: list[Statement] = []
    component = Component(0, 5, keys, seen.append)
    identity = component.identity()
    public, _ = keys.host(0)
    member = Member(0, identity.tc_id, identity.key, public, bytes(32), bytes(32), "h", 1, 2, 3)
    cfg = Configuration(0, 0, (member, member, member))
    component.provision(CHAIN, cfg, 4)
    return keys, component, cfg, seen


@pytest.mark.parametrize("mode", ["stub", "real"])
def test_signatures_bind_everything(mode: str) -> None:
    """I-26 in both modes: another counter, kind, body or node, and it does not verify."""
    keys, component, cfg, seen = make(mode)
    answer = component.call(Order(PREPARE, 0, 1, bytes(32)))
    assert isinstance(answer, Ui)
    body = order_body(0, 1, bytes(32))
    check = keys.verifier.ui
    assert check(cfg, 0, answer.seq, PREPARE, body, answer.signature)
    assert not check(cfg, 0, answer.seq + 1, PREPARE, body, answer.signature)
    assert not check(cfg, 0, answer.seq, COMMIT, body, answer.signature)
    assert not check(cfg, 0, answer.seq, PREPARE, order_body(0, 2, bytes(32)), answer.signature)
    assert not check(cfg, 1, answer.seq, PREPARE, body, answer.signature)
    assert not check(cfg, 7, answer.seq, PREPARE, body, answer.signature)
    assert not check(cfg, 0, answer.seq, PREPARE, body, b"")
    assert [statement.height for statement in seen] == [1]


@pytest.mark.parametrize("mode", ["stub", "real"])
def test_host_and_client_keys(mode: str) -> None:
    """Plain signatures verify for their owner and their message only."""
    keys, _, cfg, _ = make(mode)
    _, signer = keys.host(0)
    assert keys.verifier.signed(cfg, 0, b"m", signer.sign(b"m"))
    assert not keys.verifier.signed(cfg, 0, b"x", signer.sign(b"m"))
    entry, client = keys.client(0)
    other, _ = keys.client(1)
    assert entry.client != other.client
    assert client.sign(bytes(32)) != keys.client(1)[1].sign(bytes(32))


def test_an_unknown_mode_is_refused() -> None:
    """There are two modes."""
    with pytest.raises(ValueError):
        make_keys("none", 1)


def test_keys_follow_from_the_seed() -> None:
    """I-24: a component's key is decided by seed, node and generation."""
    numbers = {component_key(s, n, g).secret()
               for s in (1, 2) for n in (0, 1) for g in (0, 1)}  # fmt: skip
    assert len(numbers) == 8
    assert derive(1, "a") == derive(1, "a") != derive(1, "b")


def test_statements_are_recorded_once() -> None:
    """Re-emission is not a new statement; a refusal is none at all."""
    _, component, _, seen = make("stub")
    component.call(Order(PREPARE, 0, 1, bytes(32)))
    component.call(Order(PREPARE, 0, 1, bytes(32)))
    assert isinstance(component.call(Order(PREPARE, 0, 1, bytes(31) + b"x")), Refused)
    assert len(seen) == 1


def test_warm_and_cold_restarts() -> None:
    """S-34, S-35: warm keeps the name and the registers, and no blob works twice; cold is somebody else."""
    _, component, _, _ = make("stub")
    component.call(Order(PREPARE, 0, 1, bytes(32)))
    name = component.tc_id
    for _ in range(3):
        assert component.restart_warm() == []
    assert component.tc_id == component.identity().tc_id == name
    assert isinstance(component.call(Order(PREPARE, 0, 1, b"x" * 32)), Refused)
    component.restart_cold()
    assert component.identity().tc_id == component.tc_id != name


def test_clocks() -> None:
    """S-30: rates and jumps, but the monotonic clock never goes back."""
    clock = Clock(100, 1.0, 7)
    assert (clock.now_ms(50), clock.wall_ms(50)) == (150, WALL_MS + 57)
    clock.set_rate(50, 0.5)
    assert clock.now_ms(150) == 200
    clock.jump(1000)
    assert clock.now_ms(150) == 1200
    clock.set_wall(-20)
    assert clock.wall_ms(0) == WALL_MS - 20


def _record(height: int) -> BodyRecord:
    block = null_block(0, height)
    return BodyRecord(block.digest(CHAIN), block)


def test_a_full_disk_notes_nothing() -> None:
    """I-16: what was not appended is no evidence."""
    disk = Disk()
    disk.append([_record(1)])
    disk.full = True
    with pytest.raises(StoreFull):
        disk.append([_record(2)])
    assert list(disk.evidence.bodies.values()) == [1]
    disk.full = False
    disk.append([_record(2)])
    assert list(disk.evidence.bodies.values()) == [1, 2]


@pytest.mark.parametrize("written_counts", [False, True])
def test_only_a_power_failure_takes_what_was_written(written_counts: bool) -> None:
    """ADR 0023: the process alone loses nothing; evidence that went with the component is none."""
    lost = set()
    for seed in range(30):
        disk = Disk(written_counts)
        disk.append([_record(1)])
        disk.append([_record(2), _record(3)], forced=False)
        assert len(disk.evidence.bodies) == (3 if written_counts else 1)
        assert disk.crash(Random(seed), 0, power=False) == 0
        assert len(disk.evidence.bodies) == 3 and not disk.unforced
        disk.append([_record(4), _record(5)], forced=False)
        gone = disk.crash(Random(seed), 0)
        assert list(disk.evidence.bodies.values()) == list(range(1, 6 - gone))
        assert len(disk.recover().records) == 5 - gone
        lost.add(gone)
    assert lost == {0, 1, 2}


def test_a_crash_may_lose_installs_but_no_records() -> None:
    """The journal is the truth; the installed state may be older."""
    disk = Disk()
    header: Any = Header(1, 0, bytes(32), bytes(32), bytes(32), bytes(32), bytes(32), bytes(32))
    disk.append([_record(1)])
    disk.install([], 1, header)
    disk.crash(Random(1), 1)
    assert disk.recover().installed == 0
    assert disk.evidence.bodies
