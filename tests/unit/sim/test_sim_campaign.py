"""Campaigns: the contract of the command, the same answer everywhere, workers that end or are missed (D4)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tepbft.cli.main import run
from tepbft.errors import TepbftError
from tepbft.sim import campaign as campaign_module
from tepbft.sim import job as job_module
from tepbft.sim.campaign import BROKEN, INTERRUPTED, VIOLATED, Report, Seeds, hunt_mutant, run_campaign
from tepbft.sim.coverage import Coverage
from tepbft.sim.floors import FLOORS, below, floors_for
from tepbft.sim.job import Job, SeedRun, run_chunk, run_job
from tepbft.sim.mutants import MUTANTS
from tepbft.sim.profiles import PROFILES, Profile
from tepbft.sim.violations import SeedResult, Violation
from tepbft.sim.workers import Inline, Processes, Range, WorkerLost, make_workers

KEYS = {
    "protocol", "nodes", "seeds", "violations", "failures", "coverage", "floors", "trace_hash",
    "seeds_per_second", "view_changes", "view_changes_per_minute", "signatures",
}  # fmt: skip


def a_run(seed: int, *names: str, coverage: Coverage | None = None) -> SeedRun:
    violations = tuple(Violation(name, "detail", 7) for name in names)
    result = SeedResult(seed, violations, dict(coverage or Coverage()), f"{seed:032x}", 1, 1, 1)
    return SeedRun(result, 0.1)


class Scripted:
    """Workers that answer from a script, in any order; then do as told."""

    count = 2

    def __init__(self, runs: list[list[SeedRun]], then: BaseException | None = None) -> None:
        self._runs, self._then, self.closed = runs, then, False

    def run(self, job: Job, ranges: Iterator[Range]) -> Iterator[list[SeedRun]]:
        yield from self._runs
        if self._then is not None:
            raise self._then

    def close(self) -> None:
        self.closed = True


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and the one JSON object of a command."""
    code = run(["sim", *arguments, "--json"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1, lines
    return code, json.loads(lines[0])


# --- the command --------------------------------------------------------------------------------------


def test_a_campaign_prints_one_object_with_the_promised_keys(capsys: pytest.CaptureFixture[str]) -> None:
    code, record = answer(capsys, "--nodes", "3", "--seeds", "0..3", "--workers", "1", "--faults", "lossy")
    assert code == 0 and record.keys() >= KEYS
    assert (record["protocol"], record["nodes"], record["seeds"], record["violations"]) == ("tep", 3, 4, 0)
    assert record["failures"] == [] and record["signatures"] == "stub"
    assert record["coverage"]["executed"] > 0 and record["seeds_per_second"] > 0


def test_people_get_coverage_and_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", "--seeds", "0..1", "--workers", "1", "--faults", "calm"]) == 0
    shown = capsys.readouterr().out
    assert "seeds/s" in shown and "executed" in shown and "nothing was violated" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seeds", "5..2"],
        ["--seeds", "x"],
        ["--seeds", "3.."],
        ["--protocol", "raft"],
        ["--nodes", "2"],
        ["--faults", "gremlins"],
        ["--mutant", "nobody"],
        ["--strategies", "nothing-like-that"],
        ["--signatures", "rubber"],
        ["--workers", "none"],
        ["--trace", "x.jsonl"],
        ["--seed", "1", "--seeds", "1..2"],
        ["--seed", "1", "--shrunk", "whatever"],
        ["--unheard-of"],
    ],
)
def test_bad_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert run(["sim", *arguments]) == 2


def test_mutants_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, record = answer(capsys, "--list-mutants")
    assert code == 0
    assert [mutant["name"] for mutant in record["mutants"]] == list(MUTANTS)
    assert all(mutant.keys() == {"name", "check", "budget_seeds"} for mutant in record["mutants"])


def test_a_mutant_is_caught_and_its_replay_catches_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    """The replay command alone leads to the same violation."""
    code, record = answer(capsys, "--mutant", "quorum_minus_one", "--workers", "1")
    assert code == 1 and record.keys() >= {"mutant", "caught_by", "seeds_run", "replay"}
    assert record["caught_by"] == MUTANTS["quorum_minus_one"].check
    words = record["replay"].split()
    assert words[:2] == ["tepbft", "sim"]
    again_code, again = answer(capsys, *words[2:])
    assert again_code == 1
    assert (again["caught_by"], again["detail"]) == (record["caught_by"], record["detail"])


def test_a_mutant_that_survives_is_exit_code_0(capsys: pytest.CaptureFixture[str]) -> None:
    """In a calm world nothing ever leaves a view."""
    code, record = answer(
        capsys, "--mutant", "noack", "--faults", "calm", "--seeds", "0..1", "--workers", "1"
    )
    assert code == 0 and record["caught_by"] is None and record["seeds_run"] == 2


def test_a_violation_is_exit_code_1_with_one_replay_and_a_schedule(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect that nobody knows of: the report is what a developer gets."""
    with MUTANTS["quorum_minus_one"].plant():
        code, record = answer(capsys, "--seeds", "0..2", "--workers", "1", "--faults", "calm")
    assert code == 1 and record["violations"] == len(record["failures"]) == 3
    first = record["failures"][0]
    assert first.keys() >= {"seed", "check", "detail", "replay", "schedule"}
    assert first["check"] == "I-1" and first["schedule"] and isinstance(first["schedule"][0], str)
    assert first["replay"] == "tepbft sim --protocol tep --nodes 3 --faults calm --seed 0"
    assert "--shrunk" in first["shrunk"]
    with MUTANTS["quorum_minus_one"].plant():
        again, smaller = answer(capsys, *first["shrunk"].split()[2:], "--no-shrink")
    assert again == 1 and smaller["failures"][0]["check"] == "I-1"


# --- the same answer everywhere -----------------------------------------------------------------------


def test_same_seeds_same_hash_whatever_the_hash_seed_and_the_workers() -> None:
    """I-24: two interpreters with different PYTHONHASHSEED, one with two workers."""
    command = [sys.executable, "-m", "tepbft.cli.main", "sim", "--seeds", "0..3", "--json", "--workers"]
    found = []
    for hash_seed, workers in (("1", "1"), ("4242", "2")):
        done = subprocess.run(
            [*command, workers],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            timeout=120,
            check=True,
        )
        record = json.loads(done.stdout)
        found.append((record["trace_hash"], record["coverage"], record["view_changes"]))
    assert found[0] == found[1]


def test_the_order_in_which_workers_answer_does_not_matter() -> None:
    runs = [a_run(seed) for seed in range(6)]
    one = run_campaign(Job(), Seeds(0, 5), Scripted([runs]))
    other = run_campaign(Job(), Seeds(0, 5), Scripted([runs[4:], runs[:2], runs[2:4]]))
    assert one.trace_hash == other.trace_hash
    assert one.trace_hash != run_campaign(Job(), Seeds(0, 4), Scripted([runs[:5]])).trace_hash


def test_a_hunt_reports_the_lowest_seed_that_catches() -> None:
    runs = [[a_run(2, "I-7")], [a_run(0)], [a_run(1, "I-1")]]
    hunt = hunt_mutant(Job(mutant="trunc"), Seeds(0, 2), Scripted(runs), lambda done: None)
    assert hunt.caught is not None
    assert hunt.caught.result.seed == 1 and hunt.seeds_run == 2


# --- workers ------------------------------------------------------------------------------------------


def test_a_killed_worker_is_missed() -> None:
    """Its seeds must not pass for good ones: exit code 3."""
    workers = Processes(1)

    def kill(report: Report) -> None:
        for pid in workers.pids:
            os.kill(pid, signal.SIGKILL)

    report = run_campaign(Job(profile="calm"), Seeds(0, 1000), workers, kill)
    assert isinstance(report.error, WorkerLost) and report.exit_code == BROKEN
    assert 0 < report.seeds < 1000
    assert not workers.pids


def test_ctrl_c_ends_the_workers_and_keeps_what_was_found() -> None:
    workers = Processes(1)
    pids: list[int] = []

    def interrupt(report: Report) -> None:
        pids.extend(workers.pids)
        raise KeyboardInterrupt

    report = run_campaign(Job(profile="calm"), Seeds(0, 1000), workers, interrupt)
    assert report.interrupted and report.seeds > 0 and report.exit_code == INTERRUPTED
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_what_the_simulator_raises_ends_the_campaign(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(job: Job, first: int, last: int) -> list[SeedRun]:
        raise LookupError("of the simulator")

    monkeypatch.setattr("tepbft.sim.workers.run_chunk", fail)
    report = run_campaign(Job(), Seeds(0, 3), Inline())
    assert report.exit_code == BROKEN and "of the simulator" in str(report.error)


def test_time_ends_a_campaign() -> None:
    seeds = Seeds(0, limit_s=0.0)
    report = run_campaign(Job(profile="calm"), seeds, Inline())
    assert report.seeds == 0


def test_without_the_package_dask_workers_are_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(TepbftError, match="distributed") as caught:
        make_workers("dask://127.0.0.1:8786")
    assert caught.value.exit_code == 2


# --- floors and reports -------------------------------------------------------------------------------


def test_floors_scale_and_forgive_small_numbers() -> None:
    everything = PROFILES["everything"]
    assert floors_for(everything, 1) == {} or max(floors_for(everything, 1).values()) <= 6
    thousand, ten_thousand = floors_for(everything, 1000), floors_for(everything, 10_000)
    assert all(
        thousand[name] * 9 < ten_thousand[name] < thousand[name] * 20
        for name in thousand
        if thousand[name] > 50
    )
    assert "crashes" not in floors_for(Profile("calm"), 1000)
    assert "attacks" not in floors_for(everything, 1000, attacks=False)


def test_every_floor_names_a_counter_and_a_reason() -> None:
    counters = {**Coverage(), "attacks": 0}
    for floor in FLOORS:
        assert floor.counter in counters and floor.reason
        assert not floor.needs or hasattr(Profile("x"), floor.needs)


def test_a_campaign_that_exercised_nothing_is_broken() -> None:
    """D4: low coverage is a failure of the campaign, unless something was found."""
    report = run_campaign(Job(), Seeds(0, 999), Scripted([[a_run(seed) for seed in range(1000)]]))
    assert report.exit_code == BROKEN and report.missed["executed"] == (0, report.floors["executed"])
    assert below({"executed": 3}, {"executed": 3}) == {}
    report.add(a_run(1000, "I-1", "I-1", "I-2"))
    assert report.exit_code == VIOLATED and report.violations == 2


def test_planted_defects_owe_no_coverage() -> None:
    report = Report(Job(mutant="trunc"))
    for seed in range(1000):
        report.add(a_run(seed))
    assert report.floors == {}


def test_many_failures_are_counted_and_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report(Job())
    for seed in reversed(range(250)):
        report.add(a_run(seed, "I-1"))
    assert report.violations == 250
    assert [run.result.seed for run in report.failed] == list(range(campaign_module.MAX_FAILURES))
    report.explain(shrink=False)
    assert len(report.failures) == campaign_module.MAX_FAILURES


def test_a_job_is_run_as_the_mutant_says_unless_told_otherwise() -> None:
    job = Job(mutant="count_dup_voters")
    assert job.node_count == 5 and job.faults.name == "lossy"
    mutant = MUTANTS["count_dup_voters"]
    assert job_module.plan(job, 3) == mutant.plan(3)
    assert replace(job, nodes=3).node_count == 3


def test_chunks_are_their_seeds() -> None:
    job = Job(profile="calm")
    assert [run.result for run in run_chunk(job, 4, 5)] == [run_job(job, seed).result for seed in (4, 5)]
