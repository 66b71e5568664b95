"""Bringing a cluster up and down: components first, then nodes; and in the opposite order."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tepbft.cli.cluster import Cluster, NodeFolder, fetch_status, survey
from tepbft.cli.components import start_components, stop_components
from tepbft.cli.processes import log_tail, node_pid, start_node, stop_nodes
from tepbft.cli.verdict import CHANGING, HEALTHY, LOST, NO_QUORUM, Verdict
from tepbft.errors import TepbftError
from tepbft.node.status import NodeStatus
from tepbft.runtime.layout import NodeLayout
from tepbft.trusted.client import device_pid

ANSWER_TIMEOUT_S = 30.0
SETTLE_TIMEOUT_S = 20.0
_POLL_S = 0.1


@dataclass(frozen=True)
class Raised:
    """What `raise_cluster` did, and what came of it."""

    started: tuple[int, ...]
    already: tuple[int, ...]
    fresh: tuple[int, ...]
    """Nodes whose trusted component came up with a new key: its sealed state was not there."""
    statuses: list[NodeStatus | None]
    verdict: Verdict


def _await_answers(
    nodes: Sequence[NodeFolder], processes: dict[int, subprocess.Popen[bytes]], timeout_s: float
) -> None:
    """Until every one of `nodes` answers; TepbftError if one ends, or does not answer in time."""
    deadline = time.monotonic() + timeout_s
    waiting = list(nodes)
    while True:
        for folder in waiting:
            process = processes.get(folder.node)
            if process is not None and process.poll() is not None:
                raise TepbftError(
                    folder.name,
                    f"it ended at once, with exit code {process.returncode}: {log_tail(folder.layout.log)}",
                    f"Correct that and run `tepbft up` again. The whole log is {folder.layout.log}.",
                )
        waiting = [folder for folder in waiting if fetch_status(folder.member, 1.0) is None]
        if not waiting:
            return
        if time.monotonic() >= deadline:
            first = waiting[0]
            raise TepbftError(
                first.name,
                f"it runs but does not answer at HTTP port {first.member.http_port} after {timeout_s:.0f} s: "
                f"{log_tail(first.layout.log)}",
                f"Look into {first.layout.log}.",
            )
        time.sleep(_POLL_S)


def _settled(verdict: Verdict, only: bool) -> bool:
    """Whether waiting longer is of no use. A `lost` or `no_quorum` verdict does not change by itself."""
    if verdict.state in (HEALTHY, LOST, NO_QUORUM):
        return True
    return only and verdict.state != CHANGING and not verdict.lost_components


def raise_cluster(
    cluster: Cluster, only: Sequence[int] | None = None, *, settle_s: float = SETTLE_TIMEOUT_S
) -> Raised:
    """Start what does not run of the selected nodes and wait until they answer and have settled.

    Running nodes and components are left alone. A component comes back under its old
    identity if it was sealed; otherwise it is a new one, and its node stays silent until
    the others have admitted it (A8.2).
    """
    nodes = cluster.select(only)
    idle = [folder for folder in nodes if node_pid(folder.layout) is None]
    without_component = [folder for folder in idle if device_pid(folder.layout.trusted) is None]
    identities = start_components([folder.layout for folder in without_component])
    fresh = tuple(
        folder.node
        for folder, identity in zip(without_component, identities, strict=True)
        if not identity.warm
    )
    processes = {folder.node: start_node(folder.layout) for folder in idle}
    _await_answers(nodes, processes, ANSWER_TIMEOUT_S)
    deadline = time.monotonic() + settle_s
    statuses, verdict = survey(cluster.genesis)
    complete = len(nodes) == len(cluster.genesis.members)
    while not _settled(verdict, not complete) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        statuses, verdict = survey(cluster.genesis)
    started = tuple(folder.node for folder in idle)
    already = tuple(folder.node for folder in nodes if folder.node not in started)
    return Raised(started, already, fresh, statuses, verdict)


def lower_cluster(
    cluster: Cluster, only: Sequence[int] | None = None, *, nodes_only: bool = False
) -> tuple[list[int], list[NodeLayout]]:
    """Stop nodes, then seal and stop their components (but for `nodes_only`).

    Returns the nodes that ran, and those that had to be killed.
    """
    nodes = cluster.select(only)
    ran = [folder.node for folder in nodes if node_pid(folder.layout) is not None]
    killed = stop_nodes(folder.layout for folder in nodes)
    if not nodes_only:
        stop_components([folder.layout for folder in nodes])
    return ran, killed
