"""Termination once the world is good: requests, views, catching up (I-21, I-22, I-23)."""

from __future__ import annotations

from typing import Any

from tepbft.sim.host import SimHost
from tepbft.sim.ports import Checker
from tepbft.sim.termination import missing
from tepbft.sim.world import World


class Liveness(Checker):
    """I-21 and I-23: everything owed is done within the limit. I-22: and few views were needed."""

    name = "I-21"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._views: dict[tuple[int, int], None] = {}

    def on_notice(self, host: SimHost, name: str, fields: dict[str, Any]) -> None:
        """Views entered after the world healed, each counted once."""
        if name == "view_entered" and self.world.network.healed and host.node is not None:
            self._views[(host.node.state.cfg.number, fields["view"])] = None

    def on_end(self) -> None:
        """See `Checker`."""
        world = self.world
        if world.violations or not world.network.healed or not world.config.expect_termination:
            return
        owed = missing(world)
        if owed:
            name = "I-21" if owed.startswith(("client", "the component")) else "I-23"
            where = "; ".join(_where(host) for host in world.hosts)
            world.violate(name, f"{owed} {world.config.limit_ms} ms after the world healed [{where}]")
        # Back-off: at most f Byzantine primaries in a row, each view given up after growing patience.
        rounds = 8 + len(world.chain.configurations)
        if len(self._views) > rounds * world.n:
            world.violate("I-22", f"{len(self._views)} views after the world healed")


def _where(host: SimHost) -> str:
    node = host.node
    if node is None:
        return f"{host.number}: down"
    state = node.state
    return (
        f"{host.number}{'!' if host.byzantine else ''}: cfg {state.cfg.number} view {state.view}"
        f"{'' if state.active else ' (leaving)'} at {state.executed}/{state.stable_height}"
        f"{'' if state.voter else ' silent'}"
    )


LIVENESS: tuple[type[Checker], ...] = (Liveness,)
