"""Byzantine strategies (S-1 to S-24, S-37, S-41 to S-47): nothing breaks, everything ends, and each
strategy really attacks."""

from __future__ import annotations

from functools import cache

import pytest

from tepbft.sim.adversaries import SCRIPTED, STRATEGIES, Mix, composite
from tepbft.sim.adversaries.new_view import TwoNewViews, WrongNewView
from tepbft.sim.adversaries.primary import Equivocate, Hole
from tepbft.sim.adversaries.scenarios import SCENARIOS, duel
from tepbft.sim.ports import Strategy
from tepbft.sim.run import run_world
from tepbft.sim.violations import SeedResult
from tepbft.sim.world import World

SEEDS = {3: range(6), 5: range(3)}


@cache
def fight(name: str, seed: int, nodes: int) -> SeedResult:
    """One duel of f hosts that all play the same strategy."""
    config = duel(seed, nodes)
    return run_world(config, strategies=[STRATEGIES[name]] * len(config.byzantine))


@pytest.mark.parametrize("nodes", sorted(SEEDS))
@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_sim_strategy_breaks_nothing(name: str, nodes: int) -> None:
    """All invariants hold, and every run terminates after the world has healed (I-21)."""
    for seed in SEEDS[nodes]:
        result = fight(name, seed, nodes)
        assert result.ok, (name, nodes, seed, result.violations)


@pytest.mark.parametrize("name", sorted(strategy.name for strategy in SCRIPTED))
def test_sim_strategy_acts(name: str) -> None:
    """No strategy is vacuous: over these seeds it attacks."""
    attacks = sum(
        fight(name, seed, nodes).coverage.get("attacks", 0)
        for nodes, seeds in SEEDS.items()
        for seed in seeds
    )
    assert attacks > 0


def test_sim_components_refuse() -> None:
    """S-1, S-11, S-14: the component never signs a second digest, a second NewView, or below its view."""
    for name in ("s01-equivocate", "s11-two-new-views", "s14-vote-after-leaving"):
        for seed in SEEDS[3]:
            coverage = fight(name, seed, 3).coverage
            assert not any(
                coverage.get(what) for what in ("equivocations", "second new views", "votes after leaving")
            )


def test_sim_consecutive_byzantine_primaries() -> None:
    """S-13: f Byzantine primaries in a row, each with its own attack."""
    for seed in range(3):
        config = duel(seed, 5)
        for pair in ((Hole, WrongNewView), (Equivocate, TwoNewViews)):
            result = run_world(config, strategies=list[type[Strategy]](pair))
            assert result.ok, (seed, result.violations)


def test_sim_strategies_compose_and_repeat() -> None:
    """Composites chain hooks, and a seed means one run, whatever plays (I-24)."""
    both = composite("both", Hole, WrongNewView)
    for strategy in (both, Mix):
        config = duel(1, 3)
        first, second = (run_world(config, strategies=[strategy]) for _ in range(2))
        assert first.ok and first.trace_hash == second.trace_hash


@pytest.mark.parametrize("nodes", (3, 5))
@pytest.mark.parametrize("name", sorted(name for name, scenario in SCENARIOS.items() if scenario.checked))
def test_sim_scenario(name: str, nodes: int) -> None:
    """Scenarios of clients and execution: all invariants, termination."""
    scenario = SCENARIOS[name]
    for seed in range(3):
        config = scenario.config(seed, nodes)
        result = run_world(config, strategies=scenario.chosen(config), prepare=scenario.prepare)
        assert result.ok, (name, nodes, seed, result.violations)
        if name in ("s42-rogue-client", "s45-forged-replies"):
            assert result.coverage["view_changes"] == 0, "a correct primary was blamed"


def test_sim_scenario_one_replica_differs() -> None:
    """S-46: a replica that executes differently notices, heals by transfer, and stands where others do."""
    scenario = SCENARIOS["s46-one-differs"]
    worlds: list[World] = []

    def prepare(world: World) -> None:
        assert scenario.prepare is not None
        scenario.prepare(world)
        worlds.append(world)

    for seed in range(3):
        config = scenario.config(seed, 3)
        result = run_world(config, strategies=scenario.chosen(config), prepare=prepare)
        assert result.ok, result.violations
        world = worlds[-1]
        world.advance(world.now + 10_000)
        nodes = [host.node for host in world.hosts]
        assert all(node is not None for node in nodes)
        assert len({node.state.head.digest() for node in nodes if node is not None}) == 1
        assert all(node.state.diverged_at < 0 for node in nodes if node is not None)


def test_sim_scenario_all_replicas_differ() -> None:
    """S-46: if every execution differs, nothing becomes stable, and no client accepts a result."""
    scenario = SCENARIOS["s46-all-differ"]
    for seed in range(3):
        worlds: list[World] = []

        def prepare(world: World, kept: list[World] = worlds) -> None:
            assert scenario.prepare is not None
            scenario.prepare(world)
            kept.append(world)

        result = run_world(scenario.config(seed, 3), checkers=(), prepare=prepare)
        assert result.coverage["outcomes"] == 0
        assert all(host.node is None or host.node.state.stable_height == 0 for host in worlds[0].hosts)
