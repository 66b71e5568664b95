"""The exploration finds what is planted, finds nothing else, and means the same everywhere (A6.3, D3, D4)."""

from __future__ import annotations

import pytest

from tepbft.model.__main__ import lacking
from tepbft.model.explorer import campaign, numbered_walk, replay
from tepbft.model.mutants import MUTANTS, Mutant
from tepbft.model.shrink import describe, shrink

BUDGET: dict[Mutant, int] = {
    "late": 200,
    "amnesia": 100,
    "trunc": 300,
    "clone": 100,
    "dupnv": 1500,
    "noack": 200,
    "omit": 400,
    "floor": 2500,
    "lowview": 3500,
    "nobasecp": 2500,
    "barrier_without_stable": 50,
    "vote_above_barrier": 400,
    "two_members": 200,
    "old_votes_count": 400,
}
"""Walks within which each defect must be found with three nodes."""
BREAKS: dict[Mutant, set[str]] = {
    "dupnv": {"I-3"},
    "barrier_without_stable": {"I-19"},
    "vote_above_barrier": {"I-19"},
}
"""Where not agreement itself (I-1, I-2) or what it rests on (I-7) breaks first."""


@pytest.mark.parametrize("mutant", [name for name in MUTANTS])
def test_mutant_is_found(mutant: Mutant) -> None:
    """D3: every planted defect turns an invariant red within its budget."""
    found = campaign(BUDGET[mutant], seed=1, mutant=mutant)
    assert found.first is not None and found.first.violation is not None
    assert found.first.violation.invariant in BREAKS.get(mutant, {"I-1", "I-2", "I-7"})


@pytest.mark.parametrize(("nodes", "barrier"), [(3, False), (4, False), (5, True), (3, True)])
def test_protocol_survives_a_short_campaign(nodes: int, barrier: bool) -> None:
    """The protocol as it is; even n included, where q_c and q_v differ. A campaign that sees little fails."""
    found = campaign(300, seed=5, nodes=nodes, barrier=barrier)
    assert found.first is None, found.first
    assert lacking(found.coverage, found.walks, barrier) == []


def test_a_seed_is_a_command() -> None:
    """The same number of the same seed is the same walk (I-24)."""
    one = numbered_walk(17, seed=3, nodes=5, barrier=True, mutant="")
    two = numbered_walk(17, seed=3, nodes=5, barrier=True, mutant="")
    other = numbered_walk(18, seed=3, nodes=5, barrier=True, mutant="")
    assert one.schedule == two.schedule and one.coverage == two.coverage
    assert one.schedule != other.schedule


@pytest.mark.parametrize("mutant", ["noack", "two_members"])
def test_shrunk_schedules_are_minimal_and_read_well(mutant: Mutant) -> None:
    """D4 (vii): without any one action the violation is gone; the last line says what broke."""
    first = campaign(BUDGET[mutant], seed=1, mutant=mutant).first
    assert first is not None and first.violation is not None
    short = shrink(first.setup, first.schedule, first.violation)
    assert len(short) <= len(first.schedule)
    broken = replay(first.setup, short)
    assert broken is not None and broken.invariant == first.violation.invariant
    for index in range(len(short)):
        rest = replay(first.setup, short[:index] + short[index + 1 :])
        assert rest is None or rest.invariant != first.violation.invariant
    lines = describe(first.setup, short)
    assert lines[-1].startswith("VIOLATION of ") and len(lines) == len(short) + 1


def test_leaving_before_stability_does_not_break_agreement() -> None:
    """What `barrier_without_stable` costs is the chain of stable CONFIG headers (I-19), not agreement:
    commit quorums are final, and a component that left configuration c never signs in it again."""
    found = campaign(
        300, seed=2, mutant="barrier_without_stable", reported=("I-1", "I-2", "I-5", "I-7"), stop_at=1
    )
    assert found.first is None
    assert found.coverage["heights_with_quorum_in_later_configuration"] > 50
