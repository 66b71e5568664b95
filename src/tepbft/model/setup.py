"""The bounds of a walk, and what an action is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tepbft.model.mutants import Mutant

Action = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Setup:
    """The bounds of one walk."""

    nodes: int = 3
    byzantine: tuple[int, ...] = (0,)
    window: int = 3
    heights: int = 4
    views: int = 4
    """Highest view of a configuration."""
    steps: int = 160
    barrier: bool = False
    configurations: int = 3
    mutant: Mutant = ""
    reported: tuple[str, ...] = ()
    """Invariants to report; empty: all."""
