"""When a healed world has done what it owes (I-21, I-23)."""

from __future__ import annotations

from tepbft.core.configuration import replacement_gap
from tepbft.sim.world import World


def missing(world: World) -> str:
    """What is still owed: answers to clients, equal heads at correct nodes, admissions. Empty if nothing."""
    for client in world.clients:
        if not client.idle:
            return f"client {client.index} still waits"
    heads: dict[bytes, int] = {}
    for host in world.correct():
        if host.node is None:
            return f"host {host.number} is down"
        state = host.node.state
        if state.diverged_at >= 0 or state.transfer is not None or state.paused:
            return f"host {host.number} has not caught up"
        heads[state.head.digest()] = state.executed
    if len(heads) != 1:
        return f"heads at {sorted(heads.values())}"
    return _unadmitted(world)


def _unadmitted(world: World) -> str:
    """A component that could be admitted by now (its rate limit has passed) and is not."""
    newest = world.chain.newest
    for host in world.correct():
        if host.node is None or host.member:
            continue
        member = newest.members[host.number]
        gap = world.genesis.parameters.min_config_gap
        needed = member.replaced_at + replacement_gap(member, gap)
        if host.node.state.executed + 1 >= needed:
            return f"the component of host {host.number} is not admitted"
    return ""
