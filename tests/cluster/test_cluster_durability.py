"""After SIGKILL at any moment a node comes back with every block that it had acknowledged (I-11, I-16)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

import tepbft
from conftest import Running, eventually
from tepbft.execution.apps import kv

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]
ROUNDS = 4


async def _load(folder: str, acknowledged: dict[bytes, int], stop: asyncio.Event) -> None:
    """Write distinct keys and note which were acknowledged, at which height."""
    async with tepbft.Client.open(folder, "client01", timeout_s=90) as client:
        number = 0
        while not stop.is_set():
            keys = [b"k%d" % (number + i) for i in range(16)]
            number += 16
            outcomes = await client.submit_many([kv.encode(kv.Put(key, key)) for key in keys])
            for key, outcome in zip(keys, outcomes, strict=True):
                assert outcome.ok
                acknowledged[key] = outcome.height


def _height(running: Running, node: int) -> int:
    status = running.status(node)
    return status.executed if status is not None else -1


def test_nothing_acknowledged_is_lost(make_cluster: Callable[..., Running]) -> None:
    """Nodes, the primary among them, are killed one after another in the middle of a load."""
    running = make_cluster(nodes=3)
    running.up()
    acknowledged: dict[bytes, int] = {}

    async def torment() -> None:
        stop = asyncio.Event()
        load = asyncio.create_task(_load(str(running.root), acknowledged, stop))
        for round_number in range(ROUNDS):
            await asyncio.sleep(0.4)
            node = round_number % 3
            await asyncio.to_thread(running.kill, node)
            highest = max(acknowledged.values(), default=0)
            await asyncio.to_thread(running.up)
            await asyncio.to_thread(
                eventually,
                lambda node=node, highest=highest: _height(running, node) >= highest,
                f"node {node} has what was acknowledged",
            )
        stop.set()
        await load

    asyncio.run(torment())
    assert acknowledged
    eventually(running.agree, "all nodes agree")
    wanted = sorted(acknowledged)[:: max(1, len(acknowledged) // 100)]
    reads = [kv.encode(kv.Get(key)) for key in wanted]
    found = [
        kv.render(read, outcome.result) for read, outcome in zip(reads, running.submit(*reads), strict=True)
    ]
    assert [item["value"] for item in found] == [key.decode() for key in wanted]
