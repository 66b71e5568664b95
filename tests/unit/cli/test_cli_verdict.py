"""What the statuses of nodes mean together: quorums, warnings, and what an operator is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tepbft.cli.verdict import CHANGING, DEGRADED, DIVERGED, HEALTHY, LOST, NO_QUORUM, judge
from tepbft.core.quorum import quorums
from tepbft.node.status import NodeStatus


def a_status(node: int, phase: str = "active", executed: int = 7, head: str = "aa", n: int = 7) -> NodeStatus:
    """A plausible status."""
    return NodeStatus(
        node=node,
        chain_id="c0",
        protocol="tep",
        phase=phase,
        view=0,
        primary=0,
        n=n,
        f=(n - 1) // 2,
        commit_quorum=n - (n - 1) // 2,
        configuration=0,
        executed=executed,
        stable=executed,
        head=head,
        tc_id="ab" * 16,
        pending_requests=0,
        blocks_in_flight=0,
        view_changes=0,
        heals=True,
        verdict="",
        peers=[],
        counters={},
    )


def of(*phases: str | None, n: int | None = None) -> list[NodeStatus | None]:
    """Statuses with these phases, None for a node that does not answer."""
    count = n or len(phases)
    return [None if phase is None else a_status(node, phase, n=count) for node, phase in enumerate(phases)]


def test_all_up_is_healthy() -> None:
    verdict = judge(7, of(*["active"] * 7))
    assert (verdict.state, verdict.writes, verdict.spare) == (HEALTHY, True, 3)
    assert "3 more failures would be survived" in verdict.text


def test_f_nodes_down_writes_go_on_without_spare() -> None:
    verdict = judge(7, of(*["active"] * 4, None, None, None))
    assert (verdict.state, verdict.writes, verdict.spare) == (DEGRADED, True, 0)
    assert "4 of 7 nodes reachable" in verdict.text and "one more failure stops writes" in verdict.text


def test_one_more_down_and_writes_stop() -> None:
    verdict = judge(7, of(*["active"] * 3, *[None] * 4))
    assert (verdict.state, verdict.writes) == (NO_QUORUM, False)
    assert "writes stop until 1 more node returns" in verdict.text


def test_even_clusters_use_the_larger_commit_quorum() -> None:
    """q_c = n - f: four nodes commit with three, not with two (A-54's arithmetic)."""
    assert judge(4, of("active", "active", "active", None)).writes
    assert not judge(4, of("active", "active", None, None)).writes


def test_more_than_f_lost_components_is_an_operators_decision() -> None:
    """A8.4: the cluster refuses to guess and names the command."""
    verdict = judge(3, of("silent", "silent", "active"))
    assert (verdict.state, verdict.writes) == (LOST, False)
    assert verdict.lost_components == (0, 1)
    assert "tepbft recover" in verdict.text


def test_f_lost_components_heal_by_themselves() -> None:
    """A8.2: one silent node of three is admitted by the others, nothing is said of recovery."""
    verdict = judge(3, of("silent", "active", "active"))
    assert verdict.writes and verdict.state == DEGRADED
    assert "recover" not in verdict.text


def test_a_view_change_is_told_apart_from_a_lack_of_nodes() -> None:
    verdict = judge(5, of("view_change", "view_change", "view_change", "active", "active"))
    assert (verdict.state, verdict.writes) == (CHANGING, False)


def test_different_heads_at_one_height_are_reported() -> None:
    """I-1: two executed heads at one height never go unnoticed."""
    statuses: list[NodeStatus | None] = [
        a_status(0, head="aa"),
        a_status(1, head="bb"),
        a_status(2, head="aa"),
    ]
    verdict = judge(3, statuses)
    assert verdict.state == DIVERGED and "height 7" in verdict.text


def test_different_heads_at_different_heights_are_no_disagreement() -> None:
    statuses: list[NodeStatus | None] = [
        a_status(0, executed=7, head="aa"),
        a_status(1, executed=8, head="bb"),
        a_status(2, executed=9, head="cc"),
    ]
    assert judge(3, statuses).state == HEALTHY


PHASES = [None, "active", "view_change", "silent", "transferring", "diverged", "halted"]


@given(st.lists(st.sampled_from(PHASES), min_size=3, max_size=12))
def test_writes_need_a_commit_quorum_of_active_nodes(phases: list[str | None]) -> None:
    """Whatever the mix: writes are never announced without q_c active nodes, and the record is plain."""
    verdict = judge(len(phases), of(*phases))
    active = phases.count("active")
    if verdict.writes:
        assert active >= quorums(len(phases)).commit
    assert verdict.reachable == len(phases) - phases.count(None)
    assert (verdict.state == LOST) == (phases.count("silent") > quorums(len(phases)).f)
    assert verdict.record()["text"] == verdict.text and verdict.text


@pytest.mark.parametrize("n", [3, 4, 5, 7, 64])
def test_nobody_reachable(n: int) -> None:
    verdict = judge(n, [None] * n)
    assert (verdict.state, verdict.reachable) == (NO_QUORUM, 0)
