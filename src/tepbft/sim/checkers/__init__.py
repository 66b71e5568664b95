"""The invariants of D1, one module per theme. `CHECKERS` is what every run uses."""

from __future__ import annotations

from tepbft.sim.checkers.agreement import AGREEMENT
from tepbft.sim.checkers.bounds import BOUNDS
from tepbft.sim.checkers.component import COMPONENT
from tepbft.sim.checkers.configuration import CONFIGURATION
from tepbft.sim.checkers.execution import EXECUTION
from tepbft.sim.checkers.liveness import LIVENESS
from tepbft.sim.checkers.view_change import VIEW_CHANGES
from tepbft.sim.ports import Checker

CHECKERS: tuple[type[Checker], ...] = (
    *AGREEMENT,
    *COMPONENT,
    *VIEW_CHANGES,
    *EXECUTION,
    *CONFIGURATION,
    *BOUNDS,
    *LIVENESS,
)
