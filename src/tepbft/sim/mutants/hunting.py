"""Hunting a mutant: seeds until an invariant is violated, and whether it is the right one (D3, D4)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from tepbft.errors import TepbftError
from tepbft.sim.mutants.mutant import Mutant
from tepbft.sim.mutants.registry import MUTANTS
from tepbft.sim.run import run_world
from tepbft.sim.violations import SeedResult, Violation


@dataclass(frozen=True)
class Hunt:
    """What a hunt came to."""

    mutant: str
    caught_by: str | None
    """Name of the first violation; None if the budget was spent without one."""
    seeds_run: int
    seed: int
    """The seed that caught it; the last one if none did."""
    replay: str
    """The command that runs that seed again."""
    violation: Violation | None = None


def find(name: str) -> Mutant:
    """The mutant called `name`; TepbftError if there is none."""
    found = MUTANTS.get(name)
    if found is None:
        raise TepbftError(
            f"mutant {name!r}", "it is not known", f"Choose from: {', '.join(MUTANTS)}.", exit_code=2
        )
    return found


def plant(name: str) -> AbstractContextManager[None]:
    """Production code has the defect `name` inside the context, and none after it."""
    return find(name).plant()


def run_mutant(name: str, seed: int, *, with_defect: bool = True) -> SeedResult:
    """Run one seed in the mutant's own setting, with the defect or (as a control) without it."""
    mutant = find(name)
    config, strategies = mutant.plan(seed)
    context: AbstractContextManager[Any] = mutant.plant() if with_defect else nullcontext()
    with context:
        return run_world(config, strategies=strategies, prepare=mutant.stage)


def replay_command(mutant: Mutant, seed: int) -> str:
    """The command that runs one seed of a mutant again."""
    return (
        f"tepbft sim --protocol tep --nodes {mutant.nodes} --seed {seed} "
        f"--faults {mutant.profile} --mutant {mutant.name}"
    )


def hunt(name: str, first_seed: int = 0, budget: int | None = None) -> Hunt:
    """Run seeds from `first_seed` on until one is violated, at most `budget` (None: the mutant's own)."""
    mutant = find(name)
    seeds = mutant.budget_seeds if budget is None else budget
    for seed in range(first_seed, first_seed + seeds):
        result = run_mutant(name, seed)
        if result.violations:
            first = result.violations[0]
            command = replay_command(mutant, seed)
            return Hunt(name, first.name, seed - first_seed + 1, seed, command, first)
    last = first_seed + max(0, seeds - 1)
    return Hunt(name, None, seeds, last, replay_command(mutant, last))
