"""Faults on a real cluster: S-26, S-32, S-33, S-35, S-39 in one short run, and what has to be as before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from conftest import Ran, Running, eventually
from tepbft.cli.verdict import HEALTHY
from tepbft.trusted.client import device_pid

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]

KEYS = {
    "lost",
    "forked",
    "linearizable",
    "healed",
    "operations",
    "acknowledged",
    "faults",
    "unavailable_ms",
    "view_changes",
    "seed",
    "minutes",
    "undecided",
}


def settings(running: Running) -> list[bytes]:
    """The files of all nodes, byte for byte."""
    return [folder.layout.settings.read_bytes() for folder in running.cluster.nodes]


def leftovers(running: Running) -> list[str]:
    """Files that a run must not leave behind."""
    return [str(path) for path in running.root.glob("node*/*torment*")]


def test_a_short_torment_is_survived(
    make_cluster: Callable[..., Running], tepbft: Callable[..., Ran]
) -> None:
    running = make_cluster(5)
    refused = tepbft("torment", running.root, "--minutes", 0.1, "--json")
    assert refused.code == 1 and "not well" in refused.records[0]["error"]["reason"]
    running.up()
    before = settings(running)
    ran = tepbft("torment", running.root, "--minutes", 0.25, "--seed", 4, "--clients", 3, "--json")
    assert ran.code == 0, ran.out + ran.err
    assert len(ran.records) == 1
    record = ran.records[0]
    assert set(record) >= KEYS
    assert record["lost"] == record["twice"] == 0 and not record["forked"]
    assert record["linearizable"] and record["healed"] and not record["undecided"]
    assert record["acknowledged"] == record["operations"] > 0
    assert sum(record["faults"].values()) >= 3 and record["seed"] == 4
    assert settings(running) == before and leftovers(running) == []
    assert running.verdict().state == HEALTHY
    running.put("after", "torment")


def test_full_disks_halt_nodes_which_go_on_by_themselves(
    make_cluster: Callable[..., Running], tepbft: Callable[..., Ran]
) -> None:
    """The journal meets its limit: the node says `halted`, loses nothing, and heals without a restart."""
    running = make_cluster(3)
    running.up()
    ran = tepbft("torment", running.root, "--minutes", 0.1, "--seed", 2, "--only", "disk", "--json")
    assert ran.code == 0, ran.out + ran.err
    record = ran.records[0]
    assert set(record["faults"]) == {"disk"} and record["halted"] >= 1


def test_an_interrupted_torment_gives_the_settings_back(make_cluster: Callable[..., Running]) -> None:
    running = make_cluster(3)
    running.up()
    before = settings(running)
    torment = subprocess.Popen(
        [sys.executable, "-m", "tepbft.cli.main", "torment", str(running.root), "--only", "pause,partition"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: settings(running) != before, "nodes behind relays")
        time.sleep(8)  # into the middle of it; where exactly is of no importance
        os.kill(torment.pid, signal.SIGINT)
        assert torment.wait(90) == 130
    finally:
        torment.kill()
        torment.wait()
    assert settings(running) == before and leftovers(running) == []
    eventually(lambda: running.verdict().state == HEALTHY, "a cluster as it was")
    running.put("after", "interruption")


def test_a_torment_that_was_killed_is_repaired_by_the_next(
    make_cluster: Callable[..., Running], tepbft: Callable[..., Ran]
) -> None:
    """SIGKILL leaves nodes without a network and processes paused; nothing of it is for ever."""
    running = make_cluster(3)
    running.up()
    before = settings(running)
    torment = subprocess.Popen(
        [sys.executable, "-m", "tepbft.cli.main", "torment", str(running.root), "--only", "pause"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: settings(running) != before, "nodes behind relays")
    finally:
        torment.kill()
        torment.wait()
    pid = device_pid(running.cluster.nodes[1].layout.trusted)
    assert leftovers(running) and pid is not None
    os.kill(pid, signal.SIGSTOP)
    ran = tepbft("torment", running.root, "--minutes", 0.05, "--json")
    assert ran.code == 0, ran.out + ran.err
    assert settings(running) == before and leftovers(running) == []


def test_what_cannot_be_tormented_is_told(
    make_cluster: Callable[..., Running], tepbft: Callable[..., Ran]
) -> None:
    running = make_cluster(3)
    running.up()
    for arguments, words in (
        (("--clients", 9), "client keys"),
        (("--only", "flood"), "no fault 'flood'"),
    ):
        ran = tepbft("torment", running.root, "--json", *arguments)
        assert ran.code != 0 and words in json.dumps(ran.records[0])
    other = make_cluster(3, app="notary")
    ran = tepbft("torment", other.root, "--json")
    assert ran.code == 1 and "the load is for kv" in ran.records[0]["error"]["reason"]
