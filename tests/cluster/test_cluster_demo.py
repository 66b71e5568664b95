"""The demo, small: it holds what it claims, and leaves nothing behind, finished or interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Ran, eventually
from tepbft.cli.demo import kill_everything

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]

KEYS = {
    "committed",
    "failed",
    "killed",
    "view_changes",
    "readmitted",
    "replicas_agree",
    "audit_ok",
    "receipt_ok",
    "tps",
    "p50_ms",
    "p99_ms",
    "unavailable_ms",
    "nodes",
    "notarized",
}


def processes_of(root: Path) -> list[str]:
    """Command lines of living processes that work in a folder below `root`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{root}/node" in line:
            found.append(line)
    return found


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder for a demo."""
    folder = Path(tempfile.mkdtemp(prefix="tepc-", dir="/tmp"))
    yield folder / "demo"
    kill_everything(folder / "demo")
    shutil.rmtree(folder, ignore_errors=True)


def test_a_small_demo_holds(root: Path, tepbft: Callable[..., Ran]) -> None:
    """A killed primary and component in the middle: nothing is lost, all agree, everything is proven."""
    ran = tepbft("demo", "--dir", root, "--nodes", 3, "--transactions", 2000, "--clients", 6, "--keep")
    assert ran.code == 0, ran.out + ran.err
    record = json.loads(ran.out.splitlines()[-1])
    assert set(record) >= KEYS
    assert record["committed"] == 2000 + record["notarized"] and record["failed"] == 0
    assert record["killed"] == "node0" and record["view_changes"] >= 1
    assert all(record[name] for name in ("readmitted", "replicas_agree", "audit_ok", "receipt_ok"))
    assert processes_of(root) == [] and (root / "genesis.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_cleans_up(root: Path, number: signal.Signals) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "tepbft.cli.main", "demo", "--dir", str(root), "--nodes", "3"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: len(processes_of(root)) >= 6, "a demo that runs")
        os.kill(demo.pid, number)
        assert demo.wait(60) == 130
    finally:
        demo.kill()
        demo.wait()
    eventually(lambda: processes_of(root) == [], "the end of its processes", 10)
    assert not root.exists()
