"""The normal case of TEP-BFT, in memory."""

from __future__ import annotations

import pytest

from support.world import World
from tepbft.execution.loader import load_operations


def put(key: str, value: str) -> bytes:
    return load_operations("kv").parse(["put", key, value])


@pytest.mark.parametrize("n", [3, 4, 5, 7])
def test_requests_execute_everywhere_and_all_heads_agree(n: int) -> None:
    world = World(n)
    client = world.clients[0]
    requests = client.submit(*[put(f"k{i}", "v") for i in range(20)])
    assert world.run(2000, client.done(requests))
    world.run(500)
    assert world.agree()
    assert min(world.executed()) >= 1
    assert all(host.node.state.view == 0 for host in world.alive if host.node)
