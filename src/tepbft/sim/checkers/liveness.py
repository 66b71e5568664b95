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
        self._tried: dict[tuple[int, int], None] = {}
        self._healed: tuple[int, int] | None = None
        """Time and height at which the world was seen to be healed."""

    def on_notice(self, host: SimHost, name: str, fields: dict[str, Any]) -> None:
        """Views entered or tried after the world healed, each counted once."""
        if name not in ("view_entered", "view_left") or not self.world.network.healed or host.node is None:
            return
        place = (host.node.state.cfg.number, fields["to"] if name == "view_left" else fields["view"])
        self._tried[place] = None
        if name == "view_entered":
            self._views[place] = None
        self._patience()

    def _patience(self) -> None:
        """I-22: views are given up after growing patience, so that their number grows slowly (A-59);
        blocks that are executed shorten it again."""
        world = self.world
        if self._healed is None:
            self._healed = (world.now, world.chain.height)
        began_ms, height = self._healed
        longest = 2 * (world.now - began_ms) // world.config.options.t_max_ms
        bound = self._rounds() + longest + world.chain.height - height
        if len(self._tried) > bound and world.config.expect_termination:
            world.violate("I-22", f"{len(self._tried)} views were tried since the world healed")

    def _rounds(self) -> int:
        """At most f Byzantine primaries in a row, each view given up after growing patience."""
        return (8 + len(self.world.chain.configurations)) * self.world.n

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
        if len(self._views) > self._rounds():
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
