"""One cluster whose nodes verify signatures in three ways: they agree, refuse the same, and end cleanly."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import pytest

from conftest import Ran, Running, eventually
from tepbft.cli.cluster import http_address
from tepbft.cli.processes import alive, node_pid
from tepbft.cli.verdict import HEALTHY
from tepbft.client.aio import Client
from tepbft.client.events import Outcome
from tepbft.crypto.port import RequestSigner
from tepbft.execution.apps import kv
from tepbft.lab.usage import verifying_workers
from tepbft.runtime.settings import dump_settings, load_settings

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]

MODES = ("threads", "workers", "inline")


class LyingSigner:
    """Signs well, but for one request."""

    def __init__(self, signer: RequestSigner, bad: int) -> None:
        self._signer, self._left = signer, bad

    def sign(self, digest: bytes) -> bytes:
        """A signature, with a bit flipped in the one that is to be bad."""
        self._left -= 1
        found = self._signer.sign(digest)
        return found if self._left else found[:-1] + bytes([found[-1] ^ 1])


def submit_with_a_bad_one(root: Path, operations: list[bytes], bad: int) -> list[Outcome]:
    """The outcomes of operations of which number `bad` (from 1) carries a bad signature."""

    async def run() -> list[Outcome]:
        async with Client.open(root, "client02", timeout_s=60) as client:
            client.session._signer = LyingSigner(client.session._signer, bad)
            return await client.submit_many(operations)

    return asyncio.run(run())


def descriptors(pid: int) -> list[str]:
    return [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]


def gave_up(pid: int) -> str:
    """Whether a process may gain rights, as the kernel sees it: not if it was confined."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith("NoNewPrivs"))


def test_nodes_of_every_mode_agree_and_refuse(
    make_cluster: Callable[..., Running], tepbft: Callable[..., Ran]
) -> None:
    running = make_cluster(3)
    for folder, mode in zip(running.cluster.nodes, MODES, strict=True):
        path = folder.layout.settings
        count = 0 if mode == "inline" else 2
        chosen = msgspec.structs.replace(
            load_settings(path), verification=mode, verification_workers=count, log_level="info"
        )
        path.write_text(dump_settings(chosen))
    running.up()
    shown = tepbft("status", running.root, "--json")
    assert [record["verification"] for record in shown.records[:3]] == ["2 threads", "2 workers", "inline"]
    assert (
        "verification: node0 2 threads, node1 2 workers, node2 inline" in tepbft("status", running.root).out
    )
    metrics = httpx.get(http_address(running.cluster.genesis.members[1]) + "/metrics", trust_env=False).text
    assert 'tepbft_verification_info{mode="2 workers"} 1.0' in metrics

    puts = [kv.parse(["put", f"k{number}", "v"]) for number in range(300)]
    assert all(outcome.ok for outcome in running.submit(*puts))
    forged = [kv.parse(["put", f"x{number}", "v"]) for number in range(100)]
    outcomes = submit_with_a_bad_one(running.root, forged, 70)
    assert not outcomes[69].ok and b"bad_signature" in outcomes[69].result
    assert running.get("x69") is None and running.get("k299") == "v"
    eventually(running.agree, "one head on all nodes")

    pid = node_pid(running.cluster.nodes[1].layout)
    assert pid is not None
    workers = verifying_workers(pid)
    assert len(workers) == 2
    for worker in workers:
        assert gave_up(worker) == gave_up(pid)
        assert sum(link.startswith("socket:") for link in descriptors(worker)) == 1

    os.kill(workers[0], signal.SIGKILL)
    assert all(outcome.ok for outcome in running.submit(*puts))
    eventually(lambda: getattr(running.status(1), "verification", "") == "inline", "the loss to be seen")
    running.kill(1)
    eventually(lambda: not any(alive(worker) for worker in workers), "the end of the workers", 10)

    assert running.up().verdict.state == HEALTHY
    pid = node_pid(running.cluster.nodes[1].layout)
    assert pid is not None
    workers = verifying_workers(pid)
    running.down()
    assert len(workers) == 2 and not any(alive(worker) for worker in workers)
