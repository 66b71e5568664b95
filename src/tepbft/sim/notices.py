"""What a correct node says of itself, as trace events and counters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tepbft.core.events import Notice

if TYPE_CHECKING:
    from tepbft.sim.host import SimHost
    from tepbft.sim.world import World


def note_notice(world: World, host: SimHost, notice: Notice) -> None:
    """A correct node emitted a notice: trace and counters."""
    name, fields = notice.name, notice.fields
    coverage = world.coverage
    match name:
        case "executed":
            world.trace("execute", host.number, fields["height"], fields["view"])
        case "stable":
            world.trace("stable", host.number, fields["height"])
        case "view_entered":
            world.trace("view", host.number, fields["view"])
            coverage["view_changes"] += 1
        case "view_change_requested" | "view_left":
            world.trace(name, host.number, fields.get("target", fields.get("to")), fields.get("cause", ""))
        case "state_transferred":
            coverage.count("transfers")
            coverage.count("transfers_of_laggards", 0 if host.wiped else 1)
            world.trace(name, host.number, fields["height"])
        case "tc_refused":
            coverage.count("refusals")
            world.trace(name, host.number, fields["code"])
        case "diverged" | "healed":
            coverage.count(name)
            world.trace(name, host.number, fields["height"])
        case "configuration":
            world.trace(name, host.number, fields["number"])
        case "peer_fault" | "alarm":
            world.trace(name, host.number, fields.get("code", fields.get("what")), fields.get("sender", -1))
        case _:
            pass
