"""What a worker is told to run: plain names, so that it can travel to another process or machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from tepbft.errors import TepbftError
from tepbft.sim.adversaries import STRATEGIES
from tepbft.sim.mutants import MUTANTS, Mutant
from tepbft.sim.ports import Strategy, TraceSink
from tepbft.sim.profiles import PROFILES, Profile, WorldConfig
from tepbft.sim.reduction import Reduction
from tepbft.sim.run import plan_seed, run_world
from tepbft.sim.schedule import Fault
from tepbft.sim.violations import SeedResult
from tepbft.sim.world import World

DEFAULT_NODES = 3
MAX_NODES = 31
DEFAULT_PROFILE = "everything"


@dataclass(frozen=True)
class Job:
    """How to run a seed. None: what the mutant asks for, or else the default."""

    protocol: str = "tep"
    nodes: int | None = None
    profile: str | None = None
    strategies: tuple[str, ...] | None = None
    mutant: str | None = None
    signatures: str = "stub"
    reduction: Reduction = field(default_factory=Reduction)

    def check(self) -> None:
        """Raise TepbftError (exit code 2) if something in it is not known."""
        _known("protocol", self.protocol, ("tep",))
        _known("signatures", self.signatures, ("stub", "real"))
        if self.mutant is not None:
            _known("mutant", self.mutant, tuple(MUTANTS))
        if self.profile is not None:
            _known("fault profile", self.profile, tuple(PROFILES))
        for name in self.strategies or ():
            _known("strategy", name, tuple(STRATEGIES))
        if not 3 <= self.node_count <= MAX_NODES:
            raise TepbftError(
                f"{self.node_count} nodes",
                f"the simulator runs 3 to {MAX_NODES}",
                "Choose n = 2f+1: 3, 5, 7, …",
                exit_code=2,
            )

    @property
    def plant(self) -> Mutant | None:
        """The planted defect."""
        return MUTANTS[self.mutant] if self.mutant is not None else None

    @property
    def node_count(self) -> int:
        """How many nodes the world has."""
        if self.nodes is not None:
            return self.nodes
        plant = self.plant
        return plant.nodes if plant is not None else DEFAULT_NODES

    @property
    def faults(self) -> Profile:
        """The fault profile."""
        if self.profile is not None:
            return PROFILES[self.profile]
        plant = self.plant
        return PROFILES[plant.profile if plant is not None else DEFAULT_PROFILE]

    @property
    def pool(self) -> tuple[type[Strategy], ...]:
        """What Byzantine hosts draw their behaviour from."""
        if self.strategies is not None:
            return tuple(STRATEGIES[name] for name in self.strategies)
        plant = self.plant
        return plant.strategies if plant is not None else tuple(STRATEGIES.values())

    def command(self, seed: int) -> str:
        """The one command that runs this seed again, exactly so."""
        parts = [
            f"tepbft sim --protocol {self.protocol} --nodes {self.node_count} --faults {self.faults.name}"
        ]
        if self.mutant is not None:
            parts.append(f"--mutant {self.mutant}")
        if self.strategies is not None:
            parts.append(f"--strategies {','.join(self.strategies)}")
        if self.signatures != "stub":
            parts.append(f"--signatures {self.signatures}")
        if self.reduction:
            parts.append(f"--shrunk {self.reduction}")
        return " ".join((*parts, f"--seed {seed}"))

    def reduced(self, reduction: Reduction) -> Job:
        """The same with less trouble."""
        return replace(self, reduction=reduction)


def _known(what: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise TepbftError(
            f"{what} {name!r}", "it is not known", f"Choose from: {', '.join(names)}.", exit_code=2
        )


class SeedRun(NamedTuple):
    """One seed's outcome and what it cost."""

    result: SeedResult
    cpu_s: float
    """Processor time, seconds."""
    faults: tuple[Fault, ...] = ()
    """The faults that happened, only if something was violated."""


def plan(job: Job, seed: int) -> tuple[WorldConfig, list[type[Strategy]]]:
    """The world that a seed draws for a job, reduced as the job says."""
    config, strategies = plan_seed(seed, job.node_count, job.faults, job.pool, job.signatures)
    plant = job.plant
    if plant is not None:
        config = plant.world(config)
        pool = job.pool  # a trap has its places: the hosts play it in order
        strategies = [pool[i % len(pool)] for i in range(len(config.byzantine))] if pool else []
    return job.reduction.apply(config, strategies)


def run_job(job: Job, seed: int, trace: TraceSink | None = None) -> SeedRun:
    """Run one seed."""
    worlds: list[World] = []
    keep = job.reduction.keep

    plant = job.plant

    def prepare(world: World) -> None:
        world.schedule.keep = keep
        if plant is not None:
            plant.stage(world)
        worlds.append(world)

    config, strategies = plan(job, seed)
    begun = time.process_time()
    with plant.plant() if plant is not None else nullcontext():
        result = run_world(config, strategies=strategies, trace=trace, prepare=prepare)
    cpu_s = time.process_time() - begun
    return SeedRun(result, cpu_s, () if result.ok else tuple(worlds[0].schedule.happened))


def run_chunk(job: Job, first: int, last: int, stop: Callable[[], bool] = lambda: False) -> list[SeedRun]:
    """Run the seeds `first` … `last`, both included; fewer if `stop` says so."""
    runs = []
    for seed in range(first, last + 1):
        if stop():
            break
        runs.append(run_job(job, seed))
    return runs
