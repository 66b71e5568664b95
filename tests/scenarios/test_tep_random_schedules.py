"""Seeded random schedules: loss, delay, reordering, partitions, crashes and restarts, then a good period.

Afterwards all agree, every request is done, no two disks hold different headers at a
height (I-1, I-2, I-5, I-11, I-21, I-23). A failing seed replays exactly (I-24).
"""

from __future__ import annotations

import random

import msgspec
import pytest

from support.byzantine import put
from support.world import World
from tepbft.core.block import OK, Receipt, Request
from tepbft.core.options import NodeOptions

SEEDS = 40
OPTIONS = NodeOptions(
    max_wait_ms=0, t_request_ms=300, t_view_change_ms=300, t_max_ms=3000, t_retransmit_ms=200
)
SETTINGS = (
    {},
    {"window": 1},
    {"window": 4, "checkpoint_interval": 2, "block_requests": 2},
    {"window": 8, "checkpoint_interval": 4, "snapshot_interval": 4, "keep_blocks": 8, "block_requests": 1},
    {"strict_sequential": True, "window": 4},
    {"reply_after": "stable", "block_requests": 3},
    {"commit_carries_block": True, "primary_explicit_commit": True},
)


class Weather:
    """What the network and the machines do in the bad period; drawn anew every few hundred ms."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.random = world, random.Random(seed)
        self.loss = 0.0
        self.spread = 1
        self.groups: list[int] = []
        self.deaf: set[tuple[int, int]] = set()
        world.filters.append(self.keep)
        world.delay_ms = lambda sender, to, message: 1 + self.random.randrange(self.spread)
        self.n = len(world.hosts)
        self.f = (self.n - 1) // 2

    def keep(self, sender: int, to: int, message: object) -> bool:
        if self.groups and self.groups[sender] != self.groups[to]:
            return False
        if (sender, to) in self.deaf:
            return False
        return self.random.random() >= self.loss

    def turn(self) -> None:
        draw = self.random
        self.loss = draw.choice((0.0, 0.0, 0.05, 0.3, 0.6))
        self.spread = draw.choice((1, 1, 20, 150, 500))
        self.groups = [draw.randrange(2) for _ in range(self.n)] if draw.random() < 0.3 else []
        pairs = [(i, j) for i in range(self.n) for j in range(self.n) if i != j]
        self.deaf = set(draw.sample(pairs, draw.randrange(4))) if draw.random() < 0.4 else set()
        for host in self.world.hosts:
            if host.up and draw.random() < 0.12:
                self.world.crash(host.number, lost_installs=draw.randrange(4))
            elif not host.up and draw.random() < 0.6:
                self.world.start(host.number)

    def clear(self) -> None:
        self.loss, self.spread, self.groups, self.deaf = 0.0, 1, [], set()
        for host in self.world.hosts:
            if not host.up:
                self.world.start(host.number)


@pytest.mark.parametrize("n", [3, 4, 5])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_bad_period_and_then_a_good_one(n: int, seed: int) -> None:
    settings = SETTINGS[seed % len(SETTINGS)]
    world = World(n, seed=seed, options=OPTIONS, **settings)
    weather = Weather(world, seed * 100 + n)
    waiting: list[tuple[int, Request]] = []
    for step in range(12):
        weather.turn()
        for index, client in enumerate(world.clients):
            for number in range(weather.random.randrange(3)):
                request = client.make(put(f"k{weather.random.randrange(6)}", f"{step}.{number}"))
                waiting.append((index, request))
                some = [k for k in range(n) if weather.random.random() < 0.6]
                client.send([request], to=some)
        world.run(weather.random.randrange(50, 700))
        world.check_prefixes()
    weather.clear()

    def done() -> bool:
        return all(world.clients[index].outcome(request) is not None for index, request in waiting)

    for _ in range(40):  # clients repeat what is not answered yet
        for index, request in waiting:
            if world.clients[index].outcome(request) is None:
                world.clients[index].send([request])
        if world.run(1000, done):
            break
    assert done(), (
        world.executed(),
        [(h.node.state.view, h.node.replica.phase()) for h in world.alive if h.node],
    )
    assert world.run(10_000, world.agree), world.executed()
    world.check_prefixes()
    for host in world.hosts:
        assert not [fields for fields in world.noticed(host.number, "alarm")]
        assert not world.noticed(host.number, "diverged")
    check_exactly_once(world, [request for _, request in waiting])


def check_exactly_once(world: World, requests: list[Request]) -> None:
    """I-12: of each number, one execution with effect in the agreed chain."""
    store = next(h.store for h in world.hosts if h.store.block(1) is not None)
    counted: dict[tuple[bytes, int, int], int] = {}
    for height in range(1, max(world.executed()) + 1):
        stored = store.block(height)
        if stored is None or stored.receipts is None:
            return  # this disk begins with a snapshot
        for receipt in msgspec.msgpack.decode(stored.receipts, type=list[Receipt]):
            key = (receipt.client, receipt.session, receipt.seq)
            counted[key] = counted.get(key, 0) + (receipt.status == OK)
    assert all(counted[(r.client, r.session, r.seq)] == 1 for r in requests)
