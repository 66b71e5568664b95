"""Running experiments point by point, so that it can be interrupted anywhere and resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import msgspec

from tepbft.errors import TepbftError
from tepbft.lab.bench import run_bench
from tepbft.lab.calibrate import SignatureCost, calibrate
from tepbft.lab.experiments import catalogue
from tepbft.lab.options import BenchOptions
from tepbft.lab.points import Experiment, Point
from tepbft.lab.records import Record, append_record, file_of, latest, read_records
from tepbft.lab.result import BenchResult

START_S, START_PER_NODE_S = 4.0, 0.5
"""What a point takes beside its window, on two cores: making, starting, comparing and stopping."""
CALIBRATE_S, CALIBRATION_START_S = 0.6, 1.2
"""Measuring the signature before every point: short, as the machine drifts more within an hour than such a
measurement wobbles; and what it takes to begin."""
TYPICAL_TPS = 6000.0
"""For telling the expected time of a point that ends after a number of transactions."""

Bench = Callable[..., BenchResult]


@dataclass(frozen=True)
class Step:
    """One benchmark that is still to be run."""

    experiment: Experiment
    point: Point
    repeat: int


@dataclass
class Campaign:
    """Experiments that are run into a folder. `bench` and `calibration` are replaced by tests."""

    experiments: Sequence[Experiment]
    folder: Path
    quick: bool = False
    repeats: int = 1
    bench: Bench = run_bench
    calibration: Callable[[str, int, float], SignatureCost] = calibrate
    tell: Callable[[str], None] = lambda text: None
    """Hears what is being done within a point."""
    failed: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        known = catalogue(self.quick)
        named = [known[experiment.source or experiment.name] for experiment in self.experiments]
        self.experiments = list({experiment.name: experiment for experiment in named}.values())

    # --- what is to be done -------------------------------------------------------------------

    def steps(self) -> list[Step]:
        """What is not there yet, in the order in which it will be run: a repeat of everything in an
        experiment before the next repeat, so that a drift of the machine meets all points alike."""
        found = []
        for experiment in self.experiments:
            records = latest(read_records(file_of(self.folder, experiment.name)))
            for repeat in range(self.repeats):
                for point in experiment.points:
                    record = records.get((point.name, repeat, self.quick))
                    if record is None or record.result is None:
                        found.append(Step(experiment, point, repeat))
        return found

    def expected_s(self, steps: Sequence[Step]) -> float:
        """How long that will take, roughly."""
        return sum(expected_s(step.point.options) for step in steps)

    # --- doing it -----------------------------------------------------------------------------

    def run(self, steps: Sequence[Step]) -> Iterator[Record]:
        """Carry out the steps; every record is on disk when it is yielded. A point that fails is recorded
        with its reason, and the next one follows."""
        for step in steps:
            started = time.monotonic()
            record = Record(
                experiment=step.experiment.name,
                point=step.point.name,
                series=step.point.series,
                x=step.point.x,
                repeat=step.repeat,
                quick=self.quick,
            )
            try:
                options = self._options(step)
                self.tell("measuring the signature on all cores")
                cost = self.calibration(options.scheme, options.nodes, CALIBRATE_S)
                result = self.bench(options, calibration=cost, tell=self.tell)
                record.result = result.record()
                if not result.replicas_agree or result.errors:
                    reason = "; ".join(result.errors) or "the replicas do not agree"
                    record.error = {"thing": "benchmark", "reason": reason, "remedy": "Run it again."}
            except TepbftError as error:
                record.error = {"thing": error.thing, "reason": error.reason, "remedy": error.remedy}
            except Exception as error:  # hours of other points do not depend on this one
                reason = f"{type(error).__name__}: {error}"
                record.error = {"thing": "benchmark", "reason": reason, "remedy": "Report this."}
            record.took_s = round(time.monotonic() - started, 1)
            if record.error is not None:
                record.result = None  # no figure of a run that did not hold
                self.failed.append(record)
            append_record(file_of(self.folder, step.experiment.name), record)
            yield record

    def _options(self, step: Step) -> BenchOptions:
        """The point's options; its rate, if it is a share of what another point reached."""
        point = step.point
        if point.share <= 0:
            return point.options
        records = latest(read_records(file_of(self.folder, step.experiment.name))).values()
        reached = [
            float(record.result["tps"])
            for record in records
            if record.point == point.of and record.quick == self.quick and record.result is not None
        ]
        if not reached:
            raise TepbftError(
                f"point {point.name}",
                f"it needs the throughput of {point.of}, which was not measured",
                "See the error of that point.",
            )
        return msgspec.structs.replace(point.options, rate=max(1.0, round(point.share * median(reached), 1)))


def expected_s(options: BenchOptions) -> float:
    """How long one point takes, roughly."""
    seconds = options.seconds
    if options.transactions is not None:
        seconds = min(seconds, options.transactions / TYPICAL_TPS)
    signing = 0.2 * (seconds + options.warmup_s) if options.scheme not in ("none", "mac") else 0.0
    if options.scheme != "none":
        signing += CALIBRATE_S + CALIBRATION_START_S
    return START_S + START_PER_NODE_S * options.nodes + options.warmup_s + seconds + signing
