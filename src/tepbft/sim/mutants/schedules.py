"""Worlds and schedules that lead where a particular defect does harm: who hears whom, and when.

All of them end when the world heals; against production code they must come to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from tepbft.sim.profiles import WorldConfig
from tepbft.sim.world import BEGIN_MS, World
from tepbft.types import Height, Millis, NodeId


def tuned(
    parameters: dict[str, Any] | None = None, options: dict[str, Any] | None = None, **changes: Any
) -> Callable[[WorldConfig], WorldConfig]:
    """A world in which these settings are fixed and the rest is as the seed drew it."""

    def change(config: WorldConfig) -> WorldConfig:
        return replace(
            config,
            parameters=msgspec.structs.replace(config.parameters, **(parameters or {})),
            options=msgspec.structs.replace(config.options, **(options or {})),
            **changes,
        )

    return change


def apart(*pairs: tuple[NodeId, NodeId], until_ms: Millis | None = None) -> Callable[[World], None]:
    """A schedule: these pairs of hosts do not hear each other until then (None: until the world heals)."""

    def stage(world: World) -> None:
        end = BEGIN_MS + (world.config.heal_ms if until_ms is None else until_ms)
        links = [(a, b) for a, b in pairs] + [(b, a) for a, b in pairs]
        for link in links:
            world.network.blocked[link] = None
        world.at(end, _join, world, links)

    return stage


def _join(world: World, links: Sequence[tuple[NodeId, NodeId]]) -> None:
    for link in links:
        world.network.blocked.pop(link, None)


def alone_after(host: NodeId, height: Height) -> Callable[[World], None]:
    """A schedule: once a height is agreed, nobody hears a host and it hears nobody, until the world heals."""

    def watch(world: World) -> None:
        links = [link for other in range(world.n) for link in ((host, other), (other, host))]
        if world.network.healed:
            _join(world, links)
            return
        if world.chain.height >= height:
            world.network.blocked.update(dict.fromkeys(links))
        world.at(world.now + 5, watch, world)

    def stage(world: World) -> None:
        world.at(world.now + 5, watch, world)

    return stage


def cut_off_in_view_change(absent: NodeId) -> Callable[[World], None]:
    """A schedule: one host is cut off, and as soon as another leaves its view, everybody is, until the
    world heals (S-28)."""

    def watch(world: World) -> None:
        pairs = [(a, b) for a in range(world.n) for b in range(world.n)]
        if world.network.healed:
            _join(world, pairs)
            return
        leaving = any(host.node is not None and not host.node.state.active for host in world.hosts)
        cut = [pair for pair in pairs if leaving or absent in pair]
        world.network.blocked.update(dict.fromkeys(cut))
        world.at(world.now + 1, watch, world)

    return watch


def sluggish(low_ms: Millis, high_ms: Millis) -> Callable[[World], None]:
    """A network that stays slow after it has healed: delays above the first timers (S-29)."""

    def stage(world: World) -> None:
        network = world.network
        plain = network.arrivals
        rng = network._rng

        def arrivals(sender: NodeId, to: NodeId, name: str, now: Millis) -> tuple[Millis, ...]:
            if network.healed:
                return (now + rng.randint(low_ms, high_ms),)
            return plain(sender, to, name, now)

        network.arrivals = arrivals  # type: ignore[method-assign]

    return stage
