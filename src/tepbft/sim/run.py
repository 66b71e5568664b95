"""One seed, one run, one result: the way into the simulator.

The faults stop at `heal_ms`; after that the run must terminate: every request of a
correct client answered, every correct node at the same head (I-21, I-23).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from random import Random
from typing import Any

from tepbft.errors import TepbftError
from tepbft.sim.checkers import CHECKERS
from tepbft.sim.mischief import MISCHIEF
from tepbft.sim.ports import Checker, Strategy, TraceSink
from tepbft.sim.profiles import PROFILES, Profile, WorldConfig, draw
from tepbft.sim.termination import missing
from tepbft.sim.violations import SeedResult
from tepbft.sim.world import BEGIN_MS, World

Mutant = Callable[[], AbstractContextManager[Any]]
"""Makes a context in which the production code has one planted defect."""


def run_seed(
    seed: int,
    *,
    protocol: str = "tep",
    nodes: int = 3,
    profile: str | Profile = "everything",
    strategies: Sequence[type[Strategy]] | None = None,
    mutant: Mutant | None = None,
    signatures: str = "stub",
    trace: TraceSink | None = None,
) -> SeedResult:
    """Run the world that `seed` draws under `profile`. `strategies` are what Byzantine hosts draw
    from (None: the built-in mischief); `mutant` plants a defect for the length of the run."""
    if protocol != "tep":
        raise TepbftError(f"protocol {protocol!r}", "the simulator does not run it", "Choose tep.")
    found = PROFILES.get(profile) if isinstance(profile, str) else profile
    if found is None:
        raise TepbftError(f"profile {profile!r}", "it is not known", f"Choose one of: {', '.join(PROFILES)}.")
    config, chosen = plan_seed(seed, nodes, found, strategies, signatures)
    with mutant() if mutant is not None else nullcontext():
        return run_world(config, strategies=chosen, trace=trace)


def plan_seed(
    seed: int,
    nodes: int,
    profile: Profile,
    strategies: Sequence[type[Strategy]] | None = None,
    signatures: str = "stub",
) -> tuple[WorldConfig, list[type[Strategy]]]:
    """The world that `seed` draws, and how each of its Byzantine hosts behaves."""
    config = draw(seed, nodes, profile, signatures)
    rng = Random(f"{seed}/strategies")
    pool = tuple(strategies) if strategies is not None else MISCHIEF
    return config, [rng.choice(pool) for _ in config.byzantine] if pool else []


def run_world(
    config: WorldConfig,
    *,
    strategies: Sequence[type[Strategy]] = (),
    checkers: Sequence[type[Checker]] = CHECKERS,
    trace: TraceSink | None = None,
    prepare: Callable[[World], None] | None = None,
) -> SeedResult:
    """Run one world to its end. `prepare` may change it before it begins (scenarios)."""
    world = World(config, checkers, strategies, trace)
    if prepare is not None:
        prepare(world)
    world.begin()
    world.advance(BEGIN_MS + config.heal_ms)
    if not world.violations:
        world.heal()
        world.advance(world.now + config.limit_ms, lambda: not missing(world))
    for hook in world.hooks.on_end:
        hook()
    world.trace("end", -1, world.chain.height)
    return _result(world, strategies)


def _result(world: World, strategies: Sequence[type[Strategy]]) -> SeedResult:
    config = world.config
    parameters = config.parameters
    setting = {
        "nodes": str(config.nodes),
        "window": str(parameters.window),
        "interval": str(parameters.checkpoint_interval),
        "byzantine": ",".join(
            f"{number}:{strategy.name}"
            for number, strategy in zip(config.byzantine, strategies, strict=False)
        ),
        "faults": ",".join(f"{name}={weight:.3f}" for name, weight in config.weights),
    }
    return SeedResult(
        seed=config.seed,
        violations=tuple(world.violations),
        coverage=dict(world.coverage),
        trace_hash=world.trace_hash,
        steps=world.steps,
        view_changes=world.coverage["certified_views"],
        virtual_ms=world.now - BEGIN_MS,
        signatures=config.signatures,
        setting=setting,
    )
