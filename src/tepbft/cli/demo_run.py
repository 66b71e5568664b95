"""The demo's course: load, murder, return, comparison, audit, receipt."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from rich.progress import Progress, TaskID

import tepbft
from tepbft.cli.audit_command import audit_folder
from tepbft.cli.client_commands import read_receipt, write_file
from tepbft.cli.cluster import Cluster, NodeFolder, fetch_status, fetch_statuses, read_genesis
from tepbft.cli.demo_app import wrap_bank, wrap_notary
from tepbft.cli.lifecycle import lower_cluster, raise_cluster
from tepbft.cli.load import Measured, drive, percentile
from tepbft.cli.notarizing import Tally, collect, notarize_with
from tepbft.cli.output import progress, say
from tepbft.cli.processes import KILL_TIMEOUT_S, alive, node_pid, send_signal, wait_until
from tepbft.client.aio import Client
from tepbft.client.receipt_file import receipt_to_json
from tepbft.client.receipts import verify_receipt
from tepbft.errors import PeerFault, TepbftError
from tepbft.lab.workload import smallbank
from tepbft.node.status import NodeStatus
from tepbft.trusted.client import device_pid

REQUEST_TIMEOUT_S = 120.0
VIEW_CHANGE_TIMEOUT_S = 60.0
READMISSION_TIMEOUT_S = 90.0
AGREEMENT_TIMEOUT_S = 90.0
_POLL_S = 0.1
_SOURCE_EXCLUDES = ("__pycache__", "*.pyc", "*.egg-info")


def source_tree() -> Path:
    """The folder of this program's own source."""
    return Path(tepbft.__file__).resolve().parent


@dataclass
class Result:
    """What the demo found; `record` is its last line."""

    nodes: int
    expected: int = 0
    committed: int = 0
    refused: int = 0
    failed: int = 0
    killed: str = ""
    view_changes: int = 0
    readmitted: bool = False
    replicas_agree: bool = False
    audit_ok: bool = False
    receipt_ok: bool = False
    tps: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    unavailable_ms: float = 0.0
    notarized: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether everything held."""
        return (
            self.committed == self.expected
            and self.failed == 0
            and self.view_changes > 0
            and self.readmitted
            and self.replicas_agree
            and self.audit_ok
            and self.receipt_ok
        )

    def record(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "committed": self.committed,
            "failed": self.failed,
            "refused": self.refused,
            "killed": self.killed,
            "view_changes": self.view_changes,
            "readmitted": self.readmitted,
            "replicas_agree": self.replicas_agree,
            "audit_ok": self.audit_ok,
            "receipt_ok": self.receipt_ok,
            "tps": round(self.tps, 1),
            "p50_ms": round(self.p50_ms, 2),
            "p99_ms": round(self.p99_ms, 2),
            "unavailable_ms": round(self.unavailable_ms, 1),
            "nodes": self.nodes,
            "notarized": self.notarized,
        }


def agreement(statuses: list[NodeStatus | None]) -> str | None:
    """The common head if all nodes report the same one at the same height; None otherwise."""
    heads = {(status.executed, status.stable, status.head) if status else None for status in statuses}
    if len(heads) != 1:
        return None
    only = heads.pop()
    return only[2] if only is not None and only[0] == only[1] else None


def presumed_primary(statuses: list[NodeStatus | None]) -> int:
    """The primary that most nodes name; TepbftError if nobody answers."""
    named = Counter(status.primary for status in statuses if status is not None)
    if not named:
        raise TepbftError("demo", "no node answers", "Look into the nodes' logs.")
    return named.most_common(1)[0][0]


class Demo:
    """One run on a cluster that is up. `load` first, then `settle`."""

    def __init__(
        self, cluster: Cluster, *, transactions: int, clients: int, in_flight: int, seed: int
    ) -> None:
        self._cluster = cluster
        self._transactions = transactions
        self._clients = clients
        self._in_flight = in_flight
        self._seed = seed
        self._measured = Measured()
        self._near_half = asyncio.Event()
        self._half = asyncio.Event()
        self._receipt_file = cluster.layout.root / "receipt.json"
        self._victim: NodeFolder | None = None
        self._old_tc_id = ""
        self._last_registered: tuple[int, int] | None = None

    # --- under load ---------------------------------------------------------------------------

    async def load(self) -> Result:
        """Transactions and notarization, with the murder in the middle; then the comparison."""
        result = Result(nodes=len(self._cluster.genesis.members))
        root = self._cluster.layout.root
        files = collect([source_tree()], _SOURCE_EXCLUDES)
        result.expected = self._transactions + len(files)
        async with contextlib.AsyncExitStack() as stack:
            opened = [
                await stack.enter_async_context(
                    Client.open(root, f"client{number:02}", timeout_s=REQUEST_TIMEOUT_S)
                )
                for number in range(self._clients + 1)
            ]
            bar = stack.enter_context(progress())
            task = bar.add_task("Transactions", total=self._transactions)
            self._measured.started_s = time.monotonic()
            murder = asyncio.create_task(self._murder(result))
            notarizing = asyncio.create_task(
                notarize_with(opened[-1], wrap_notary, files, each=self._remember)
            )
            await self._transact(opened[:-1], bar, task)
            tally = await notarizing
            await murder
            self._account(result, tally)
            await self._await_return(result)
            await self._compare(result)
            await self._fetch_receipt(result, opened[-1])
        return result

    def _remember(self, record: dict[str, Any]) -> None:
        """Of the registered files, the one whose answer every node still keeps: the newest."""
        if record["status"] == "registered":
            self._last_registered = max(self._last_registered or (0, 0), (record["session"], record["seq"]))

    async def _transact(self, clients: list[Client], bar: Progress, task: TaskID) -> None:
        measured = self._measured

        def progressed() -> None:
            if measured.finished * 5 >= self._transactions * 2:
                self._near_half.set()
            if measured.finished * 2 >= self._transactions:
                self._half.set()
            if measured.finished % 50 == 0 or measured.finished == self._transactions:
                bar.update(task, completed=measured.finished)

        share, rest = divmod(self._transactions, len(clients))
        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(clients):
                count = share + (1 if number < rest else 0)
                rng = Random(f"{self._seed}/{number}")
                operations = (wrap_bank(operation) for operation in islice(smallbank(rng), count))
                group.create_task(drive(client, operations, self._in_flight, measured, progressed))

    async def _murder(self, result: Result) -> None:
        """At half-time: SIGKILL for the primary and its component; once the others go on, bring it back."""
        await self._near_half.wait()
        statuses = await asyncio.to_thread(fetch_statuses, self._cluster.genesis)
        primary = presumed_primary(statuses)
        victim = self._cluster.select([primary])[0]
        status = statuses[primary]
        self._victim, result.killed = victim, victim.name
        self._old_tc_id = status.tc_id if status is not None else victim.member.tc_id.hex()
        pids = [
            pid for pid in (node_pid(victim.layout), device_pid(victim.layout.trusted)) if pid is not None
        ]
        await self._half.wait()
        for pid in pids:
            send_signal(pid, signal.SIGKILL)
        say(f"{self._measured.finished:,} done: killed {victim.name}, the primary, and its component.")
        if len(pids) != 2:
            result.problems.append(f"{victim.name} or its component did not run when it was to be killed")
        gone = await asyncio.to_thread(
            wait_until, lambda: not any(alive(pid) for pid in pids), KILL_TIMEOUT_S
        )
        if not gone:
            result.problems.append(f"{victim.name} did not end after SIGKILL")
        if not await self._others_moved_on(primary, status.view if status is not None else 0):
            result.problems.append("the other nodes did not change the view in time")
        say(f"The others changed the view; starting {victim.name} again, with a new trusted component.")
        await asyncio.to_thread(raise_cluster, self._cluster, [primary], settle_s=0.0)

    async def _others_moved_on(self, primary: int, view: int) -> bool:
        """Until a commit quorum of the others is active in a later view; False if that takes too long."""
        members = self._cluster.genesis.members
        needed = len(members) - (len(members) - 1) // 2
        deadline = time.monotonic() + VIEW_CHANGE_TIMEOUT_S
        while time.monotonic() < deadline:
            statuses = await asyncio.to_thread(fetch_statuses, self._cluster.genesis, 1.0)
            moved = [
                status
                for status in statuses
                if status is not None
                and status.node != primary
                and status.phase == "active"
                and status.view > view
            ]
            if len(moved) >= needed:
                return True
            await asyncio.sleep(_POLL_S)
        return False

    def _account(self, result: Result, tally: Tally) -> None:
        measured = self._measured
        result.notarized = tally.registered + tally.already
        result.committed = measured.committed + result.notarized
        result.refused = measured.refused
        result.failed = measured.failed + tally.failed
        result.tps = measured.per_second()
        result.p50_ms = percentile(measured.latencies_ms, 0.50)
        result.p99_ms = percentile(measured.latencies_ms, 0.99)
        result.unavailable_ms = measured.longest_gap_ms()
        result.problems += measured.errors
        if tally.failed:
            result.problems.append(f"{tally.failed} files were not notarized")

    # --- afterwards ---------------------------------------------------------------------------

    async def _await_return(self, result: Result) -> None:
        """Until the victim votes again, under a new component."""
        victim = self._victim
        if victim is None:
            result.problems.append("nothing was killed")
            return
        deadline = time.monotonic() + READMISSION_TIMEOUT_S
        status: NodeStatus | None = None
        while time.monotonic() < deadline:
            status = await asyncio.to_thread(fetch_status, victim.member)
            if status is not None and status.phase == "active" and status.tc_id != self._old_tc_id:
                result.readmitted = True
                say(f"{victim.name} caught up and votes again.")
                return
            await asyncio.sleep(_POLL_S)
        phase = status.phase if status is not None else "not reachable"
        result.problems.append(f"{victim.name} did not come back in time: it is {phase}")

    async def _compare(self, result: Result) -> None:
        """Drain: until all nodes report one head at one height, executed and stable."""
        deadline = time.monotonic() + AGREEMENT_TIMEOUT_S
        statuses: list[NodeStatus | None] = []
        while time.monotonic() < deadline:
            statuses = await asyncio.to_thread(fetch_statuses, self._cluster.genesis)
            if agreement(statuses) is not None:
                result.replicas_agree = True
                break
            await asyncio.sleep(_POLL_S)
        else:
            seen = ", ".join(f"{s.executed}/{s.stable} {s.head[:8]}" if s else "down" for s in statuses)
            result.problems.append(f"the replicas do not agree (executed/stable head): {seen}")
        result.view_changes = max((status.view_changes for status in statuses if status), default=0)

    async def _fetch_receipt(self, result: Result, client: Client) -> None:
        """Keep the receipt of the last file that was registered."""
        if self._last_registered is None:
            result.problems.append("no file was registered")
            return
        session, seq = self._last_registered
        try:
            proof = await client.receipt(seq, session=session)
            write_file(self._receipt_file, receipt_to_json(proof))
        except (TepbftError, PeerFault) as error:
            result.problems.append(f"no receipt: {error}")

    def settle(self, result: Result) -> None:
        """Stop the cluster, then look at what it left: one chain as a whole, and the receipt."""
        lower_cluster(self._cluster)
        auditee = self._victim or self._cluster.nodes[0]
        say(f"Auditing the chain of {auditee.name} …")
        try:
            report = audit_folder(auditee.layout.folder)
            result.audit_ok = report.ok and report.heights_checked > 0
            result.problems += [f"audit: {finding.where}: {finding.what}" for finding in report.findings[:5]]
        except TepbftError as error:
            result.problems.append(f"audit: {error}")
        try:
            genesis = read_genesis(self._cluster.layout.genesis)
            verify_receipt(genesis, read_receipt(self._receipt_file))
            result.receipt_ok = True
        except TepbftError as error:
            result.problems.append(f"receipt: {error}")
