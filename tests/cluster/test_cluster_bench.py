"""A benchmark of real processes: the contract of its JSON, and nothing left behind, interrupted or not."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Ran, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]

KEYS = {
    "tps",
    "latency_ms",
    "limit_tps",
    "ratio",
    "t_verify_us",
    "t_sign_us",
    "cpu_us_per_tx_per_replica",
    "trusted_cpu_us_per_tx_per_replica",
    "load_cpu_us_per_tx",
    "rss_mb_max",
    "disk_bytes_per_tx",
    "messages_per_tx",
    "bytes_per_tx",
    "view_changes",
    "gap_ms",
    "replicas_agree",
    "limited_by_client",
    "committed",
    "lost",
    "errors",
    "options",
    "machine",
    "cores",
    "commit",
    "started_at",
}
QUICK = ("--nodes", 3, "--seconds", 1.5, "--warmup", 0.5)


def with_mark(mark: str) -> list[str]:
    """Command lines of the processes that descend from the one that was given `mark`: they inherit its
    environment. A component hides its own; it is recognised by its folder, which the mark is part of."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line = (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_bytes().rpartition(b")")[2].split()[0]
        except OSError:
            continue
        with contextlib.suppress(OSError):  # if it hides that, its command line has to do
            line += (entry / "environ").read_bytes()
        if mark.encode() in line and state not in (b"Z", b"X"):
            found.append(line.split(b"\0\0")[0].replace(b"\0", b" ").decode("utf-8", "replace")[:120])
    return found


def test_a_short_benchmark_keeps_its_contract(tepbft: Callable[..., Ran], tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    ran = tepbft("bench", *QUICK, "--rate", 300, "--json", target)
    assert ran.code == 0, ran.out + ran.err
    assert ran.out == ""
    record = json.loads(target.read_text())
    assert set(record) >= KEYS
    assert record["replicas_agree"] and record["errors"] == [] and record["lost"] == 0
    assert record["tps"] > 0 and record["committed"] > 0
    assert set(record["latency_ms"]) >= {"p50", "p95", "p99", "max"}
    assert 0 < record["latency_ms"]["p50"] <= record["latency_ms"]["p99"] <= record["latency_ms"]["max"]
    assert record["limit_tps"] == pytest.approx(record["cores"] * 1e6 / (3 * record["t_verify_us"]), rel=0.01)
    assert record["messages_per_tx"]["Prepare"] > 0 and record["bytes_per_tx"]["Prepare"] > 0
    assert record["disk_bytes_per_tx"] > 0 and record["rss_mb_max"] > 10


def test_a_component_inside_the_node_and_crashed_nodes_are_measured(tepbft: Callable[..., Ran]) -> None:
    ran = tepbft("bench", *QUICK, "--scheme", "none", "--in-process", "--crashed", 1, "--rate", 200, "--json")
    assert ran.code == 0, ran.out + ran.err
    assert len(ran.records) == 1
    record = ran.records[0]
    assert record["replicas_agree"] and record["tps"] > 0
    assert record["limit_tps"] is None and record["ratio"] is None
    assert record["trusted_cpu_us_per_tx_per_replica"] == 0


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGTERM, 2), (signal.SIGTERM, 7), (signal.SIGINT, 10), (signal.SIGTERM, 10)],
)
def test_an_interrupted_benchmark_leaves_no_process(
    tmp_path: Path, number: signal.Signals, moment: int
) -> None:
    """Interrupted when more than so many processes run: while it calibrates, starts nodes, is under load."""
    mark = secrets.token_hex(8)
    root = tmp_path / mark
    bench = subprocess.Popen(
        [sys.executable, "-m", "tepbft.cli.main", "bench", "--seconds", "60", "--dir", str(root)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TEPBFT_TEST_MARK": mark},
        start_new_session=True,
    )
    try:
        eventually(lambda: len(with_mark(mark)) > moment, "a benchmark that runs")
        os.kill(bench.pid, number)
        assert bench.wait(60) == 130
    finally:
        bench.kill()
        bench.wait()
    eventually(lambda: with_mark(mark) == [], "the end of its processes", 10)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--nodes", 2), "outside"),
        (("--rate", "fast"), "no rate"),
        (("--crashed", 2), "faulty"),
        (("--set", "nonsense = 1"), "nonsense"),
        (("--kill-primary", 99), "window"),
        (("out.json",), "--json"),
    ],
)
def test_what_cannot_be_measured_is_wrong_usage(
    tepbft: Callable[..., Ran], arguments: tuple[object, ...], why: str
) -> None:
    ran = tepbft("bench", "--scheme", "none", *arguments)
    assert ran.code == 2 and why in ran.err and ran.out == ""
