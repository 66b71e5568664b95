"""Worlds in which the scenarios of the catalogue show what they can do (D2, D4).

`duel` is where attacks are tried: f Byzantine hosts, small windows, few heights, many
views. The scenarios of clients and execution (S-41 to S-47) are worlds of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import msgspec

from tepbft.execution.apps.kv import KeyValue
from tepbft.execution.port import Application, Context
from tepbft.sim.adversaries.clients import ForgedReplies, RogueRequests, WithheldReplies
from tepbft.sim.adversaries.new_view import WithheldAcks
from tepbft.sim.adversaries.primary import Hole, InvalidContents
from tepbft.sim.adversaries.toolkit import composite
from tepbft.sim.ports import Strategy
from tepbft.sim.profiles import PROFILES, WorldConfig, draw
from tepbft.sim.world import World


def duel(seed: int, nodes: int) -> WorldConfig:
    """A world whose f Byzantine hosts lead often: time-out storms, some loss, some order lost."""
    rng = Random(f"{seed}/duel/{nodes}")
    base = draw(seed, nodes, PROFILES["byzantine"], "stub")
    f = (nodes - 1) // 2
    first = rng.choice((0, 0, rng.randrange(nodes)))
    return replace(
        base,
        byzantine=tuple(sorted((first + i) % nodes for i in range(f))),
        weights=(("storm", rng.choice((0.05, 0.15, 0.3))),),
        step_ms=60,
        loss=rng.choice((0.0, 0.02, 0.1)),
        client_loss=0.0,
        heal_ms=2500,
        requests=10,
        think_ms=200,
        isolate=rng.choice((0.0, 0.1)),
    )


def calm(seed: int, nodes: int) -> WorldConfig:
    """No faults at all."""
    return draw(seed, nodes, PROFILES["calm"], "stub")


def _with_liars(config: WorldConfig) -> WorldConfig:
    """The last f hosts are Byzantine: view 0 has a correct primary."""
    n = config.nodes
    return replace(config, byzantine=tuple(range(n - (n - 1) // 2, n)))


def _pipelining(seed: int, nodes: int) -> WorldConfig:
    config = draw(seed, nodes, PROFILES["lossy"], "stub")
    width = config.parameters.client_window
    return replace(config, pipeline=2 * width, requests=20, reverse=0.5, session_changes=0.15, loss=0.05)


def _sessions(seed: int, nodes: int) -> WorldConfig:
    return replace(_with_liars(calm(seed, nodes)), session_changes=0.5, requests=12, client_loss=0.2)


def _lost_replies(seed: int, nodes: int) -> WorldConfig:
    config = _with_liars(calm(seed, nodes))
    few = msgspec.structs.replace(config.parameters, keep_blocks=max(2, config.parameters.window))
    return replace(config, parameters=few, client_loss=0.5, laggards=((0, "Prepare", 0.9),))


def _liars(seed: int, nodes: int) -> WorldConfig:
    """Timers that fit what the liars ask for: a flood that is admitted must be served in time."""
    config = _with_liars(calm(seed, nodes))
    options = msgspec.structs.replace(config.options, t_request_ms=600, t_view_change_ms=600)
    roomy = msgspec.structs.replace(config.parameters, block_requests=16)
    return replace(config, options=options, parameters=roomy, client_loss=0.1, delay_ms=(1, 5), tail=0.0)


def _null_blocks(seed: int, nodes: int) -> WorldConfig:
    return replace(duel(seed, nodes), requests=12)


def _one_differs(seed: int, nodes: int) -> WorldConfig:
    return replace(calm(seed, nodes), byzantine=(nodes - 1,))


def _all_differ(seed: int, nodes: int) -> WorldConfig:
    return replace(calm(seed, nodes), expect_termination=False, limit_ms=5000, requests=6, late_requests=0)


class Unreliable(KeyValue):
    """S-46: an application whose results depend on which replica executes, for its first operations."""

    def __init__(self, replica: int, times: int) -> None:
        self._replica, self._left = replica, times

    def execute(self, context: Context, operation: bytes) -> bytes:
        """Leave a mark that no other replica leaves."""
        if self._left > 0:
            self._left -= 1
            context.put(b"mark", b"%d.%d" % (self._replica, self._left))
            return super().execute(context, operation) + b"%d" % self._replica
        return super().execute(context, operation)


def _one_unreliable(world: World) -> None:
    """The application of the last host differs for a while."""
    made = iter(range(10**9))

    def make() -> Application:
        replica = next(made)  # hosts start in order, and none of them crashes here
        return Unreliable(replica, 2) if replica == world.n - 1 else KeyValue()

    world.application_factory = make


def _all_unreliable(world: World) -> None:
    made = iter(range(10**9))
    world.application_factory = lambda: Unreliable(next(made), 10**9)


@dataclass(frozen=True)
class Scenario:
    """A named world. `strategies` are for its Byzantine hosts, repeated as needed."""

    name: str
    expect: str
    config: Callable[[int, int], WorldConfig]
    strategies: tuple[type[Strategy], ...] = ()
    prepare: Callable[[World], None] | None = None
    checked: bool = True
    """False where correct hosts cannot keep the invariants: the scenario judges by what clients got."""

    def chosen(self, config: WorldConfig) -> list[type[Strategy]]:
        """One strategy per Byzantine host."""
        return [self.strategies[i % len(self.strategies)] for i in range(len(config.byzantine))]


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("s41-pipelining", "each request executes once, whatever the order (I-12)", _pipelining),
        Scenario("s42-rogue-client", "no view change; bounded state", _liars, (RogueRequests,)),
        Scenario("s43-sessions", "old sessions are stale, new ones fresh", _sessions, (RogueRequests,)),
        Scenario("s44-lost-replies", "the cached reply, after any time", _lost_replies, (WithheldReplies,)),
        Scenario("s45-forged-replies", "no lie is accepted (I-14)", _liars, (ForgedReplies,)),
        Scenario(
            "s46-one-differs",
            "it notices, takes the state of the others, and votes again",
            _one_differs,
            (Strategy,),
            _one_unreliable,
        ),
        Scenario(
            "s46-all-differ",
            "alarm and halt; no client accepts anything",
            _all_differ,
            prepare=_all_unreliable,
            checked=False,
        ),
        Scenario(
            "s47-null-blocks",
            "identical headers everywhere",
            _null_blocks,
            (composite("s47-holes-and-duplicates", Hole, InvalidContents, WithheldAcks),),
        ),
    )
}
