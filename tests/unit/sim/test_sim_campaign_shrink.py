"""Shrinking: what comes out still fails, and nothing of it can be left out (D4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tepbft.errors import TepbftError
from tepbft.sim.job import Job, SeedRun, plan, run_job
from tepbft.sim.mutants import MUTANTS
from tepbft.sim.reduction import Reduction, parse_reduction, trouble_of
from tepbft.sim.schedule import Fault, Schedule
from tepbft.sim.shrink import Shrinker, ddmin
from tepbft.sim.violations import SeedResult, Violation

numbers = st.integers(0, 60)


@given(st.lists(numbers, unique=True, max_size=40), st.data())
def test_ddmin_finds_the_one_cause(items: list[int], data: st.DataObject) -> None:
    cause = set(data.draw(st.lists(st.sampled_from(items), unique=True))) if items else set()
    assert set(ddmin(items, lambda kept: cause <= set(kept))) == cause


@given(st.lists(numbers, unique=True, max_size=30), st.lists(st.frozensets(numbers, max_size=4), max_size=4))
def test_ddmin_is_one_minimal_whatever_fails(items: list[int], causes: list[frozenset[int]]) -> None:
    """Several causes, each enough alone: not monotone in a simple way, and still nothing can go."""
    causes.append(frozenset(items))

    def fails(kept: list[int]) -> bool:
        return any(cause <= set(kept) for cause in causes)

    found = ddmin(items, fails)
    assert fails(found) and [item for item in items if item in found] == found
    assert not any(fails(found[:i] + found[i + 1 :]) for i in range(len(found)))


@given(
    st.lists(st.sampled_from(["loss", "crash", "tail"]), unique=True),
    st.lists(st.integers(0, 9), unique=True),
    st.one_of(st.none(), st.frozensets(st.integers(0, 10**6))),
    st.integers(1, 9),
)
def test_a_reduction_is_one_word_and_reads_back(
    without: list[str], honest: list[int], keep: frozenset[int] | None, clients: int
) -> None:
    reduction = Reduction(tuple(without), tuple(honest), (("clients", clients),), keep)
    assert " " not in str(reduction)
    assert parse_reduction(str(reduction)) == reduction


@pytest.mark.parametrize("text", ["x", "keep=a", "clients=", "honest-x", "limit_ms=4"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(TepbftError):
        parse_reduction(text)


class Artificial:
    """A run that fails if certain trouble, and certain numbered faults, are in it."""

    def __init__(self, job: Job, trouble: str, faults: frozenset[int], requests: int) -> None:
        self._trouble, self._faults, self._requests = trouble, faults, requests
        self.count = 60

    def run(self, job: Job, seed: int) -> SeedRun:
        config, _ = plan(job, seed)
        keep = job.reduction.keep
        happened = [n for n in range(self.count) if keep is None or n in keep]
        bad = (
            self._trouble in trouble_of(config)
            and self._faults <= set(happened)
            and config.requests >= self._requests
        )
        violations = (Violation("I-1", "artificial", 9),) if bad else ()
        faults = tuple(Fault(n, n, "crash", (0,)) for n in happened)
        return SeedRun(SeedResult(seed, violations, {}, "", 1, 1, 1), 0.0, faults)


@given(st.frozensets(st.integers(0, 59), max_size=3), st.integers(1, 3))
def test_the_shrinker_keeps_what_the_failure_needs_and_no_more(faults: frozenset[int], requests: int) -> None:
    job = Job(profile="everything")
    seed = 1
    trouble = trouble_of(plan(job, seed)[0])[0]
    world = Artificial(job, trouble, faults, requests)
    failed = world.run(job, seed)
    shrunk = Shrinker(job, failed, max_runs=5000, run=world.run).shrink()
    assert shrunk.complete and shrunk.run.result.violations
    assert world.run(job.reduced(shrunk.reduction), seed).result.violations
    config, _ = plan(job.reduced(shrunk.reduction), seed)
    assert trouble_of(config) == [trouble] and config.clients == 1 and config.byzantine == ()
    assert shrunk.reduction.keep == faults


def test_a_budget_ends_shrinking_with_what_fails() -> None:
    job = Job(profile="everything")
    trouble = trouble_of(plan(job, 1)[0])[0]
    world = Artificial(job, trouble, frozenset({5}), 1)
    shrunk = Shrinker(job, world.run(job, 1), max_runs=3, run=world.run).shrink()
    assert not shrunk.complete and shrunk.runs == 3 and shrunk.run.result.violations


def test_a_real_failure_gets_smaller() -> None:
    """A planted defect in a world full of trouble: hardly any of it is needed."""
    job = Job(profile="everything", mutant="quorum_minus_one")
    failed = run_job(job, 6)
    check = failed.result.violations[0].name
    shrunk = Shrinker(job, failed, max_runs=120, max_s=20).shrink()
    assert shrunk.run.result.violations[0].name == check
    again = run_job(job.reduced(shrunk.reduction), 6)
    assert again.result == shrunk.run.result
    assert len(shrunk.run.faults) <= len(failed.faults)
    assert MUTANTS["quorum_minus_one"].check == check
    assert all(isinstance(line, str) for line in shrunk.lines(job))


def test_faults_are_numbered_and_left_out() -> None:
    schedule = Schedule()
    assert schedule.allow(5, "loss", 0, 1, "Commit") and schedule.allow(6, "crash", 2)
    assert [str(fault) for fault in schedule.happened] == [
        "#0 at 5 ms: Commit from host 0 to host 1 is lost",
        "#1 at 6 ms: host 2: the process crashes within the next effects",
    ]
    fewer = Schedule(frozenset({1}))
    assert not fewer.allow(5, "loss", 0, -2, "a message") and fewer.allow(6, "crash", 2)
    assert [fault.number for fault in fewer.happened] == [1]


def test_without_its_faults_a_run_has_none() -> None:
    job = Job(profile="everything", mutant="quorum_minus_one")
    run = run_job(job.reduced(Reduction(keep=frozenset())), 6)
    coverage = run.result.coverage
    assert all(coverage[name] == 0 for name in ("partitions", "storms", "isolations", "duplicated"))
    assert run.faults == ()
