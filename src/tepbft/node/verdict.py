"""From a node's state to a status that a person can act on: will it heal by itself?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tepbft.core.configuration import replacement_gap
from tepbft.node.status import NodeStatus, PeerStatus
from tepbft.protocols.tep.state import State

if TYPE_CHECKING:
    from tepbft.node.node import Node

STALE_STATUSES = 15
"""A peer is taken for unreachable after so many STATUS intervals without one."""


def node_status(node: Node, now_ms: int) -> NodeStatus:
    """The status of `node` at `now_ms`."""
    state = node.state
    phase = node.replica.phase()
    heals, verdict = judge(state, phase, now_ms)
    return NodeStatus(
        node=state.me,
        chain_id=state.chain_id.hex(),
        protocol=node.genesis.protocol,
        phase=phase,
        view=state.view,
        primary=state.primary,
        n=state.quorums.n,
        f=state.quorums.f,
        commit_quorum=state.quorums.commit,
        configuration=state.cfg.number,
        executed=state.executed,
        stable=state.stable_height,
        head=state.head.digest().hex(),
        tc_id=state.tc_id.hex(),
        pending_requests=len(node.mempool),
        blocks_in_flight=max(0, state.next_height - 1 - state.executed),
        view_changes=state.view_changes,
        heals=heals,
        verdict=verdict,
        peers=[_peer(state, number, now_ms) for number in state.others],
        counters=dict(node.counters),
    )


def _peer(state: State, number: int, now_ms: int) -> PeerStatus:
    peer = state.peers[number]
    if peer.status is None:
        return PeerStatus(number, 0, False, 0, 0, -1)
    found = peer.status
    return PeerStatus(number, found.view, found.active, found.executed, found.stable, now_ms - peer.heard_ms)


def judge(state: State, phase: str, now_ms: int) -> tuple[bool, str]:
    """(heals by itself, one sentence)."""
    limit = STALE_STATUSES * state.options.t_status_ms
    heard = [
        number
        for number, peer in state.peers.items()
        if peer.status is not None and now_ms - peer.heard_ms <= limit
    ]
    present = len(heard) + 1
    q = state.quorums
    if phase == "diverged":
        return True, (
            f"this node's execution differs from the agreed one since height {state.diverged_at}; "
            "it votes no more and fetches the agreed state"
        )
    if phase == "silent":
        if present - 1 < q.commit:
            return False, (
                "this node's trusted component is new and is no member, and too few other nodes are "
                f"there to admit it ({present - 1} of {q.commit} needed): start them; if their trusted "
                "components are lost too, only an operator's recovery helps (tepbft recover)"
            )
        if state.own_admission is None:
            return False, (
                "this node's trusted component is new and is no member: its operator must sign for it"
            )
        member = state.cfg.members[state.me]
        due = member.replaced_at + replacement_gap(member, state.parameters.min_config_gap)
        if due > state.executed + 1:
            return True, (
                "this node's trusted component is new, again; replacements are rate-limited, and it can "
                f"be admitted from height {due} on"
            )
        return True, "this node's trusted component is new; it follows silently until it is admitted"
    if phase == "transferring":
        return True, "this node is fetching a snapshot of the state"
    if present < q.commit:
        return True, (
            f"no quorum: {present} of {q.n} nodes are connected and {q.commit} are needed; "
            "writes stop until more nodes return, nothing is lost"
        )
    if phase == "view_change":
        return True, f"view change to view {state.view}: node {state.primary} is to lead"
    missing, spare = q.n - present, q.n - q.commit
    if missing:
        left = spare - missing
        return True, f"works; {missing} of {q.n} nodes are not connected, {left} more may fail"
    return True, f"works; any {spare} nodes may fail"
