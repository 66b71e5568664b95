"""Make a failing run small: fewer kinds of trouble, fewer liars, shorter, fewer faults (D4).

A smaller run is another run: leaving out one fault changes what happens afterwards. A
reduction counts if the same invariant is still violated. What comes out is minimal in
the sense of delta debugging: no single remaining item can be left out, unless the
budget of runs was used up first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from tepbft.sim.job import Job, SeedRun, plan, run_job
from tepbft.sim.reduction import NUMBERS, Reduction, trouble_of
from tepbft.sim.schedule import Fault

T = TypeVar("T")
MAX_LINES = 60
"""Faults listed in a report."""


def ddmin(items: Sequence[T], fails: Callable[[list[T]], bool]) -> list[T]:
    """A sublist of `items`, in order, that still fails and of which no single item can be left out.

    `fails(list(items))` must hold. Zeller's delta debugging: complements of ever smaller parts.
    """
    kept = list(items)
    if not kept or fails([]):
        return []
    parts = min(2, len(kept))
    while len(kept) > 1:
        size = -(-len(kept) // parts)
        for start in range(0, len(kept), size):
            rest = kept[:start] + kept[start + size :]
            if fails(rest):
                kept, parts = rest, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(2 * parts, len(kept))
    return kept


@dataclass(frozen=True)
class Shrunk:
    """The smallest failing run that was found."""

    reduction: Reduction
    run: SeedRun
    runs: int
    """Runs that it took."""
    complete: bool
    """False if the budget ended before nothing more could be left out."""

    def lines(self, job: Job) -> list[str]:
        """What is left of the trouble, for a person."""
        config, strategies = plan(job.reduced(self.reduction), self.run.result.seed)
        lines = [
            f"{config.clients} client(s) with {config.requests} requests, window "
            f"{config.parameters.window}, checkpoint interval {config.parameters.checkpoint_interval}, "
            f"faults stop after {config.heal_ms} ms"
        ]
        liars = zip(config.byzantine, strategies, strict=False)
        lines += [f"host {host} is Byzantine: {strategy.name}" for host, strategy in liars]
        lines += fault_lines(self.run.faults)
        return lines


def fault_lines(faults: Sequence[Fault]) -> list[str]:
    """The faults of a run, one per line; the first `MAX_LINES`."""
    lines = [str(fault) for fault in faults[:MAX_LINES]]
    if len(faults) > MAX_LINES:
        lines.append(f"… and {len(faults) - MAX_LINES} more")
    return lines


class Shrinker:
    """Reduces one failing seed. `max_runs` and `max_s` bound the work."""

    def __init__(
        self,
        job: Job,
        failed: SeedRun,
        *,
        max_runs: int = 400,
        max_s: float = 60.0,
        run: Callable[[Job, int], SeedRun] = run_job,
    ) -> None:
        self._job, self._run = job, run
        self._seed = failed.result.seed
        self._check = failed.result.violations[0].name
        self._best, self._reduction = failed, job.reduction
        self._max_runs, self._deadline = max_runs, time.monotonic() + max_s
        self.runs = 0

    @property
    def _exhausted(self) -> bool:
        return self.runs >= self._max_runs or time.monotonic() > self._deadline

    def _fails(self, reduction: Reduction) -> bool:
        """Whether the reduced run still violates the invariant; the smallest such run is kept."""
        if self._exhausted:
            return False
        self.runs += 1
        found = self._run(self._job.reduced(reduction), self._seed)
        if all(violation.name != self._check for violation in found.result.violations):
            return False
        self._best, self._reduction = found, reduction
        return True

    def shrink(self) -> Shrunk:
        """Work until nothing more can be left out."""
        self._drop_trouble()
        self._drop_liars()
        self._shorten()
        self._drop_faults()
        return Shrunk(self._reduction, self._best, self.runs, not self._exhausted)

    def _drop_trouble(self) -> None:
        config, _ = plan(self._job.reduced(self._reduction), self._seed)
        kinds = trouble_of(config)
        base = self._reduction

        def fails(kept: list[str]) -> bool:
            gone = tuple(kind for kind in kinds if kind not in kept)
            return self._fails(replace(base, without=base.without + gone))

        ddmin(kinds, fails)

    def _drop_liars(self) -> None:
        config, _ = plan(self._job.reduced(self._reduction), self._seed)
        for host in config.byzantine:
            self._fails(replace(self._reduction, honest=(*self._reduction.honest, host)))

    def _shorten(self) -> None:
        for name, least in NUMBERS.items():
            config, _ = plan(self._job.reduced(self._reduction), self._seed)
            value = getattr(config, name)
            for smaller in (least, value // 4, value // 2, 3 * value // 4):
                if least <= smaller < value and self._fails(self._with_number(name, smaller)):
                    break

    def _with_number(self, name: str, value: int) -> Reduction:
        others = tuple(pair for pair in self._reduction.numbers if pair[0] != name)
        return replace(self._reduction, numbers=(*others, (name, value)))

    def _drop_faults(self) -> None:
        base = self._reduction
        numbers = [fault.number for fault in self._best.faults]
        if self._fails(replace(base, keep=frozenset(numbers))):
            ddmin(numbers, lambda kept: self._fails(replace(base, keep=frozenset(kept))))
