"""What real clusters survive, what they do not, and that they say so."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Ran, Running, eventually
from tepbft.cli.processes import alive, node_pid
from tepbft.cli.verdict import DEGRADED, HEALTHY, LOST, NO_QUORUM
from tepbft.client.aio import Client
from tepbft.errors import TepbftError
from tepbft.execution.apps import kv
from tepbft.storage.journal import Journal
from tepbft.storage.port import OUTCOMES
from tepbft.storage.records import decode_record
from tepbft.storage.segments import Position, segment_path
from tepbft.trusted.client import DeviceClient, device_pid
from tepbft.trusted.keys import KINDS, KeyKind

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]


def test_seven_nodes_survive_three_and_stop_at_the_fourth(make_cluster: Callable[..., Running]) -> None:
    """f = 3, the primary among them. Without a quorum writes stop; nodes that return resume under the
    same identities, as their components never ended (I-1, I-16)."""
    running = make_cluster(7)
    running.up()
    before = running.identities()
    running.put("k0", "v0")
    for number, node in enumerate((0, 3, 5), 1):
        running.kill(node)
        running.put(f"k{number}", f"v{number}")
    eventually(lambda: running.verdict().state == DEGRADED, "a verdict that says so")
    assert running.verdict().spare == 0

    running.kill(1)
    eventually(lambda: running.verdict().state == NO_QUORUM, "a verdict that says that writes stop")
    with pytest.raises(TepbftError):
        running.submit(kv.parse(["put", "k4", "v4"]), timeout_s=3.0)

    raised = running.up()
    assert raised.fresh == () and set(raised.started) == {0, 1, 3, 5}
    eventually(lambda: running.verdict().state == HEALTHY, "all nodes voting again")
    assert running.identities() == before
    running.put("k5", "v5")
    assert [running.get(f"k{number}") for number in (0, 1, 2, 3, 5)] == ["v0", "v1", "v2", "v3", "v5"]
    eventually(running.agree, "one head on all nodes")


def test_four_nodes_survive_one(make_cluster: Callable[..., Running]) -> None:
    """Even n: f = 1 and three votes commit, so the second loss stops writes."""
    running = make_cluster(4)
    running.up()
    running.put("a", "1")
    running.kill(0)
    running.put("b", "2")
    running.kill(2)
    eventually(lambda: running.verdict().state == NO_QUORUM, "a verdict that says that writes stop")
    running.up()
    running.put("c", "3")
    assert [running.get(key) for key in "abc"] == ["1", "2", "3"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_component_is_replaced_by_the_others(
    make_cluster: Callable[..., Running], kind: KeyKind
) -> None:
    """A8.2, A8.3: a new key is a new component; it votes after a configuration change admitted it. It is of
    the kind that the cluster was made for (ADR 0021)."""
    running = make_cluster(3, component_key=kind)
    running.up()
    members = running.cluster.genesis.members
    assert [len(member.tc_key) for member in members] == 3 * [{"p256": 65, "secp256k1": 33}[kind]]
    running.put("a", "1")
    before = running.identities()
    running.kill(2, component=True)
    running.put("b", "2")
    raised = running.up()
    assert raised.fresh == (2,)
    with DeviceClient(running.cluster.nodes[2].layout.trusted) as device:
        assert len(device.identity().key) == len(members[2].tc_key)
    eventually(lambda: running.verdict().state == HEALTHY, "the admission of the new component")
    after = running.identities()
    assert after[:2] == before[:2] and after[2] != before[2]
    running.kill(0)  # now the quorum needs the newcomer's vote
    running.put("c", "3")
    running.up()
    eventually(running.agree, "one head on all nodes")
    status = running.status(2)
    assert status is not None and status.configuration == 1


def test_losing_all_components_is_told_and_recovered_on_request(
    make_cluster: Callable[..., Running], tepbft: Callable[..., Ran], tmp_path: Path
) -> None:
    """A8.4: the cluster refuses to guess; an operator continues the ledger under a new genesis."""
    running = make_cluster(3)
    running.up()
    old_genesis = running.cluster.genesis
    old_receipt, new_receipt = tmp_path / "old.json", tmp_path / "new.json"
    assert tepbft("submit", running.root, "put", "a", "1", "--receipt", old_receipt).code == 0
    assert tepbft("recover", running.root, "--yes-i-understand").code == 1  # nodes run
    for node in range(3):
        running.kill(node, component=True)

    refused = tepbft("up", running.root, "--json")
    assert refused.code == 1 and refused.records[-1]["verdict"]["state"] == LOST
    assert "tepbft recover" in refused.records[-1]["verdict"]["text"]
    assert tepbft("down", running.root, "--nodes-only").code == 0

    proposed = tepbft("recover", running.root, "--json")
    assert proposed.code == 1 and proposed.records[0]["done"] is False
    assert proposed.records[0]["lost_components"] == [0, 1, 2]
    assert running.cluster.genesis == old_genesis
    done = tepbft("recover", running.root, "--yes-i-understand", "--json")
    assert done.code == 0, done.err
    genesis = running.cluster.genesis
    assert genesis.recovered is not None and genesis.recovered.chain_id == old_genesis.chain_id
    assert genesis.chain_id.hex() == done.records[0]["chain_id"] != old_genesis.chain_id.hex()

    assert running.up().verdict.state == HEALTHY
    assert running.get("a") == "1"
    assert tepbft("submit", running.root, "put", "b", "2", "--receipt", new_receipt).code == 0
    suffix = old_genesis.chain_id.hex()[:8]
    for receipt, name in ((old_receipt, f"genesis.json.old-{suffix}"), (new_receipt, "genesis.json")):
        assert tepbft("receipt", "verify", receipt, "--genesis", running.root / name).code == 0
    assert tepbft("receipt", "verify", old_receipt, "--genesis", running.root / "genesis.json").code == 1
    running.down()
    assert tepbft("audit", running.root / "node0").code == 0
    assert (running.root / "node0" / f"store.old-{suffix}").is_dir()


def _lights_out(running: Running, key: str, value: str) -> None:
    """A write, and SIGKILL for every process as soon as the client has its answer."""
    layouts = [folder.layout for folder in running.cluster.nodes]
    pids = [pid for layout in layouts for pid in (node_pid(layout), device_pid(layout.trusted)) if pid]

    async def write() -> None:
        async with Client.open(running.root, "client01", timeout_s=60.0) as client:
            assert (await client.submit_many([kv.parse(["put", key, value])]))[0].ok
            for pid in pids:
                os.kill(pid, signal.SIGKILL)

    asyncio.run(write())
    eventually(lambda: not any(alive(pid) for pid in pids), "the end of all processes", 10)


def _lose_what_was_only_written(folder: Path, chain_id: bytes) -> None:
    """Of one journal, all that a power failure may take."""
    journal = Journal(folder, chain_id)
    last: list[Position] = []
    for position, payload in journal.replay():
        last = [*last, position] if isinstance(decode_record(payload), OUTCOMES) else []
    journal.close()
    if last:
        os.truncate(segment_path(folder, last[0].segment), last[0].offset)


def test_a_power_failure_of_all_nodes_takes_no_acknowledged_write(
    make_cluster: Callable[..., Running], tepbft: Callable[..., Ran]
) -> None:
    """ADR 0022: nodes, components, and all that was not forced before the client had its answer. The new
    chain goes on with what the nodes had forced before they voted."""
    running = make_cluster(3)
    running.up()
    running.put("a", "1")
    _lights_out(running, "b", "2")
    chain_id = running.cluster.genesis.chain_id
    for folder in running.cluster.nodes:
        _lose_what_was_only_written(folder.layout.store / "journal", chain_id)
    done = tepbft("recover", running.root, "--yes-i-understand", "--json")
    assert done.code == 0, done.err
    assert done.records[0]["height"] > done.records[0]["proven_height"], "nothing was lost: the test is void"
    assert running.up().verdict.state == HEALTHY
    assert (running.get("a"), running.get("b")) == ("1", "2")


def test_recovery_is_refused_where_the_cluster_helps_itself(
    make_cluster: Callable[..., Running], tepbft: Callable[..., Ran]
) -> None:
    running = make_cluster(3)
    running.up()
    running.put("a", "1")
    running.kill(1, component=True)
    running.down()
    refused = tepbft("recover", running.root, "--yes-i-understand", "--json")
    assert refused.code == 1 and "only 1 of 3" in refused.records[0]["error"]["reason"]
    assert all(device_pid(folder.layout.trusted) is None for folder in running.cluster.nodes)
    assert running.up().fresh == (1,) or running.verdict().writes
    eventually(lambda: running.verdict().state == HEALTHY, "the admission of the new component")
    assert running.get("a") == "1"


def test_a_flipped_bit_is_found_by_the_audit(
    make_cluster: Callable[..., Running], tepbft: Callable[..., Ran]
) -> None:
    running = make_cluster(3)
    running.up()
    for number in range(5):
        running.put(f"k{number}", "value")
    running.down()
    folder = running.root / "node1"
    assert tepbft("audit", folder).code == 0
    segment = sorted((folder / "store" / "journal").glob("*.log"))[0]
    data = bytearray(segment.read_bytes())
    data[len(data.rstrip(b"\0")) // 2] ^= 0x10
    segment.write_bytes(data)
    found = tepbft("audit", folder, "--json")
    assert found.code == 1 and not found.records[0]["ok"]
    assert any(segment.name in finding["where"] for finding in found.records[0]["findings"])
    assert tepbft("audit", running.root / "node0").code == 0
