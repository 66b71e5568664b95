"""Real clusters: processes, sockets and disks, under a short path, ended by pid whatever happens."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tepbft.cli.cluster import Cluster, fetch_status, open_cluster, survey
from tepbft.cli.creation import Plan, create_cluster
from tepbft.cli.demo import kill_everything
from tepbft.cli.lifecycle import Raised, lower_cluster, raise_cluster
from tepbft.cli.processes import alive, node_pid, wait_until
from tepbft.cli.verdict import Verdict
from tepbft.client.aio import Client
from tepbft.client.events import Outcome
from tepbft.execution.apps import kv
from tepbft.node.status import NodeStatus
from tepbft.trusted.client import device_pid

WAIT_S = 60.0


def eventually(condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
    """Poll until it holds; fail, saying what did not come about, if it does not in time."""
    assert wait_until(condition, timeout_s, 0.1), f"not within {timeout_s:.0f} s: {what}"


@dataclass
class Running:
    """One cluster under test."""

    root: Path

    @property
    def cluster(self) -> Cluster:
        """The folder, read anew: recovery changes the genesis."""
        return open_cluster(self.root)

    # --- life ---------------------------------------------------------------------------------

    def up(self, *only: int) -> Raised:
        """`tepbft up`."""
        return raise_cluster(self.cluster, only)

    def down(self) -> None:
        """`tepbft down`."""
        lower_cluster(self.cluster)

    def kill(self, node: int, *, component: bool = False) -> None:
        """SIGKILL for a node, and for its trusted component if asked for; waits until they are gone."""
        layout = self.cluster.nodes[node].layout
        pids = [node_pid(layout), device_pid(layout.trusted) if component else None]
        found = [pid for pid in pids if pid is not None]
        assert len(found) == (2 if component else 1)
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not any(alive(pid) for pid in found), f"the end of node{node}", 10)

    # --- use ----------------------------------------------------------------------------------

    def submit(self, *operations: bytes, timeout_s: float = WAIT_S) -> list[Outcome]:
        """The outcomes of operations, submitted together."""

        async def run() -> list[Outcome]:
            async with Client.open(self.root, "client01", timeout_s=timeout_s) as client:
                return await client.submit_many(operations)

        return asyncio.run(run())

    def put(self, key: str, value: str, timeout_s: float = WAIT_S) -> None:
        """One write, which must take effect."""
        assert self.submit(kv.parse(["put", key, value]), timeout_s=timeout_s)[0].ok

    def get(self, key: str) -> str | None:
        """One read in agreed order."""
        operation = kv.parse(["get", key])
        found: Any = kv.render(operation, self.submit(operation)[0].result)
        return found["value"]

    # --- questions ----------------------------------------------------------------------------

    def status(self, node: int) -> NodeStatus | None:
        """What a node says of itself."""
        return fetch_status(self.cluster.genesis.members[node])

    def verdict(self) -> Verdict:
        """`tepbft status`."""
        return survey(self.cluster.genesis)[1]

    def identities(self) -> list[str]:
        """The components that the nodes work with."""
        statuses, _ = survey(self.cluster.genesis)
        return [status.tc_id if status is not None else "" for status in statuses]

    def agree(self) -> bool:
        """Whether all nodes report one head, executed and stable, at one height."""
        statuses, _ = survey(self.cluster.genesis)
        seen = {(s.executed, s.stable, s.head) if s is not None else None for s in statuses}
        only = seen.pop()
        return not seen and only is not None and only[0] == only[1]


@pytest.fixture
def make_cluster() -> Iterator[Callable[..., Running]]:
    """Makes clusters; their processes are killed by pid and their folders removed at the end."""
    roots: list[Path] = []

    def make(nodes: int, **options: Any) -> Running:
        root = Path(tempfile.mkdtemp(prefix="tepc-", dir="/tmp"))
        roots.append(root)
        create_cluster(Plan(root, nodes, clients=4, **options))
        return Running(root)

    yield make
    for root in roots:
        kill_everything(root)
        shutil.rmtree(root, ignore_errors=True)


@dataclass
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """Standard output, a JSON object per line and nothing else."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def tepbft() -> Callable[..., Ran]:
    """Runs the real command."""

    def run(*arguments: object) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "tepbft.cli.main", *(str(argument) for argument in arguments)],
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run
