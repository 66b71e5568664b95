"""The simulator itself: deterministic, quiet on correct code, loud on planted defects."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import pytest

import tepbft.core.configuration as configuration
from tepbft.core.configuration import Parameters
from tepbft.core.options import NodeOptions
from tepbft.core.quorum import Quorums, quorums
from tepbft.protocols.tep import catch_up, ordering, view_change
from tepbft.protocols.tep.state import State
from tepbft.sim.clock import WALL_MS
from tepbft.sim.component import Component
from tepbft.sim.ports import Checker, Strategy
from tepbft.sim.profiles import PROFILES, WorldConfig, draw
from tepbft.sim.run import run_seed, run_world
from tepbft.sim.world import World

FAST = NodeOptions(
    t_request_ms=200, t_view_change_ms=200, t_max_ms=800, t_status_ms=60, t_retransmit_ms=80, max_wait_ms=0
)


def small(**changes: Any) -> WorldConfig:
    """A calm little world."""
    plain: dict[str, Any] = {
        "seed": 1,
        "parameters": Parameters(
            window=2, checkpoint_interval=1, snapshot_interval=2, keep_blocks=2, client_window=8
        ),
        "options": FAST,
        "heal_ms": 600,
        "limit_ms": 20_000,
        "requests": 6,
    }
    return WorldConfig(**{**plain, **changes})


# --- I-24 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signatures", ["stub", "real"])
def test_a_seed_decides_everything(signatures: str) -> None:
    """I-24, in both modes: ECDSA's random nonces must not reach the trace."""
    first, second = (run_seed(7, profile="crashes", signatures=signatures) for _ in range(2))
    assert first == second
    assert first.ok, first.violations
    assert first.signatures == signatures


def test_the_trace_does_not_depend_on_the_hash_seed() -> None:
    """I-24: another process with another string hashing sees the same run."""
    program = "from tepbft.sim.run import run_seed; print(run_seed(12, nodes=5).trace_hash)"
    hashes = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert hashes == {run_seed(12, nodes=5).trace_hash + "\n"}


def test_seeds_differ() -> None:
    """Another seed, another run."""
    assert run_seed(1).trace_hash != run_seed(2).trace_hash


def test_watching_does_not_change_a_run() -> None:
    """A trace sink sees every event, and the hash stays."""
    events: list[tuple[Any, ...]] = []
    result = run_seed(3, trace=events.append)
    assert result.trace_hash == run_seed(3).trace_hash
    assert {"start", "execute", "stable", "tc", "deliver", "end"} <= {event[1] for event in events}
    assert [event[0] for event in events] == sorted(event[0] for event in events)


# --- correct code -----------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [3, 4, 5])
@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_correct_code_violates_nothing(profile: str, nodes: int) -> None:
    """All invariants, in a few worlds of every kind."""
    for seed in range(900, 904):
        result = run_seed(seed, profile=profile, nodes=nodes)
        assert result.ok, (seed, result.violations)


def test_the_search_reaches_the_deep_places() -> None:
    """D4: counters that stay at zero would make a clean campaign worthless."""
    total: dict[str, int] = {}
    for seed in range(30):
        for name, count in run_seed(seed).coverage.items():
            total[name] = total.get(name, 0) + count
    for name in (
        "certified_views", "commit_quorums_above_view_0", "reproposed", "reproposed_after_quorum",
        "configurations", "crashes", "recoveries", "torn_appends", "cold_starts", "warm_restarts",
        "lost", "duplicated", "reversed", "partitions", "isolations", "clock_faults", "store_full",
        "departures_checked", "linearizability_checks", "session_changes", "proofs", "outcomes",
    ):  # fmt: skip
        assert total[name] > 0, name


# --- planted defects (D3): each turns its check red -------------------------------------------------


def _one_vote_less(n: int) -> Quorums:
    found = quorums(n)
    return found._replace(commit=found.commit - 1)


def _same_key_again(component: Component) -> None:
    component._seen = 0
    component.device = component._fresh()
    component.cfg, component.cfg_digest, component.floor = 0, b"", 0


def _nothing(*arguments: object) -> None:
    return None


DEFECTS: dict[str, tuple[str, Callable[[], AbstractContextManager[Any]]]] = {
    "quorum_minus_one": ("I-1", lambda: mock.patch.object(configuration, "quorums", _one_vote_less)),
    "restart_same_id_empty_tc": (
        "I-", lambda: mock.patch.object(Component, "restart_cold", _same_key_again)),
    "bodies_not_recorded": ("I-10", lambda: mock.patch.object(State, "record_body", _nothing)),
    "trunc": ("I-", lambda: mock.patch.object(view_change, "_evidence", lambda s: ())),
    "no_catch_up": ("I-2", lambda: mock.patch.multiple(catch_up, push=_nothing, pull=_nothing)),
    "vote_outside_the_window": (
        "I-", lambda: mock.patch.object(ordering, "_in_window", lambda *arguments: True)),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(DEFECTS))
def test_planted_defects_are_found(name: str) -> None:
    """D3: a defect in the production code, and the check that must see it."""
    check, plant = DEFECTS[name]
    found = next((r for r in (run_seed(s, mutant=plant) for s in range(60)) if not r.ok), None)
    assert found is not None, "the defect survived"
    assert found.violations[0].name.startswith(check), found.violations


# --- scenarios --------------------------------------------------------------------------------------


def test_a_primary_with_a_wrong_clock_does_not_stop_the_chain() -> None:
    """A3.1, S-30: a timestamp years ahead delays a vote; in the evidence of a departure it must not
    delay every later view too."""

    worlds: list[World] = []

    def years_ahead(world: World) -> None:
        worlds.append(world)
        world.hosts[0].clock.set_wall(10**11)

    config = small(byzantine=(0,), limit_ms=10_000, requests=8, nodes=3)
    result = run_world(config, strategies=(Strategy,), prepare=years_ahead)
    assert result.ok, result.violations
    assert result.coverage["certified_views"] > 0
    times = [entry.header.ts for entry in worlds[0].chain.entries.values()]
    assert times and max(times) < WALL_MS + 10**9, "nor may it drag the chain's time along"


def test_too_many_lost_components_stop_without_a_fork() -> None:
    """S-40: more than f components are lost; nothing is decided any more, and nothing twice."""

    def lose_two(world: World) -> None:
        for number in (0, 1):
            world.at(1300, world.faults.cold, world.hosts[number])

    config = small(expect_termination=False, heal_ms=1500, limit_ms=3000, requests=40, think_ms=20)
    result = run_world(config, prepare=lose_two)
    assert result.ok, result.violations
    assert result.coverage["configurations"] == 0


def test_a_world_that_never_heals_is_reported() -> None:
    """I-21 and I-23 are not vacuous."""

    def cut_off(world: World) -> None:
        for other in range(2):
            world.network.blocked[(2, other)] = world.network.blocked[(other, 2)] = None

    result = run_world(small(limit_ms=4000), prepare=cut_off)
    assert [violation.name for violation in result.violations] == ["I-23"]


def test_an_exception_in_a_correct_node_is_reported() -> None:
    """A node that raises is an error of the node, and the report says where."""

    def broken(*arguments: object) -> None:
        raise KeyError("lost")

    with mock.patch.object(ordering, "on_prepare", broken):
        result = run_world(small())
    assert result.violations[0].name == "crash"
    assert "KeyError" in result.violations[0].detail


def test_checkers_can_be_chosen() -> None:
    """A scenario may bring a checker of its own."""
    seen: list[int] = []

    class Watch(Checker):
        name = "watch"

        def on_step(self, host: Any) -> None:
            seen.append(host.number)

    result = run_world(small(), checkers=(Watch,))
    assert len(seen) == result.steps


def test_the_draw_is_a_function_of_the_seed() -> None:
    """A setting is drawn the same way every time, and parameters make sense."""
    for seed in range(200):
        config = draw(seed, 3 + seed % 3, PROFILES["everything"], "stub")
        assert config == draw(seed, 3 + seed % 3, PROFILES["everything"], "stub")
        assert config.parameters.check() == []
        assert len(config.byzantine) <= (config.nodes - 1) // 2
