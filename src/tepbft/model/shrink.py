"""A failing schedule without the actions that it does not need (D4), and schedules in words."""

from __future__ import annotations

from collections.abc import Sequence

from tepbft.model.checks import Violation, name_of
from tepbft.model.explorer import replay
from tepbft.model.facts import Facts
from tepbft.model.setup import Action, Setup
from tepbft.model.world import World


def shrink(setup: Setup, schedule: Sequence[Action], violation: Violation) -> list[Action]:
    """Remove chunks, then single actions, while the same invariant still breaks.

    The result is minimal: without any one of its actions the violation is gone.
    """
    kept = list(schedule)
    size = max(1, len(kept) // 2)
    while True:
        index, removed = 0, False
        while index < len(kept):
            shorter = kept[:index] + kept[index + size :]
            found = replay(setup, shorter)
            if found is not None and found.invariant == violation.invariant:
                kept, removed = shorter, True
            else:
                index += size
        if size == 1 and not removed:
            return _enabled(setup, kept)
        size = max(1, size // 2)


def _enabled(setup: Setup, schedule: Sequence[Action]) -> list[Action]:
    """The actions that have an effect; the last one is the one that breaks the invariant."""
    world, kept = World(setup), []
    for action in schedule:
        try:
            if world.apply(action):
                kept.append(action)
        except Violation:
            kept.append(action)
            break
    return kept


def describe(setup: Setup, schedule: Sequence[Action]) -> list[str]:
    """A schedule, one line per action; the last line says what it broke."""
    world, lines = World(setup), []
    for action in schedule:
        who = _who(world, action)
        broken: Violation | None = None
        try:
            world.apply(action)
        except Violation as found:
            broken = found
        lines.append(f"{who} {_what(world, action)}")
        if broken is not None:
            lines.append(f"VIOLATION of {broken.invariant}: {broken.detail}")
            break
    return lines


BY_COMPONENT = ("propose", "vote", "depart_as", "install", "fabricate", "floor", "begin_as")


PLAIN = {
    "execute": "executes the next final block",
    "checkpoint": "signs a checkpoint of what it executed",
    "begin": "begins the next configuration",
    "lose": "loses its component and gets a cold one, component",
    "spawn": "starts component",
    "forget": "lets its component forget its registers",
}


def _who(world: World, action: Action) -> str:
    node = action[1]
    suffix = ""
    if action[0] in BY_COMPONENT:
        component = world.components.get(action[1])
        if component is None:
            return f"component {action[1]}"
        node = component.node
        if len(world.owned[node]) > 1:
            suffix = f", component {component.id}"
    kind = "Byzantine host" if world.replicas[node] is None else "node"
    return f"{kind} {node}{suffix}"


def _entries(facts: Facts, entries: dict[int, int]) -> str:
    return ", ".join(f"{height}: {name_of(facts, digest)}" for height, digest in sorted(entries.items()))


def _what(world: World, action: Action) -> str:
    facts = world.facts
    match action:
        case ("propose" | "vote" as kind, _, view, height, digest, *_):
            verb = "proposes" if kind == "propose" else "votes for"
            return f"{verb} {name_of(facts, digest)} at (view {view}, height {height})"
        case ("depart", _, to):
            return f"leaves for view {to}"
        case ("depart_as", _, to, view, _, checkpoint, prepares):
            listed = dict(zip(prepares[::2], prepares[1::2], strict=True))
            shown = f"shows view {view}, checkpoint {checkpoint}, lists {{{_entries(facts, listed)}}}"
            return f"leaves for view {to}, {shown}"
        case ("install", identity, view, picks):
            known = facts.new_views.get((world.components[identity].cfg, view), [])
            made = f": base {known[-1].base}, {{{_entries(facts, known[-1].entries)}}}" if known else ""
            return f"merges view {view} from nodes {sorted(node for node, _ in picks)}{made}"
        case ("fabricate", _, view, entries):
            return f"invents view {view} with blocks {list(entries)}"
        case ("ack", _, view, index):
            return f"acknowledges NEW-VIEW {index} of view {view}"
        case ("enter", _, view, index):
            return f"enters view {view} (NEW-VIEW {index})"
        case ("stable", _, height):
            return f"adopts the checkpoint certificate at height {height}"
        case ("learn", _, height):
            return f"sees that the CONFIG block at height {height} is final"
        case ("floor", _, height):
            return f"raises the floor to {height}"
        case ("begin_as", _, cfg):
            return f"has it begin configuration {name_of(facts, cfg)}"
        case ("transfer", _, cfg, height):
            return f"fetches the state at {height} in configuration {name_of(facts, cfg)}"
        case (kind, _, *rest):
            plain = PLAIN.get(str(kind), str(kind))
            return " ".join([plain, *(str(value) for value in rest)])
    raise ValueError(f"no action: {action!r}")
