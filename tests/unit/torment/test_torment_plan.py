"""The schedule: from the seed alone, never more than f nodes faulty."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tepbft.core.quorum import quorums
from tepbft.errors import TepbftError
from tepbft.torment.plan import (
    COLD,
    HARMLESS,
    KINDS,
    MAX_ADMISSION_BLOCKS,
    SPLIT,
    Schedule,
    Situation,
    check_kinds,
)


@given(st.integers(0, 1 << 32), st.integers(3, 9), st.data())
def test_a_draw_leaves_at_most_f_faulty(seed: int, n: int, data: st.DataObject) -> None:
    """f counts every node that a fault still holds; who would wait long for an admission is spared."""
    f = quorums(n).f
    faulty = frozenset(data.draw(st.sets(st.integers(0, n - 1), max_size=f)))
    cold = tuple(data.draw(st.integers(0, 2 * MAX_ADMISSION_BLOCKS)) for _ in range(n))
    schedule = Schedule(seed, tuple(KINDS), 1.0)
    for _ in range(20):
        fault = schedule.draw(Situation(n, faulty, 0, cold))
        if fault is None:
            continue
        assert fault.nodes and len(set(fault.nodes)) == len(fault.nodes)
        if fault.kind == SPLIT:
            assert sorted(fault.nodes) == list(range(n))
            assert all(len(group) < quorums(n).commit for group in fault.groups)
            continue
        assert len(faulty | set(fault.faulty)) <= f
        assert not faulty & set(fault.nodes)
        assert (fault.faulty == ()) == (fault.kind in HARMLESS)
        if fault.kind in COLD:
            assert all(cold[node] <= MAX_ADMISSION_BLOCKS for node in fault.nodes)


def test_the_same_seed_gives_the_same_faults() -> None:
    """What the cluster does in the meantime does not shift later draws."""
    calm = Situation(7, frozenset(), 2, (0,) * 7)
    busy = Situation(7, frozenset({0, 1, 3}), 4, (9000,) * 7)
    one, other = Schedule(5, tuple(KINDS), 1.0), Schedule(5, tuple(KINDS), 1.0)
    first = [one.draw(calm) for _ in range(30)]
    for _ in range(20):
        other.draw(busy)
    assert [other.draw(calm) for _ in range(10)] == first[20:]
    assert {fault.kind for fault in first if fault} != {first[0].kind if first[0] else ""}


def test_kinds_are_chosen_by_name() -> None:
    assert check_kinds([]) == tuple(KINDS)
    assert check_kinds(["disk", "kill"]) == ("kill", "disk")
    with pytest.raises(TepbftError, match="no fault 'flood'"):
        check_kinds(["flood"])
