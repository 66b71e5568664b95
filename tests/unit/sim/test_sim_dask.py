"""Campaigns on a Dask cluster: a real scheduler and real workers on this machine, some of which die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tepbft.cli.main import run
from tepbft.errors import TepbftError
from tepbft.sim import workers as workers_module
from tepbft.sim.campaign import BROKEN, INTERRUPTED, Report, Seeds, hunt_mutant, run_campaign
from tepbft.sim.job import Job
from tepbft.sim.workers import Dask, Inline, WorkerLost, make_workers, run_elsewhere, sources

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("dask")]

START_S = 60.0
CALM = Job(profile="calm")


class Cluster:
    """A scheduler and workers, each a process that this object ends; none outlives the tests for long."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._processes = folder, list[subprocess.Popen[bytes]]()
        self._file = folder / "scheduler.json"
        where = ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(self._file)]
        self.scheduler = self._start("scheduler", *where, "--idle-timeout", "300 s")
        self.address = self._address().removeprefix("tcp://")

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        log = self._folder / f"{len(self._processes)}.log"
        command = [sys.executable, "-m", "dask", *arguments, "--no-dashboard"]
        with log.open("wb") as file:
            process = subprocess.Popen(command, cwd=self._folder, stdout=file, stderr=file)
        self._processes.append(process)
        return process

    def _address(self) -> str:
        end = time.monotonic() + START_S
        while time.monotonic() < end and self.scheduler.poll() is None:
            try:
                address: str = json.loads(self._file.read_text())["address"]
                return address
            except (OSError, ValueError):
                time.sleep(0.05)
        raise AssertionError((self._folder / "0.log").read_text())

    def worker(self, *, threads: int = 1) -> subprocess.Popen[bytes]:
        where = ["--scheduler-file", str(self._file), "--host", "127.0.0.1", "--death-timeout", "60 s"]
        return self._start(
            "worker", *where, "--no-nanny", "--nthreads", str(threads), "--local-directory", str(self._folder)
        )

    def close(self) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests may keep this machine busy while workers start."""
    monkeypatch.setattr(workers_module, "CONNECT_S", START_S)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One worker with two threads, for tests that leave it alive."""
    cluster = Cluster(tmp_path_factory.mktemp("dask"))
    cluster.worker(threads=2)
    yield cluster
    cluster.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Cluster]:
    """A scheduler without workers, for tests that do harm."""
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()


def once(action: Callable[[], object]) -> Callable[[Report], None]:
    """Does something after the first runs have come."""
    left = [action]

    def watch(report: Report) -> None:
        if left:
            left.pop()()

    return watch


def test_the_same_seeds_are_the_same_runs(shared: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sim", "--nodes", "3", "--seeds", "0..19", "--json", "--workers"]
    found: list[dict[str, Any]] = []
    for workers in (f"dask://{shared.address}", "1"):
        assert run([*arguments, workers]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        found.append(json.loads(captured.out))
    assert found[0]["trace_hash"] == found[1]["trace_hash"] and found[0]["coverage"] == found[1]["coverage"]
    assert found[0]["seeds"] == 20


def test_threads_of_one_worker_do_not_share_a_planted_defect(shared: Cluster) -> None:
    """A defect is planted in the code of the whole process, so runs take turns there."""
    job = Job(mutant="quorum_minus_one")
    hunts = [
        hunt_mutant(job, Seeds(0, 19), workers, lambda done: None)
        for workers in (make_workers(f"dask://{shared.address}"), Inline())
    ]
    assert hunts[0].record() == hunts[1].record() and hunts[0].caught is not None
    after = run_campaign(CALM, Seeds(0, 7), make_workers(f"dask://{shared.address}"))
    assert after.trace_hash == run_campaign(CALM, Seeds(0, 7), Inline()).trace_hash


def test_an_interruption_shows_what_was_found_so_far(shared: Cluster) -> None:
    interrupt = once(lambda: os.kill(os.getpid(), signal.SIGINT))
    begun = time.monotonic()
    report = run_campaign(CALM, Seeds(0, 1_000_000), make_workers(f"dask://{shared.address}"), interrupt)
    assert report.interrupted and report.exit_code == INTERRUPTED and 0 < report.seeds < 1000
    assert time.monotonic() - begun < 30


def test_seeds_of_a_dead_worker_are_run_by_another(own: Cluster) -> None:
    first, _ = own.worker(), own.worker()
    workers = Dask(own.address)
    workers._client.wait_for_workers(2, timeout=START_S)
    report = run_campaign(CALM, Seeds(0, 39), workers, once(first.kill))
    assert report.error is None
    assert report.trace_hash == run_campaign(CALM, Seeds(0, 39), Inline()).trace_hash


def test_without_any_worker_left_the_campaign_is_broken(own: Cluster) -> None:
    last = own.worker()
    report = run_campaign(CALM, Seeds(0, 1_000_000), Dask(own.address, patience_s=3.0), once(last.kill))
    assert report.exit_code == BROKEN and isinstance(report.error, WorkerLost)
    assert "no workers" in report.error.reason and report.seeds > 0


def test_without_its_scheduler_the_campaign_is_broken(own: Cluster) -> None:
    own.worker()
    report = run_campaign(CALM, Seeds(0, 1_000_000), Dask(own.address), once(own.scheduler.kill))
    assert report.exit_code == BROKEN and isinstance(report.error, WorkerLost)
    assert "scheduler" in report.error.reason and report.seeds > 0


def test_a_cluster_without_workers_is_declined(own: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "CONNECT_S", 3.0)
    with pytest.raises(TepbftError, match="no workers") as caught:
        Dask(own.address)
    assert caught.value.exit_code == BROKEN


def test_nobody_at_the_address_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workers_module, "CONNECT_S", 1.0)
    assert run(["sim", "--seeds", "0..1", "--workers", "dask://127.0.0.1:9", "--json"]) == BROKEN
    captured = capsys.readouterr()
    assert "does not answer" in json.loads(captured.out)["error"]["reason"]
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("address", ["", "127.0.0.1", "host:", "host:port", "a b:1"])
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    with pytest.raises(TepbftError) as caught:
        make_workers(f"dask://{address}")
    assert caught.value.exit_code == 2


def test_a_worker_with_other_sources_is_not_believed() -> None:
    assert isinstance(run_elsewhere(CALM, (0, 0), sources()), list)
    assert "other sources" in run_elsewhere(CALM, (0, 0), "0" * 32)


def test_what_the_simulator_raises_elsewhere_is_told(shared: Cluster) -> None:
    report = run_campaign(Job(nodes=-1), Seeds(0, 3), make_workers(f"dask://{shared.address}"))
    assert report.exit_code == BROKEN and isinstance(report.error, WorkerLost)
    assert "Error" in report.error.reason
