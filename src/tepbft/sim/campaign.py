"""Many seeds: run them, count what they exercised, hash their traces, report what failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

from tepbft.errors import TepbftError
from tepbft.sim.coverage import Coverage
from tepbft.sim.floors import below, floors_for
from tepbft.sim.job import Job, SeedRun
from tepbft.sim.shrink import Shrinker, Shrunk, fault_lines
from tepbft.sim.workers import CHUNK_SEEDS, Range, Workers

OK, VIOLATED, BROKEN, INTERRUPTED = 0, 1, 3, 130
"""Exit codes of a campaign: nothing found; something is violated; it proves nothing; Ctrl-C."""
MAX_FAILURES = 100
"""Failures that are kept with their details; more are only counted."""
MAX_SHRUNK = 3
"""Failures that are shrunk: the first by seed."""
LAST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Seeds:
    """Which seeds: `first` … `last`, both included, and for at most how long."""

    first: int
    last: int = LAST_SEED
    limit_s: float | None = None

    def ranges(self, begun: float) -> Iterator[Range]:
        """Ranges for workers, until the last seed or the end of time."""
        seed = self.first
        while seed <= self.last:
            if self.limit_s is not None and time.monotonic() - begun >= self.limit_s:
                return
            end = min(seed + CHUNK_SEEDS - 1, self.last)
            yield seed, end
            seed = end + 1

    @property
    def count(self) -> int | None:
        """How many there are; None without an end."""
        return self.last - self.first + 1 if self.last < LAST_SEED else None


@dataclass
class Failure:
    """One invariant that one seed violated."""

    seed: int
    check: str
    detail: str
    at_ms: int
    replay: str
    """The one command that runs it again."""
    schedule: list[str]
    """Liars and faults, one per line: shrunk, if `shrunk` says so."""
    shrunk: str = ""
    """The command that runs the shrunk run; empty if nobody shrank it."""

    def record(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "seed": self.seed,
            "check": self.check,
            "detail": self.detail,
            "at_ms": self.at_ms,
            "replay": self.replay,
            "schedule": self.schedule,
            "shrunk": self.shrunk,
        }


@dataclass
class Report:
    """What a campaign has found so far."""

    job: Job
    coverage: Coverage = field(default_factory=Coverage)
    hashes: dict[int, str] = field(default_factory=dict)
    """Trace hash by seed."""
    failed: list[SeedRun] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    violations: int = 0
    view_changes: int = 0
    cpu_s: float = 0.0
    elapsed_s: float = 0.0
    workers: int = 1
    interrupted: bool = False
    error: TepbftError | None = None

    def add(self, run: SeedRun) -> None:
        """One more seed."""
        result = run.result
        self.hashes[result.seed] = result.trace_hash
        self.view_changes += result.view_changes
        self.cpu_s += run.cpu_s
        for name, count in result.coverage.items():
            self.coverage.count(name, count)
        if not result.ok:
            self.violations += len(dict.fromkeys(violation.name for violation in result.violations))
            self.failed.append(run)
            self.failed.sort(key=lambda failed: failed.result.seed)
            del self.failed[MAX_FAILURES:]

    @property
    def seeds(self) -> int:
        """Seeds that were run."""
        return len(self.hashes)

    @property
    def trace_hash(self) -> str:
        """Hash over the trace hashes of all seeds, in the order of seeds."""
        hasher = blake2b(digest_size=16)
        for seed in sorted(self.hashes):
            hasher.update(bytes.fromhex(self.hashes[seed]))
        return hasher.hexdigest()

    @property
    def seeds_per_second(self) -> float:
        """Seeds per second of wall clock, all workers together."""
        return self.seeds / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def view_changes_per_minute(self) -> float:
        """Simulated view changes per minute of one core's time."""
        return 60 * self.view_changes / self.cpu_s if self.cpu_s else 0.0

    @property
    def floors(self) -> dict[str, int]:
        """Required minima; none for a run with a planted defect or with trouble left out."""
        if self.job.mutant is not None or self.job.reduction:
            return {}
        return floors_for(self.job.faults, self.seeds, attacks=self.job.strategies is None)

    @property
    def missed(self) -> dict[str, tuple[int, int]]:
        """Counters below their floor: (found, required)."""
        return below(self.floors, self.coverage)

    @property
    def exit_code(self) -> int:
        """A violation weighs most; then that the campaign itself is broken; then Ctrl-C."""
        if self.violations:
            return VIOLATED
        if self.error is not None:
            return BROKEN
        if self.interrupted:
            return INTERRUPTED
        return BROKEN if self.missed else OK

    def explain(self, *, shrink: bool = True, max_runs: int = 400, max_s: float = 60.0) -> None:
        """Turn failing seeds into failures that a person can use; shrinks the first few of them."""
        shrunk_checks: list[str] = []
        for run in self.failed:
            first = run.result.violations[0].name
            shrunk: Shrunk | None = None
            if shrink and len(shrunk_checks) < MAX_SHRUNK and first not in shrunk_checks:
                shrunk_checks.append(first)
                shrunk = Shrinker(self.job, run, max_runs=max_runs, max_s=max_s).shrink()
            self.failures += self._failures(run, shrunk)

    def _failures(self, run: SeedRun, shrunk: Shrunk | None) -> list[Failure]:
        result = run.result
        first = {violation.name: violation for violation in reversed(result.violations)}
        lines = fault_lines(run.faults) if shrunk is None else shrunk.lines(self.job)
        smaller = self.job.reduced(shrunk.reduction).command(result.seed) if shrunk is not None else ""
        return [
            Failure(
                seed=result.seed,
                check=violation.name,
                detail=violation.detail,
                at_ms=violation.at_ms,
                replay=self.job.command(result.seed),
                schedule=lines,
                shrunk=smaller,
            )
            for violation in first.values()
        ]

    def record(self) -> dict[str, Any]:
        """The JSON form."""
        seeds = sorted(self.hashes)
        record: dict[str, Any] = {
            "protocol": self.job.protocol,
            "nodes": self.job.node_count,
            "faults": self.job.faults.name,
            "seeds": self.seeds,
            "first_seed": seeds[0] if seeds else None,
            "last_seed": seeds[-1] if seeds else None,
            "violations": self.violations,
            "failures": [failure.record() for failure in self.failures],
            "coverage": dict(self.coverage),
            "floors": self.floors,
            "below_floor": {name: list(pair) for name, pair in self.missed.items()},
            "trace_hash": self.trace_hash,
            "seeds_per_second": round(self.seeds_per_second, 2),
            "view_changes": self.view_changes,
            "view_changes_per_minute": round(self.view_changes_per_minute, 1),
            "signatures": self.job.signatures,
            "workers": self.workers,
            "elapsed_s": round(self.elapsed_s, 2),
            "interrupted": self.interrupted,
        }
        if self.error is not None:
            record["error"] = {"thing": self.error.thing, "reason": self.error.reason}
        return record


Watch = Callable[[Report], None]
"""Told of the report after each seed or so."""


def run_campaign(job: Job, seeds: Seeds, workers: Workers, watch: Watch = lambda report: None) -> Report:
    """Run every seed, whatever fails. Ctrl-C and a lost worker end it with what was found so far."""
    report = Report(job, workers=workers.count)
    begun = time.monotonic()
    try:
        for runs in workers.run(job, seeds.ranges(begun)):
            for run in runs:
                report.add(run)
            report.elapsed_s = time.monotonic() - begun
            watch(report)
    except KeyboardInterrupt:
        report.interrupted = True
    except TepbftError as error:
        report.error = error
    finally:
        workers.close()
    report.elapsed_s = time.monotonic() - begun
    return report


@dataclass(frozen=True)
class Hunt:
    """How the hunt for a planted defect ended."""

    mutant: str
    caught: SeedRun | None
    seeds_run: int
    job: Job

    def record(self) -> dict[str, Any]:
        """The JSON form: `caught_by` is null if it survived."""
        found = self.caught.result if self.caught is not None else None
        return {
            "mutant": self.mutant,
            "caught_by": found.violations[0].name if found is not None else None,
            "detail": found.violations[0].detail if found is not None else None,
            "seed": found.seed if found is not None else None,
            "seeds_run": self.seeds_run,
            "replay": self.job.command(found.seed) if found is not None else None,
        }


def hunt_mutant(job: Job, seeds: Seeds, workers: Workers, watch: Callable[[int], None]) -> Hunt:
    """Run seeds with a planted defect until the first that catches it, in the order of seeds.

    The answer is the same however many workers there are. Raises `WorkerLost`.
    """
    waiting: dict[int, SeedRun] = {}
    ready = seeds.first
    try:
        for runs in workers.run(job, seeds.ranges(time.monotonic())):
            waiting.update((run.result.seed, run) for run in runs)
            while ready in waiting:
                run = waiting.pop(ready)
                ready += 1
                if not run.result.ok:
                    return Hunt(job.mutant or "", run, ready - seeds.first, job)
            watch(ready - seeds.first)
    finally:
        workers.close()
    return Hunt(job.mutant or "", None, ready - seeds.first, job)


def campaign_of_one(job: Job, run: SeedRun) -> Report:
    """The report on a single seed."""
    report = Report(replace(job))
    report.add(run)
    report.elapsed_s = run.cpu_s
    return report
