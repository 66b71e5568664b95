"""Planted defects (D3): each must turn its check red, or the checks prove nothing.

Production code is changed from outside, inside a `with`, and never knows. `hunt` runs
seeds until the defect shows; the same worlds without it are clean.
"""

from __future__ import annotations

from tepbft.sim.mutants.hunting import Hunt, hunt, plant, replay_command, run_mutant
from tepbft.sim.mutants.mutant import Mutant
from tepbft.sim.mutants.registry import MUTANTS

__all__ = ["MUTANTS", "Hunt", "Mutant", "hunt", "plant", "replay_command", "run_mutant"]
