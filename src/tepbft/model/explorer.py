"""Random walks and campaigns of them (A6.3, D4).

Every walk draws its own weights for every kind of action on a log scale, and laggards
that hardly ever do certain things: plain random delivery does not reach the deep cases.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from random import Random

from tepbft.model.checks import Violation
from tepbft.model.choices import BARRIER_ONLY, BYZANTINE, CORRECT, Choice
from tepbft.model.mutants import MUTANTS, Mutant
from tepbft.model.setup import Action, Setup
from tepbft.model.world import World

SCALE = (0.1, 0.3, 1.0, 1.0, 3.0)


@dataclass(slots=True)
class Walk:
    """One walk: what was done, and what broke, if anything did."""

    setup: Setup
    schedule: list[Action]
    violation: Violation | None
    coverage: Counter[str]


@dataclass(slots=True)
class Campaign:
    """Many walks: how many, the first failure, the coverage of all."""

    walks: int = 0
    failures: int = 0
    first: Walk | None = None
    first_number: int = -1
    """Number of the first failing walk."""
    coverage: Counter[str] = field(default_factory=Counter)
    interrupted: bool = False


def _chances(setup: Setup, rng: Random) -> tuple[list[float], list[tuple[int, Choice]]]:
    """Weights, and the (node, choice) that each belongs to."""
    weights: list[float] = []
    options: list[tuple[int, Choice]] = []
    drawn = {name: rng.choice(SCALE) for name in (*CORRECT, *BYZANTINE)}
    if setup.barrier and rng.random() < 0.6:
        drawn["depart"] *= 0.2  # or few walks get far enough to see a second configuration
    for node in range(setup.nodes):
        table = BYZANTINE if node in setup.byzantine else CORRECT
        speed = rng.choice((1.0, 1.0, 1.0, 0.3, 0.1))
        for name, (weight, choice) in table.items():
            if name in BARRIER_ONLY and not setup.barrier:
                continue
            if name == "forget" and setup.mutant != "amnesia":
                continue
            lag = 0.02 if rng.random() < 0.08 else 1.0
            weights.append(weight * drawn[name] * speed * lag)
            options.append((node, choice))
    return weights, options


def walk(setup: Setup, rng: Random) -> Walk:
    """Take up to `setup.steps` random steps; fewer if an invariant breaks or nobody can do anything.

    What turned out not to be possible is not drawn again before something has changed.
    """
    world = World(setup)
    weights, options = _chances(setup, rng)
    schedule: list[Action] = []
    violation = None
    sums = list(accumulate(weights))
    open_weights, chances = weights[:], sums
    changed = False
    try:
        while len(schedule) < setup.steps and chances[-1] > 1e-9:
            index = bisect(chances, rng.random() * chances[-1])
            if index == len(options):
                continue  # rounding
            node, choice = options[index]
            action = choice(world, node, rng)
            if action is not None:
                schedule.append(action)
                if world.apply(action):
                    if changed:
                        open_weights, chances = weights[:], sums
                        changed = False
                    continue
                schedule.pop()
            open_weights[index] = 0.0
            chances = list(accumulate(open_weights))
            changed = True
    except Violation as found:
        violation = found
    world.coverage["walks"] += 1
    world.coverage["steps"] += len(schedule)
    return Walk(setup, schedule, violation, world.coverage)


def replay(setup: Setup, schedule: Sequence[Action]) -> Violation | None:
    """Carry out a schedule; what is not enabled is skipped."""
    world = World(setup)
    try:
        for action in schedule:
            world.apply(action)
    except Violation as found:
        return found
    return None


def bounds(nodes: int, barrier: bool, mutant: Mutant, rng: Random) -> Setup:
    """The bounds of one walk: small windows and few heights, many views (D4); drawn anew each time."""
    tolerated = (nodes - 1) // 2
    byzantine = tolerated if not barrier or rng.random() < 0.6 else rng.randrange(tolerated + 1)
    if mutant == "amnesia" and rng.random() < 0.3:
        byzantine = 0
    chosen = tuple(sorted(rng.sample(range(nodes), byzantine)))
    if barrier:
        window, heights, views = rng.choice(((3, 4, 3), (2, 4, 3), (3, 6, 2), (2, 3, 4)))
    else:
        window, heights, views = rng.choice(((3, 4, 4), (2, 3, 6), (2, 2, 6)))
    steps = (60 if nodes == 3 else 90) * (2 if barrier else 1)
    return Setup(
        nodes=nodes,
        byzantine=chosen,
        window=window,
        heights=heights,
        views=views,
        steps=steps,
        barrier=barrier,
        mutant=mutant,
    )


def numbered_walk(
    number: int, *, seed: int, nodes: int, barrier: bool, mutant: Mutant, reported: tuple[str, ...] = ()
) -> Walk:
    """Walk `number` of the campaign with `seed`: the same one on every machine."""
    rng = Random((seed << 40) + number)
    setup = bounds(nodes, barrier or (mutant != "" and MUTANTS[mutant].barrier), mutant, rng)
    return walk(replace(setup, reported=reported), rng)


def campaign(
    walks: int,
    *,
    seed: int,
    nodes: int = 3,
    barrier: bool = False,
    mutant: Mutant = "",
    reported: tuple[str, ...] = (),
    stop_at: int = 1,
    progress: Callable[[Campaign], None] | None = None,
) -> Campaign:
    """Up to `walks` walks; ends early after `stop_at` failures, or when interrupted.
    `progress` is called every 1000 walks."""
    found = Campaign()
    try:
        for number in range(walks):
            one = numbered_walk(
                number, seed=seed, nodes=nodes, barrier=barrier, mutant=mutant, reported=reported
            )
            found.walks += 1
            found.coverage.update(one.coverage)
            if one.violation is not None:
                found.failures += 1
                if found.first is None:
                    found.first, found.first_number = one, number
                if found.failures >= stop_at:
                    break
            if progress is not None and found.walks % 1000 == 0:
                progress(found)
    except KeyboardInterrupt:
        found.interrupted = True
    return found
