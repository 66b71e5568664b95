"""Planted defects (D3): every one is seen, by the check that it was planted for, within its budget;
and the same worlds without it are clean, so that it is the defect that is seen."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tepbft.errors import TepbftError
from tepbft.protocols.tep import evidence, ordering
from tepbft.sim.checkers import CHECKERS
from tepbft.sim.job import Job, run_job
from tepbft.sim.mutants import MUTANTS, Hunt, hunt, plant, run_mutant
from tepbft.sim.mutants.planting import Edit, NotPlanted, edit, planted, swap

DOSSIER = (
    "prim_vote_not_counted", "quorum_minus_one", "count_dup_voters", "commit_quorum_f_plus_1",
    "ui_without_view", "ui_without_kind", "vote_keyed_by_signature", "trunc", "noack", "late", "omit",
    "floor", "nobasecp", "lowview", "dupnv", "gap_not_filled", "timer_stops_at_accept", "fixed_T_req",
    "no_vc_retransmit", "vseq_last_only", "vseq_at_reception", "clients_not_in_checkpoint",
    "checkpoint_match_includes_ui", "gc_by_view_change", "gc_before_stable", "no_commit_push",
    "parent_in_proposal", "barrier_without_stable", "restart_same_id_empty_tc", "seal_without_increment",
)  # fmt: skip
CONTROLS = 2
"""First seeds of each mutant that are run without the defect, besides the one that caught it."""
_hunts: dict[str, Hunt] = {}


def _hunted(name: str) -> Hunt:
    if name not in _hunts:
        _hunts[name] = hunt(name)
    return _hunts[name]


def test_every_defect_of_the_dossier_is_there() -> None:
    """D3, as far as it concerns TEP-BFT."""
    assert [name for name in DOSSIER if name not in MUTANTS] == []
    assert all(name == mutant.name and mutant.breaks for name, mutant in MUTANTS.items())


@pytest.mark.parametrize("name", MUTANTS)
def test_the_check_sees_the_defect(name: str) -> None:
    """The first violation is the one that the mutant was planted for."""
    found = _hunted(name)
    assert found.caught_by == MUTANTS[name].check, found
    assert found.seeds_run <= MUTANTS[name].budget_seeds
    assert found.replay == (
        f"tepbft sim --protocol tep --nodes {MUTANTS[name].nodes} --seed {found.seed} "
        f"--faults {MUTANTS[name].profile} --mutant {name}"
    )


@pytest.mark.parametrize("name", MUTANTS)
def test_without_the_defect_the_same_worlds_are_clean(name: str) -> None:
    """Control: traps and schedules come to nothing against production code, the caught seed included."""
    seeds = dict.fromkeys((*range(CONTROLS), _hunted(name).seed))
    wrong = [(seed, run_mutant(name, seed, with_defect=False).violations) for seed in seeds]
    assert [(seed, violations) for seed, violations in wrong if violations] == []


def test_nearly_every_invariant_has_a_defect_that_trips_it() -> None:
    """I-8 and I-11 have none: the codec's bounds and the executor's contract stop those before a checker
    could; I-22 and I-23 belong to the checker of I-21, I-4, I-9, I-10 and I-18 to those of I-3 and I-16."""
    wanted = {checker.name for checker in CHECKERS} | {"I-4", "I-9", "I-10", "I-18", "I-22", "I-23"}
    assert sorted(wanted - {mutant.check for mutant in MUTANTS.values()}) == ["I-11"]


@pytest.mark.parametrize("name", ["quorum_minus_one", "floor", "lowview", "no_commit_push"])
def test_a_hunt_repeats_exactly(name: str) -> None:
    """I-24 with a defect inside: the same seed, the same trace; and the command's job runs just that."""
    found = _hunted(name)
    first, second = run_mutant(name, found.seed), run_mutant(name, found.seed)
    assert first.trace_hash == second.trace_hash
    assert first.violations[0] == found.violation
    mutant = MUTANTS[name]
    job = Job(nodes=mutant.nodes, profile=mutant.profile, mutant=name)
    assert run_job(job, found.seed).result.violations == first.violations


@pytest.mark.parametrize("name", MUTANTS)
def test_planting_leaves_no_trace(name: str) -> None:
    """Production code is as it was, also after an exception inside."""
    mutant = MUTANTS[name]
    before = [_content(change) for change in mutant.changes]
    with pytest.raises(ZeroDivisionError), plant(name):
        assert [_content(change) for change in mutant.changes] != before
        raise ZeroDivisionError
    assert [_content(change) for change in mutant.changes] == before


def _content(change: object) -> object:
    return change.function.__code__ if isinstance(change, Edit) else change.owner.__dict__[change.name]  # type: ignore[attr-defined]


def test_a_change_that_does_not_fit_is_an_error() -> None:
    """A mutant never silently does nothing: production has changed, and it must be written anew."""
    merge = evidence.merge.__code__
    changes = (swap(ordering, "PREPARE", 99), edit(evidence.merge, ("no such text", "")))
    with pytest.raises(NotPlanted, match="no such text"), planted(changes):
        pass
    assert evidence.merge.__code__ is merge
    assert ordering.PREPARE == 1


def test_an_unknown_mutant_is_named() -> None:
    """With what there is instead."""
    with pytest.raises(TepbftError, match="nonsense"):
        hunt("nonsense")


def test_production_does_not_know_the_simulator() -> None:
    """No switch, no import: the defects come from outside."""
    code = (
        "import sys, tepbft.node.node, tepbft.trusted.device, tepbft.runtime.process, tepbft.client.aio\n"
        "print([name for name in sys.modules if name.startswith('tepbft.sim')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
