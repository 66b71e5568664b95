"""What a correct node or a Byzantine host might do next: one candidate action, or None.

Candidates are drawn where something can come of them; whether they are enabled is for
`World.apply` to say. Byzantine hosts are kept able: a departure that nobody would accept
is not asked of a component, because it would only burn it (D4).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tepbft.model import rules
from tepbft.model.component import Component
from tepbft.model.facts import ROOT, NewView
from tepbft.model.setup import Action
from tepbft.model.world import World

Choice = Callable[[World, int, Random], Action | None]


def _replacement(world: World, cfg: int, rng: Random) -> tuple[int, int] | None:
    """(node, component) that could be ordered as the next change, at random."""
    members = world.facts.configurations[cfg].members
    spare = [
        (component.node, component.id)
        for owned in world.owned
        for component in owned
        if members[component.node] != component.id
    ]
    if not spare or world.facts.configurations[cfg].number + 1 >= world.setup.configurations:
        return None
    wanted = [
        (node, identity)
        for node, identity in spare
        if (replica := world.replicas[node]) is not None and replica.component == identity
    ]
    if wanted and rng.random() < 0.7:
        return wanted[int(rng.random() * len(wanted))]
    return spare[int(rng.random() * len(spare))]


def _new_block(
    world: World, component: Component, view: int, height: int, config: float, rng: Random
) -> Action:
    digest = world.labels + 1
    if world.setup.barrier and rng.random() < config:
        change = _replacement(world, component.cfg, rng)
        if change is not None:
            return ("propose", component.id, view, height, digest, *change)
    return ("propose", component.id, view, height, digest, -1, -1)


# --- correct nodes ----------------------------------------------------------------------------


def propose(world: World, node: int, rng: Random) -> Action | None:
    """The primary proposes at the lowest height where it has not: re-proposals first."""
    replica = world.replicas[node]
    if replica is None or replica.silent or not replica.active:
        return None
    view = replica.view
    if world.facts.configurations[replica.cfg].primary(view) != node or view != replica.certified_view:
        return None
    component = world.components[replica.component]
    used = component.registers if component.lock_view == view else {}
    found = replica.certified
    height = max(replica.stable, found.base if found is not None else 0) + 1
    while height in used:
        height += 1
    if height > world.setup.heights or height > replica.stable + world.setup.window:
        return None
    if found is not None and height in found.entries:
        return ("propose", component.id, view, height, found.entries[height], -1, -1)
    if height > replica.closing or height > replica.barrier:
        return None
    return _new_block(world, component, view, height, 0.6, rng)


def vote(world: World, node: int, rng: Random) -> Action | None:
    """A backup votes for something that is proposed in its view."""
    replica = world.replicas[node]
    if replica is None or replica.silent or not replica.active:
        return None
    view = replica.view
    proposed = world.facts.prepared_in.get((replica.cfg, view))
    if not proposed:
        return None
    component = world.components[replica.component]
    used = component.registers if component.lock_view == view else {}
    top = replica.stable + world.setup.window
    open_ = [found for found in proposed if found[0] not in used and replica.stable < found[0] <= top]
    if not open_:
        return None
    height, digest = open_[int(rng.random() * len(open_))]
    return ("vote", component.id, view, height, digest)


def execute(world: World, node: int, rng: Random) -> Action | None:
    """Execute the next final block, or fetch the state of the stable checkpoint."""
    return ("execute", node)


def checkpoint(world: World, node: int, rng: Random) -> Action | None:
    """Sign a checkpoint of what is executed."""
    return ("checkpoint", node)


def stable(world: World, node: int, rng: Random) -> Action | None:
    """Adopt a checkpoint certificate above the own stable height."""
    replica = world.replicas[node]
    if replica is None:
        return None
    higher = [height for height in world.facts.stable[replica.cfg] if height > replica.stable]
    return ("stable", node, higher[int(rng.random() * len(higher))]) if higher else None


def depart(world: World, node: int, rng: Random) -> Action | None:
    """Leave the view; mostly for the next one."""
    replica = world.replicas[node]
    if replica is None:
        return None
    to = _next_view(world, replica.cfg, replica.view, rng)
    return ("depart", node, to) if to <= world.setup.views else None


def _next_view(world: World, cfg: int, view: int, rng: Random) -> int:
    """Where to go from `view`: often where others went (one VIEW-CHANGE moves every correct node)."""
    if rng.random() < 0.6:
        known = world.facts.view_changes
        others = [to for to in range(view + 1, world.setup.views + 1) if (cfg, to) in known]
        if others:
            return others[int(rng.random() * len(others))]
    return view + (1 if rng.random() < 0.8 else 2)


def install(world: World, node: int, rng: Random) -> Action | None:
    """The awaited primary merges a random set of departures, its own included."""
    replica = world.replicas[node]
    if replica is None or replica.active or replica.silent:
        return None
    view = replica.view
    if world.facts.configurations[replica.cfg].primary(view) != node:
        return None
    return _installation(world, replica.component, replica.cfg, view, node, rng)


def _installation(world: World, identity: int, cfg: int, view: int, own: int, rng: Random) -> Action | None:
    """An install action over a random quorum of departures; `own` = -1 needs none of its own."""
    table = world.facts.view_changes.get((cfg, view))
    quorum = world.certificate_quorum
    if table is None or len(table) < quorum or (own >= 0 and own not in table):
        return None
    nodes = [node for node in table if node != own]
    chosen = rng.sample(nodes, quorum - 1 if own >= 0 else quorum)
    if own >= 0:
        chosen.append(own)
    picks = tuple((node, int(rng.random() * len(table[node]))) for node in chosen)
    return ("install", identity, view, picks)


def acknowledge(world: World, node: int, rng: Random) -> Action | None:
    """Acknowledge a NEW-VIEW of this view or a later one."""
    replica = world.replicas[node]
    if replica is None or replica.silent:
        return None
    low, new_views = max(replica.view, replica.certified_view + 1), world.facts.new_views
    views = [v for v in range(low, world.setup.views + 1) if (replica.cfg, v) in new_views]
    if not views:
        return None
    view = views[int(rng.random() * len(views))]
    return ("ack", node, view, int(rng.random() * len(new_views[(replica.cfg, view)])))


def enter(world: World, node: int, rng: Random) -> Action | None:
    """Become active in a certified view."""
    replica = world.replicas[node]
    if replica is None:
        return None
    low = max(replica.view, replica.certified_view + 1)
    found = [new_view for new_view in world.facts.counted_views[replica.cfg] if new_view.view >= low]
    if not found:
        return None
    chosen = found[int(rng.random() * len(found))]
    known = world.facts.new_views[(chosen.cfg, chosen.view)]
    index = next(i for i, new_view in enumerate(known) if new_view is chosen)
    return ("enter", node, chosen.view, index)


def forget(world: World, node: int, rng: Random) -> Action | None:
    """Mutant `amnesia`."""
    return ("forget", node) if world.mutant == "amnesia" and rng.random() < 0.3 else None


def pass_barrier(world: World, node: int, rng: Random) -> Action | None:
    """Learn of a barrier, begin the next configuration, or be carried into it."""
    replica = world.replicas[node]
    if replica is None:
        return None
    facts, draw = world.facts, rng.random()
    if replica.following >= 0:
        return ("begin", node)
    number = facts.configurations[replica.cfg].number
    if draw < 0.5:
        final = [height for _, height, digest in facts.quorums[replica.cfg] if facts.is_config(digest)]
        return ("learn", node, final[int(rng.random() * len(final))]) if final else None
    later = [
        (cfg, height)
        for cfg, heights in facts.stable.items()
        if heights and facts.configurations[cfg].number > number
        for height in heights
    ]
    return ("transfer", node, *later[int(rng.random() * len(later))]) if later else None


def lose(world: World, node: int, rng: Random) -> Action | None:
    """Lose the component, get a cold one."""
    return ("lose", node, max(world.components) + 1) if rng.random() < 0.3 else None


# --- Byzantine hosts --------------------------------------------------------------------------


def _component(world: World, node: int, rng: Random) -> Component:
    """One of the host's components; mostly one that counts."""
    owned = world.owned[node]
    if len(owned) == 1:
        return owned[0]
    counted = [component for component in owned if world.counts(component)]
    if counted and rng.random() < 0.9:
        return counted[int(rng.random() * len(counted))]
    return owned[int(rng.random() * len(owned))]


def byzantine_propose(world: World, node: int, rng: Random) -> Action | None:
    """Propose anything in any view that the component would still sign for."""
    component = _component(world, node, rng)
    if component.cfg < 0:
        return None
    facts, configuration = world.facts, world.facts.configurations[component.cfg]
    lowest = 0 if world.mutant == "late" else component.view
    views = [
        view
        for view in range(lowest, world.setup.views + 1)
        if configuration.primary(view) == node and (view == 0 or (component.cfg, view) in facts.new_views)
    ]
    if not views:
        return None
    view = views[int(rng.random() * len(views))]
    top = min(component.floor + world.setup.window, world.setup.heights)
    if top <= component.floor:
        return None
    height = component.floor + 1 + int(rng.random() * (top - component.floor))
    known = facts.new_views.get((component.cfg, view))
    if known and rng.random() < 0.7:
        entries = known[int(rng.random() * len(known))].entries
        if height in entries:
            return ("propose", component.id, view, height, entries[height], -1, -1)
    return _new_block(world, component, view, height, 0.5, rng)


def byzantine_vote(world: World, node: int, rng: Random) -> Action | None:
    """Vote for any proposal that the component would sign for."""
    component = _component(world, node, rng)
    cfg, prepared = component.cfg, world.facts.prepared_in
    lowest = 0 if world.mutant == "late" else component.view
    views = [view for view in range(lowest, world.setup.views + 1) if (cfg, view) in prepared]
    if not views:
        return None
    view = views[int(rng.random() * len(views))]
    found = prepared[(cfg, view)]
    height, digest = found[int(rng.random() * len(found))]
    return ("vote", component.id, view, height, digest)


def byzantine_depart(world: World, node: int, rng: Random) -> Action | None:
    """Depart with content of the host's choice; never with content that everybody would refuse."""
    component = _component(world, node, rng)
    if not world.counts(component) or component.view >= world.setup.views:
        return None
    facts, cfg, mutant = world.facts, component.cfg, world.mutant
    to = min(_next_view(world, cfg, component.view, rng), world.setup.views)
    candidates: list[NewView | None] = [
        found
        for found in (
            facts.counted_views[cfg]
            if mutant != "noack"
            else [found for (named, _), known in facts.new_views.items() if named == cfg for found in known]
        )
        if component.lock_view <= found.view < to
    ]
    if component.lock_view == 0:
        candidates.append(None)
    if not candidates:
        return None
    certified = candidates[int(rng.random() * len(candidates))]
    floor = facts.configurations[cfg].floor
    base = floor if certified is None or mutant == "nobasecp" else certified.base
    lowest = max(base, component.floor if mutant != "floor" else 0)
    heights = [height for height in (floor, *facts.stable[cfg]) if height >= lowest]
    if not heights:
        return None
    height = heights[int(rng.random() * len(heights))]
    listed = _listed(world, component, certified, height, rng)
    message = world.view_change(component, to, height, certified, listed)
    if rules.evidence(facts, message, world.setup.window, mutant) is None:
        return None
    index = 0
    if certified is not None:
        known = facts.new_views[(cfg, certified.view)]
        index = next(i for i, found in enumerate(known) if found is certified)
    pairs = tuple(value for pair in sorted(listed.items()) for value in pair)
    return ("depart_as", component.id, to, certified.view if certified else 0, index, height, pairs)


def _listed(
    world: World, component: Component, certified: NewView | None, checkpoint: int, rng: Random
) -> dict[int, int]:
    """PREPAREs to list: those that the registers ask for, perhaps others that exist."""
    facts, cfg = world.facts, component.cfg
    view = certified.view if certified is not None else 0
    listed: dict[int, int] = {}
    if component.lock_view == view:
        leave_out = world.mutant == "omit" and rng.random() < 0.7
        for height, digest in component.registers.items():
            if height > checkpoint and not (leave_out and rng.random() < 0.6):
                listed[height] = digest
    if rng.random() < 0.3:
        floor = facts.configurations[cfg].floor
        for height, digest in facts.prepared_in.get((cfg, view), ()):
            inside = checkpoint < height <= checkpoint + world.setup.window
            if inside and height not in listed and rules.allowed(certified, floor, height, digest):
                listed[height] = digest
    return listed


def byzantine_install(world: World, node: int, rng: Random) -> Action | None:
    """Merge any quorum of departures, in any view that it leads."""
    component = _component(world, node, rng)
    cfg = component.cfg
    if cfg < 0:
        return None
    primary = world.facts.configurations[cfg].primary
    views = [v for v in range(max(1, component.view), world.setup.views + 1) if primary(v) == node]
    if not views:
        return None
    view = views[int(rng.random() * len(views))]
    if world.mutant == "noack" and rng.random() < 0.3 and (cfg, view) not in world.facts.new_views:
        count = 1 + int(rng.random() * world.setup.heights)
        world.labels += count
        return ("fabricate", component.id, view, tuple(range(world.labels - count + 1, world.labels + 1)))
    return _installation(world, component.id, cfg, view, -1, rng)


def byzantine_floor(world: World, node: int, rng: Random) -> Action | None:
    """Raise the floor, rarely: it mostly hurts the host itself."""
    if rng.random() > (0.4 if world.mutant == "floor" else 0.08):
        return None
    component = _component(world, node, rng)
    return ("floor", component.id, component.floor + 1 + int(rng.random() * 2))


def byzantine_barrier(world: World, node: int, rng: Random) -> Action | None:
    """Start another component, or have one begin a configuration that has a name."""
    owned = world.owned[node]
    if len(owned) < 3 and rng.random() < 0.3:
        return ("spawn", node, max(world.components) + 1)
    component = owned[int(rng.random() * len(owned))]
    configurations = world.facts.configurations
    later = [c for c in configurations.values() if c.number > component.number and c.name != ROOT]
    if not later:
        return None
    begun = [c for c in later if world.monitor.begun.get(c.number) == c.name]
    if begun:
        later = begun
    elif rng.random() < 0.9:
        return None  # before any correct node is there it is mostly a waste
    return ("begin_as", component.id, later[int(rng.random() * len(later))].name)


CORRECT: dict[str, tuple[float, Choice]] = {
    "propose": (0.20, propose),
    "vote": (0.32, vote),
    "execute": (0.12, execute),
    "checkpoint": (0.07, checkpoint),
    "stable": (0.05, stable),
    "depart": (0.012, depart),
    "install": (0.06, install),
    "ack": (0.12, acknowledge),
    "enter": (0.12, enter),
    "forget": (0.04, forget),
    "barrier": (0.20, pass_barrier),
    "lose": (0.01, lose),
}
BYZANTINE: dict[str, tuple[float, Choice]] = {
    "propose": (0.22, byzantine_propose),
    "vote": (0.34, byzantine_vote),
    "depart": (0.02, byzantine_depart),
    "install": (0.10, byzantine_install),
    "floor": (0.02, byzantine_floor),
    "barrier": (0.10, byzantine_barrier),
}
BARRIER_ONLY = ("barrier", "lose")
