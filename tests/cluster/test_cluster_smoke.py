"""A cluster of three real processes, used in every way there is: command, HTTP, Python; stopped, resumed."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import Ran, Running, eventually
from tepbft.cli.cluster import http_address
from tepbft.cli.demo import kill_everything
from tepbft.cli.processes import node_pid
from tepbft.trusted.client import device_pid

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder for a cluster that the command itself makes."""
    folder = Path(tempfile.mkdtemp(prefix="tepc-", dir="/tmp"))
    yield folder / "ledger"
    kill_everything(folder / "ledger")
    shutil.rmtree(folder, ignore_errors=True)


def test_the_life_of_a_cluster(root: Path, tepbft: Callable[..., Ran], tmp_path: Path) -> None:
    """init, up, submit, receipts, status, audit, down, and up again under the same identities (I-20)."""
    made = tepbft("init", root, "--nodes", 3, "--clients", 4, "--json")
    assert made.code == 0 and made.records[0]["f"] == 1
    assert tepbft("status", root).code == 1

    started = tepbft("up", root, "--json")
    assert started.code == 0, started.err
    assert started.records[-1]["verdict"]["state"] == "healthy"
    before = [record["tc_id"] for record in started.records[:3]]
    running = Running(root)
    pids = [node_pid(folder.layout) for folder in running.cluster.nodes]

    receipt = tmp_path / "receipt.json"
    put = tepbft("submit", root, "put", "colour", "blue", "--receipt", receipt, "--json")
    assert put.code == 0 and put.records[0]["status"] == "ok" and len(put.records) == 1
    got = tepbft("submit", root, "get", "colour", "--node", 1, "--json")
    assert got.code == 0 and got.records[0]["result"] == {"key": "colour", "value": "blue"}
    assert tepbft("submit", root, "paint", "colour").code == 1

    checked = tepbft("receipt", "verify", receipt, "--genesis", root / "genesis.json", "--json")
    assert checked.code == 0 and checked.records[0]["height"] == put.records[0]["height"]
    again, latest = tmp_path / "again.json", got.records[0]
    numbers = [latest[name] for name in ("client", "session", "seq")]
    fetched = tepbft("receipt", "get", root, *numbers, "-o", again)
    assert fetched.code == 0, fetched.err
    assert tepbft("receipt", "verify", again, "--genesis", root / "genesis.json").code == 0
    text = receipt.read_text()
    receipt.write_text(text.replace('"seq": 1', '"seq": 2'))
    assert tepbft("receipt", "verify", receipt, "--genesis", root / "genesis.json").code == 1

    assert tepbft("up", root).code == 0  # idempotent
    assert [node_pid(folder.layout) for folder in running.cluster.nodes] == pids

    stopped = tepbft("down", root, "--json")
    assert (
        stopped.code == 0
        and stopped.records[0]["stopped"] == [0, 1, 2]
        and stopped.records[0]["killed"] == []
    )
    for folder in running.cluster.nodes:
        assert node_pid(folder.layout) is None and device_pid(folder.layout.trusted) is None
        audited = tepbft("audit", folder.layout.folder, "--json")
        assert audited.code == 0 and audited.records[0]["ok"], audited.out

    resumed = tepbft("up", root, "--json")
    assert resumed.code == 0
    assert [record["tc_id"] for record in resumed.records[:3]] == before
    assert tepbft("submit", root, "get", "colour", "--json").records[0]["result"]["value"] == "blue"


def test_http_speaks_the_same_ledger(make_cluster: Callable[..., Running]) -> None:
    running = make_cluster(3)
    running.up()
    running.put("k", "v")
    assert running.get("k") == "v"
    members = running.cluster.genesis.members
    answers: list[dict[str, Any]] = [
        httpx.get(http_address(member) + "/v1/blocks/1", timeout=10, trust_env=False).json()
        for member in members
    ]
    eventually(running.agree, "one head on all nodes")
    assert all(answer["height"] == 1 for answer in answers)
    health = httpx.get(http_address(members[0]) + "/health", timeout=10, trust_env=False)
    assert health.status_code == 200 and json.loads(health.content)["phase"] == "active"


def test_a_folder_is_notarized_once(
    make_cluster: Callable[..., Running], tepbft: Callable[..., Ran], tmp_path: Path
) -> None:
    running = make_cluster(3, app="notary")
    running.up()
    for number in range(40):
        path = tmp_path / f"d{number % 4}" / f"file{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"content {number}")
    first = tepbft("notarize", running.root, tmp_path, "--json")
    assert first.code == 0, first.err
    assert first.records[-1]["summary"]["registered"] == 40 and len(first.records) == 41
    (tmp_path / "d0" / "another").write_text("new")
    second = tepbft("notarize", running.root, tmp_path, "--json").records[-1]["summary"]
    assert (second["registered"], second["already"], second["failed"]) == (1, 40, 0)
