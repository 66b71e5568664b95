"""All mutants by name: what each breaks, which check must see it, and the worlds that show it (D3)."""

from __future__ import annotations

from tepbft.sim.mutants.changing import CHANGING
from tepbft.sim.mutants.mutant import Mutant
from tepbft.sim.mutants.serving import SERVING
from tepbft.sim.mutants.voting import VOTING

MUTANTS: dict[str, Mutant] = {mutant.name: mutant for mutant in (*VOTING, *CHANGING, *SERVING)}
"""By name; the names of D3 where it has one."""
