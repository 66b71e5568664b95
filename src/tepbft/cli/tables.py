"""How clusters are shown: rows for people, records for machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from rich.markup import escape
from rich.table import Table

from tepbft.cli.cluster import Cluster, http_address
from tepbft.cli.output import emit, page, short, table
from tepbft.cli.processes import node_pid
from tepbft.cli.verdict import CHANGING, DEGRADED, HEALTHY, LOST, Verdict
from tepbft.core.configuration import Member
from tepbft.node.status import NodeStatus

_COLOURS = {HEALTHY: "green", DEGRADED: "yellow", CHANGING: "yellow"}
_PHASE_COLOURS = {"active": "green", "view_change": "yellow", "transferring": "yellow"}


def node_table(statuses: Sequence[NodeStatus | None], members: Sequence[Member]) -> Table:
    """One row per member; narrow enough for a terminal of 80 columns."""
    rows = []
    for member, status in zip(members, statuses, strict=True):
        name, port = f"node{member.node}", str(member.http_port)
        if status is None:
            rows.append([name, port, "[red]down[/red]", *["-"] * 6])
            continue
        colour = _PHASE_COLOURS.get(status.phase, "red")
        rows.append(
            [
                name + ("*" if status.primary == member.node else ""),
                port,
                f"[{colour}]{escape(status.phase)}[/{colour}]",
                str(status.view),
                str(status.executed),
                str(status.stable),
                short(escape(status.head)),
                short(escape(status.tc_id)),
                str(status.pending_requests),
            ]
        )
    columns = ["node", ">http", "phase", ">view", ">height", ">stable", "head", "trusted", ">queue"]
    return table("", columns, rows)


def verification_line(statuses: Sequence[NodeStatus | None]) -> str:
    """How the nodes verify signatures of clients, in one line; empty if none answers."""
    found = {status.node: status.verification for status in statuses if status is not None}
    modes = sorted(set(found.values()))
    if len(modes) <= 1:
        return f"verification: {modes[0]}" if modes else ""
    return "verification: " + ", ".join(f"node{node} {mode}" for node, mode in found.items())


def without_extension_line(statuses: Sequence[NodeStatus | None]) -> str:
    """Which nodes do without the compiled extension, in one line; empty if all that answer have it."""
    names = [f"node{status.node}" for status in statuses if status is not None and not status.extension]
    return f"without the compiled extension, which saves time: {', '.join(names)}" if names else ""


def show_cluster(cluster: Cluster, statuses: Sequence[NodeStatus | None], verdict: Verdict) -> None:
    """The table and the verdict, for a person."""
    console = page()
    console.print(node_table(statuses, cluster.genesis.members))
    colour = _COLOURS.get(verdict.state, "red")
    console.print(f"[{colour}]{verdict.state}[/{colour}]: {escape(verdict.text)}", soft_wrap=True)
    if how := verification_line(statuses):
        console.print(escape(how), soft_wrap=True)
    if slower := without_extension_line(statuses):
        console.print(slower, soft_wrap=True)
    if verdict.state == LOST:
        return  # what each node hopes for is of no use then
    for status in statuses:
        if status is not None and status.verdict and status.phase != "active":
            console.print(f"node{status.node}: {escape(status.verdict)}", soft_wrap=True)


def status_records(
    cluster: Cluster, statuses: Sequence[NodeStatus | None], verdict: Verdict
) -> list[dict[str, Any]]:
    """One record per member, then the verdict."""
    pids = {folder.node: node_pid(folder.layout) for folder in cluster.nodes}
    records: list[dict[str, Any]] = []
    for member, status in zip(cluster.genesis.members, statuses, strict=True):
        record: dict[str, Any] = {
            "node": member.node,
            "reachable": status is not None,
            "pid": pids.get(member.node),
            "http": http_address(member),
        }
        if status is not None:
            record |= msgspec.to_builtins(status)
        records.append(record)
    records.append({"chain_id": cluster.genesis.chain_id.hex(), "verdict": verdict.record()})
    return records


def emit_cluster(cluster: Cluster, statuses: Sequence[NodeStatus | None], verdict: Verdict) -> None:
    """`status_records`, a line each."""
    for record in status_records(cluster, statuses, verdict):
        emit(record)
