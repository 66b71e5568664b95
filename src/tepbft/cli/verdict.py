"""What the statuses of the nodes mean together: are writes possible, what else may fail, what to do.

Pure: statuses in, one verdict out. Quorums follow from the member table (n), never
from who happens to answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tepbft.core.quorum import quorums
from tepbft.node.status import NodeStatus

HEALTHY, DEGRADED, CHANGING, NO_QUORUM, LOST, DIVERGED = (
    "healthy",
    "degraded",
    "changing_view",
    "no_quorum",
    "lost",
    "diverged",
)
VOTING_PHASES = frozenset({"active", "view_change", "transferring"})
"""Phases of a node whose trusted component is a member and which takes part, or will by itself."""


@dataclass(frozen=True)
class Verdict:
    """The cluster in one value. `spare` counts the further failures that writes would survive."""

    state: str
    writes: bool
    n: int
    f: int
    commit_quorum: int
    reachable: int
    voting: int
    spare: int
    lost_components: tuple[int, ...]
    """Nodes that answer but whose trusted component is not a member."""
    text: str

    def record(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _disagreement(statuses: Sequence[NodeStatus]) -> int | None:
    """The lowest height at which two nodes report different heads; None if all agree."""
    heads: dict[int, list[str]] = defaultdict(list)
    for status in statuses:
        heads[status.executed].append(status.head)
    split = [height for height, found in heads.items() if any(head != found[0] for head in found)]
    return min(split) if split else None


def judge(n: int, statuses: Sequence[NodeStatus | None]) -> Verdict:
    """The verdict over a member table of `n`; `None` stands for a node that does not answer."""
    quorum = quorums(n)
    present = [status for status in statuses if status is not None]
    voting = [status for status in present if status.phase in VOTING_PHASES]
    active = [status for status in voting if status.phase == "active"]
    silent = tuple(sorted(status.node for status in present if status.phase == "silent"))
    spare = len(voting) - quorum.commit
    state, writes, text = _decide(n, present, len(voting), len(active), silent)
    return Verdict(
        state=state,
        writes=writes,
        n=n,
        f=quorum.f,
        commit_quorum=quorum.commit,
        reachable=len(present),
        voting=len(voting),
        spare=max(0, spare),
        lost_components=silent,
        text=text,
    )


def _decide(
    n: int, present: Sequence[NodeStatus], voting: int, active: int, silent: tuple[int, ...]
) -> tuple[str, bool, str]:
    """State, whether writes are possible, and the sentence for a person."""
    quorum = quorums(n)
    split = _disagreement(present)
    diverged = [status.node for status in present if status.phase == "diverged"]
    reach = f"{len(present)} of {n} nodes reachable"
    if split is not None:
        return (
            DIVERGED,
            active >= quorum.commit,
            f"two nodes report different heads at height {split}: run `tepbft audit` on each",
        )
    if len(silent) > quorum.f:
        return (
            LOST,
            False,
            f"{_count(len(silent), 'trusted component')} of {n} lost their state at once, more than f = "
            f"{quorum.f}: nothing can be decided any more, and this cluster does not guess. "
            "An operator may continue the ledger under a new genesis: `tepbft recover DIR`",
        )
    if voting < quorum.commit:
        missing = quorum.commit - voting
        return (
            NO_QUORUM,
            False,
            f"no quorum ({reach}, {voting} can vote, {quorum.commit} needed): writes stop until "
            f"{_count(missing, 'more node')} {'returns' if missing == 1 else 'return'}",
        )
    spare = voting - quorum.commit
    failures = (
        f"{_count(spare, 'more failure')} would be survived" if spare else "one more failure stops writes"
    )
    if active < quorum.commit:
        return CHANGING, False, f"{reach}: a view change is under way, writes resume when it ends; {failures}"
    if diverged:
        named = ", ".join(f"node{node}" for node in diverged)
        return (
            DIVERGED,
            True,
            f"{reach}: writes go on without {named}, which diverged: run `tepbft audit` on it",
        )
    if voting < n:
        return DEGRADED, True, f"{reach}: writes go on, {failures}"
    return HEALTHY, True, f"all {n} nodes vote: writes go on, {failures}"
