"""What a mutant is: a planted defect, the invariant that must see it, and the worlds where it shows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tepbft.sim.mutants.planting import Change, planted
from tepbft.sim.ports import Strategy
from tepbft.sim.profiles import PROFILES, WorldConfig, draw
from tepbft.sim.world import World


def _as_drawn(config: WorldConfig) -> WorldConfig:
    return config


def _unstaged(world: World) -> None:
    return None


@dataclass(frozen=True)
class Mutant:
    """One defect of D3. `plant()` is the context in which production code has it."""

    name: str
    check: str
    """Name of the checker that must be the first to see it."""
    breaks: str
    """What it breaks, with the finding that it stands for."""
    changes: tuple[Change, ...]
    budget_seeds: int = 50
    nodes: int = 3
    profile: str = "lossy"
    strategies: tuple[type[Strategy], ...] = ()
    """How Byzantine hosts behave, in the order of their numbers."""
    world: Callable[[WorldConfig], WorldConfig] = _as_drawn
    """Settings that lead to the defect; without it, the same worlds are clean."""
    stage: Callable[[World], None] = _unstaged
    """A schedule put into the world before it begins."""
    why: str = ""
    """Why this check is the first one, where D3 names another or several."""

    def plant(self) -> AbstractContextManager[None]:
        """Production code has the defect inside."""
        return planted(self.changes)

    def plan(self, seed: int, signatures: str = "stub") -> tuple[WorldConfig, list[type[Strategy]]]:
        """The world that a seed draws for this mutant, and how its Byzantine hosts behave."""
        config = self.world(draw(seed, self.nodes, PROFILES[self.profile], signatures))
        if not self.strategies:
            return config, []
        return config, [self.strategies[i % len(self.strategies)] for i in range(len(config.byzantine))]
