"""What once went wrong in the view change and the checkpoints, and must not again."""

from __future__ import annotations

import pytest

from support.world import World
from tepbft.execution.apps import kv
from tepbft.sim.job import Job, run_chunk
from tepbft.trusted.port import Install


@pytest.mark.parametrize(
    ("nodes", "seed"),
    [
        (3, 131),  # a component that declines a NEW-VIEW was asked for it again without end
        (3, 726),  # K = 4, idle: a divergence in the last blocks was never seen
        (5, 1775),  # a torn append kept a view's certificate and lost its base: no way to leave the view
        (4, 40092),  # a replica that diverged twice waited for a snapshot that an idle chain never makes
    ],
)
def test_seeds_that_failed(nodes: int, seed: int) -> None:
    """Each of these seeds once ended in a hang or a violation."""
    run = run_chunk(Job(nodes=nodes), seed, seed)[0]
    assert run.result.violations == ()


def test_a_declined_new_view_is_not_asked_for_again() -> None:
    """A-57: the component signed another NEW-VIEW of view 1 (its host lost the disk since). The host must
    not spin; view 2 has another primary and goes on."""
    world = World(3)
    world.hosts[1].tc.call(Install(1, b"another start of view 1".ljust(32, b"-")))
    world.crash(0)
    client = world.clients[0]
    requests = client.submit(kv.encode(kv.Put(b"k", b"v")), to=[1, 2])
    world.run(3000)
    world.start(0)
    world.run(3000)
    client.send(requests)
    assert world.run(60_000, client.done(requests))
    assert world.noticed(1, "tc_refused")


def test_the_last_blocks_of_an_idle_chain_become_stable() -> None:
    """A-36: with K = 8 a lone block is certified all the same, a little later, so that its receipt is."""
    world = World(3, checkpoint_interval=8)
    client = world.clients[0]
    requests = client.submit(kv.encode(kv.Put(b"k", b"v")))
    assert world.run(1000, client.done(requests))
    assert world.run(2000, lambda: all(h.node.state.stable_height == 1 for h in world.alive if h.node))
