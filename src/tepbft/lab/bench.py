"""One benchmark from nothing to a result: a fresh cluster as users run it, load, measurement, comparison.

Nodes, trusted components and load generators are processes of their own; nodes talk TLS, write durably
and verify every signature. Whatever happens, no process stays behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from tepbft.cli.cluster import Cluster, fetch_statuses, open_cluster
from tepbft.cli.components import stop_components
from tepbft.cli.creation import Plan, create_cluster
from tepbft.cli.lifecycle import lower_cluster
from tepbft.cli.processes import kill, kill_started, node_pid
from tepbft.errors import TepbftError
from tepbft.lab.calibrate import SignatureCost, calibrate, limit_per_s
from tepbft.lab.companion import Companion, mean_us
from tepbft.lab.histogram import Histogram
from tepbft.lab.job import Job, Report, now_us
from tepbft.lab.options import SATURATING, BenchOptions, check_options
from tepbft.lab.probe import Probe, Sample
from tepbft.lab.result import BenchResult
from tepbft.lab.starting import checked_plan, start_cluster
from tepbft.lab.usage import cores, current_commit, machine
from tepbft.node.status import NodeStatus
from tepbft.trusted.client import device_pid

PREPARE_MARGIN = 1.25
"""How many more requests are signed in advance than the limit lets through."""
MAX_PREPARED = 4_000_000
LIVE_SCHEMES = ("none", "mac")
"""Schemes whose authenticators cost next to nothing: nothing is prepared."""
READY_TIMEOUT_S = 600.0
REPORT_SLACK_S = 60.0
AGREE_TIMEOUT_S = 60.0
LATE_MS = 50.0
"""An open-loop generator that falls further behind its schedule than this limits the result."""

PORT_ATTEMPTS = 3
PORT_TAKEN = "another process listens there"

Tell = Callable[[str], None]


@contextlib.contextmanager
def _folder(directory: Path | None) -> Iterator[Path]:
    """Where the cluster lives: a folder of its own that is removed, or the one that was named."""
    if directory is not None:
        yield directory
        return
    root = Path(tempfile.mkdtemp(prefix="tepbft-bench-"))
    try:
        yield root / "cluster"
    finally:
        shutil.rmtree(root, ignore_errors=True)


def run_bench(
    options: BenchOptions,
    *,
    directory: Path | None = None,
    tell: Tell = lambda text: None,
    calibration: SignatureCost | None = None,
) -> BenchResult:
    """Measure. TepbftError instead of a figure if the cluster does not get ready, a process ends, or the
    replicas cannot be compared. `tell` hears what is being done; `calibration` replaces the measurement
    of the signature (for a series of runs that calibrates once)."""
    check_options(options)
    if cores() < 2:
        raise TepbftError(
            "this machine", "it has one core, which nodes and load would take turns on", "Use two or more."
        )
    with _folder(directory) as root:
        plan = checked_plan(options, root)
        tell("measuring the signature on all cores")
        before = calibration or calibrate(options.scheme, options.nodes)
        run = _bring_up(options, plan, before, tell)
        try:
            with asyncio.Runner() as runner:
                runner.run(run.load())
            run.settle()
        finally:
            _end(run.cluster)
        after = calibration or calibrate(options.scheme, options.nodes)
        cost = SignatureCost((before.verify_us + after.verify_us) / 2, (before.sign_us + after.sign_us) / 2)
        return run.result(cost)


def _bring_up(options: BenchOptions, plan: Plan, cost: SignatureCost, tell: Tell) -> _Run:
    """A new cluster that runs. Its ports were free when they were chosen; if somebody was quicker, it is
    made again with others."""
    for attempt in range(1, PORT_ATTEMPTS + 1):
        tell("making the cluster")
        create_cluster(plan)
        run = _Run(options, open_cluster(plan.root), cost, tell)
        try:
            run.start()
            return run
        except BaseException as error:
            _end(run.cluster)
            if attempt == PORT_ATTEMPTS or PORT_TAKEN not in str(error):
                raise
            tell("a port was taken in the meantime")
            shutil.rmtree(plan.root)
    raise AssertionError("unreachable")


def _end(cluster: Cluster) -> None:
    """Stop every process of the cluster, whatever state it is in."""
    with contextlib.suppress(TepbftError):
        lower_cluster(cluster, nodes_only=True)
    kill_started()  # those too that had no time to write their number down
    layouts = [folder.layout for folder in cluster.nodes]
    stop_components(layouts, quietly=True)
    for layout in layouts:
        for pid in (node_pid(layout), device_pid(layout.trusted)):
            if pid is not None:
                with contextlib.suppress(TepbftError):
                    kill(pid)


class _Run:
    """The part of a benchmark during which the cluster is up."""

    def __init__(self, options: BenchOptions, cluster: Cluster, cost: SignatureCost, tell: Tell) -> None:
        self.options = options
        self.cluster = cluster
        self._cost = cost
        self._tell = tell
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._reports: list[Report] = []
        self._before = self._after = Sample()
        self._agree = False
        self._statuses: list[NodeStatus | None] = []
        self._views_before = 0
        self._killed: int | None = None
        self._problems: list[str] = []
        self._verify_us: list[float] = []
        self._prepared = 0
        self._probe: Probe

    # --- up -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Bring up the nodes that shall run."""
        self._tell("starting the nodes")
        start_cluster(self.options, self.cluster)
        self._probe = Probe([self.cluster.nodes[node] for node in self.options.correct])

    def _jobs(self) -> list[Job]:
        options = self.options
        names = [f"client{number:02}" for number in range(options.clients)]
        count = options.generators
        limit_tps = self._limit(self._cost, live_share=0.0)
        limit = limit_tps / options.bundle if limit_tps else None
        pipeline = options.outstanding_per_client(limit)
        budget_s = options.warmup_s + options.seconds
        wanted = options.rate / options.bundle * budget_s
        if limit and not options.rate:
            wanted = limit * budget_s if options.transactions is None else limit * options.warmup_s
            wanted += (options.transactions or 0) / options.bundle
        if options.clients * pipeline < SATURATING:
            wanted = min(wanted, 2000 * budget_s)  # a few closed loops wait most of the time
        each = int(min(wanted * PREPARE_MARGIN, MAX_PREPARED) / options.clients) + 1
        prepare = 0 if options.scheme in LIVE_SCHEMES else each
        self._prepared = prepare * options.clients
        return [
            Job(
                cluster=str(self.cluster.layout.root),
                clients=names[number::count],
                app=options.app,
                payload=options.payload,
                bundle=options.bundle,
                pipeline=pipeline,
                rate=options.rate / options.bundle / count,
                warmup_s=options.warmup_s,
                seconds=options.seconds,
                drain_s=options.drain_s,
                transactions=-(-(options.transactions or 0) // (count * options.bundle)),
                prepare=prepare,
                seed=options.seed * 1000 + number,
            )
            for number in range(count)
        ]

    # --- load ---------------------------------------------------------------------------------

    async def load(self) -> None:
        """Start the generators, let them run, and look at the cluster at both ends of the window."""
        jobs = self._jobs()
        self._tell(f"signing {sum(job.prepare * len(job.clients) for job in jobs):,} requests in advance")
        processes: list[asyncio.subprocess.Process] = []
        scheme = self.options.scheme
        beside = scheme if self.options.saturating and scheme not in LIVE_SCHEMES else None
        async with Companion(beside, self.options.nodes) as companion:
            await self._load(jobs, processes, companion)

    async def _load(
        self, jobs: list[Job], processes: list[asyncio.subprocess.Process], companion: Companion
    ) -> None:
        try:
            for job in jobs:
                await self._spawn(job, processes)
            for process in processes:
                async with asyncio.timeout(READY_TIMEOUT_S):
                    await self._expect(process, "ready")
            self._tell("load")
            begin = now_us() + 200_000
            for process in processes:
                assert process.stdin is not None
                process.stdin.write(b"%d\n" % begin)
                await process.stdin.drain()
            budget_s = self.options.warmup_s + self.options.seconds + self.options.drain_s + REPORT_SLACK_S
            async with asyncio.timeout(budget_s):
                await self._watch(processes, companion)
        except TimeoutError:
            raise TepbftError(
                "load generator", "it did not report in time", "Look into the nodes' logs."
            ) from None
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    async def _spawn(self, job: Job, into: list[asyncio.subprocess.Process]) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tepbft.lab.load_process",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            limit=1 << 26,
            start_new_session=True,
        )
        into.append(process)
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(job) + b"\n")
        await process.stdin.drain()

    async def _expect(self, process: asyncio.subprocess.Process, event: str) -> dict[str, Any]:
        """The next event of a generator, which has to be `event`."""
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:
            raise TepbftError("load generator", "it ended without a report", "Its error is printed above.")
        found: dict[str, Any] = msgspec.json.decode(line)
        if found["event"] == "error":
            raise TepbftError(found["thing"], found["reason"], found["remedy"])
        if found["event"] != event:
            raise TepbftError("load generator", f"it said {found['event']}, not {event}", "Report this.")
        return found

    async def _watch(self, processes: list[asyncio.subprocess.Process], companion: Companion) -> None:
        for process in processes:
            await self._expect(process, "begin")
        companion.begin()
        self._before = await asyncio.to_thread(self._probe.sample)
        self._views_before = _view_changes(await asyncio.to_thread(self._correct_statuses))
        started_s = time.monotonic()
        memory = asyncio.create_task(self._watch_memory(started_s))
        murder = None
        if self.options.kill_primary_after_s is not None:
            murder = asyncio.create_task(self._murder(self.options.kill_primary_after_s))
        try:
            for process in processes:
                await self._expect(process, "end")
            self._after = await asyncio.to_thread(self._probe.sample)
            self._verify_us = await companion.end()
            self._tell("draining")
            for process in processes:
                report = await self._expect(process, "report")
                self._reports.append(msgspec.convert(report["report"], Report))
        finally:
            for task in (memory, murder):
                if task is not None:
                    task.cancel()

    async def _watch_memory(self, started_s: float) -> None:
        while True:
            self._probe.watch_memory(time.monotonic() - started_s)
            await asyncio.sleep(0.5)

    async def _murder(self, after_s: float) -> None:
        """SIGKILL for the primary's process; its component stays."""
        await asyncio.sleep(after_s)
        statuses = await asyncio.to_thread(self._correct_statuses)
        primary = next(status.primary for status in statuses if status is not None)
        pid = node_pid(self.cluster.nodes[primary].layout)
        if pid is not None:
            self._killed = primary
            kill(pid)

    def _correct_statuses(self) -> list[NodeStatus | None]:
        """What the correct nodes say of themselves; None for one that does not answer."""
        statuses = fetch_statuses(self.cluster.genesis)
        return [statuses[node] for node in self.options.correct if node != self._killed]

    # --- afterwards ---------------------------------------------------------------------------

    def settle(self) -> None:
        """Until all correct nodes that run report one head at one height, executed and stable."""
        self._tell("comparing the replicas")
        deadline = time.monotonic() + AGREE_TIMEOUT_S
        while True:
            seen = self._statuses = self._correct_statuses()
            heads = {(s.executed, s.stable, s.head) if s else None for s in seen}
            one = next(iter(heads)) if len(heads) == 1 else None
            if one is not None and one[0] == one[1]:
                self._agree = True
                return
            if time.monotonic() > deadline:
                told = ", ".join(f"{s.executed}/{s.stable} {s.head[:8]}" if s else "down" for s in seen)
                self._problems.append(f"the replicas do not agree (executed/stable head): {told}")
                return
            time.sleep(0.1)

    def result(self, cost: SignatureCost) -> BenchResult:
        """The figures."""
        options, reports = self.options, self._reports
        each = options.bundle  # operations of a request
        committed = each * sum(report.committed for report in reports)
        if not committed:
            raise TepbftError(
                "benchmark",
                "no request was answered in the window",
                "Look at the nodes' logs: tepbft bench --dir DIR keeps them.",
            )
        window_s = sum(report.window_s for report in reports) / len(reports)
        replicas = len(options.correct)
        live = sum(report.signed_live for report in reports) if options.scheme not in LIVE_SCHEMES else 0
        calibrated, cost = cost, SignatureCost(mean_us(self._verify_us, cost.verify_us), cost.sign_us)
        limit = self._limit(cost, live / (live + self._prepared) if live else 0.0)
        tps = committed / window_s
        used, trusted = self._cpu()
        messages, octets = self._messages(committed)
        late = max(report.late_ms for report in reports)
        cpu_s = sum(report.cpu_s for report in reports)
        busiest = max(report.cpu_s / report.window_s for report in reports)
        status = next((s for s in self._statuses if s is not None), None)
        return BenchResult(
            options=options,
            tps=round(tps, 1),
            latency_ms=self._histogram().summary(),
            limit_tps=round(limit, 1) if limit else None,
            ratio=round(tps / limit, 4) if limit else None,
            t_verify_us=round(cost.verify_us, 3),
            t_verify_around_us=round(calibrated.verify_us, 3),
            t_verify_range_us=[round(of(self._verify_us, default=0.0), 3) for of in (min, max)],
            t_sign_us=round(cost.sign_us, 3),
            signed_live=live,
            cpu_us_per_tx_per_replica=round(used * 1e6 / committed / replicas, 3),
            trusted_cpu_us_per_tx_per_replica=round(trusted * 1e6 / committed / replicas, 3),
            load_cpu_us_per_tx=round(cpu_s * 1e6 / committed, 3),
            rss_mb_max=round(self._probe.rss_max_bytes / (1 << 20), 1),
            rss_series=self._probe.rss_series,
            disk_bytes_per_tx=round(
                (self._after.disk_bytes - self._before.disk_bytes) / committed / replicas, 1
            ),
            messages_per_tx=messages,
            bytes_per_tx=octets,
            view_changes=_view_changes(self._statuses) - self._views_before,
            view_changes_before=self._views_before,
            gap_ms=round(max(report.gap_ms for report in reports), 1),
            replicas_agree=self._agree,
            byzantine_nodes=list(options.liars),
            committed=committed,
            refused=each * sum(report.refused for report in reports),
            shed=each * sum(report.shed for report in reports),
            busy=sum(report.busy for report in reports),
            due=each * sum(report.due for report in reports),
            lost=each * sum(report.outstanding for report in reports),
            retransmitted=sum(report.retransmitted for report in reports),
            limited_by_client=late > LATE_MS or busiest > 0.95,
            seconds=round(window_s, 3),
            timeline=[each * count for count in _add_up([report.timeline for report in reports])],
            cores=cores(),
            machine=machine(),
            stolen_share=self._stolen(),
            verification=status.verification if status is not None else "inline",
            extension=status is not None and status.extension,
            errors=[*self._problems, *(error for report in reports for error in report.errors)],
            started_at=self._started_at,
            commit=current_commit(),
        )

    def _limit(self, cost: SignatureCost, live_share: float) -> float | None:
        limit = limit_per_s(cost, len(self.options.running), live_share)
        return limit * self.options.bundle if limit else None

    def _cpu(self) -> tuple[float, float]:
        trusted = self._after.trusted_cpu_s - self._before.trusted_cpu_s
        return self._after.cpu_s - self._before.cpu_s + trusted, trusted

    def _stolen(self) -> float:
        before, after = self._before.processor_time, self._after.processor_time
        passed, stolen = (late - early for early, late in zip(before, after, strict=True))
        return round(stolen / passed, 4) if passed > 0 else 0.0

    def _messages(self, committed: int) -> tuple[dict[str, float], dict[str, float]]:
        counts: dict[str, float] = {}
        octets: dict[str, float] = {}
        for kind, (count, size) in sorted(self._after.messages.items()):
            before = self._before.messages.get(kind, (0, 0))
            if count > before[0]:
                counts[kind] = round((count - before[0]) / committed, 5)
                octets[kind] = round((size - before[1]) / committed, 2)
        return counts, octets

    def _histogram(self) -> Histogram:
        total = Histogram()
        for report in self._reports:
            total.add(
                Histogram.from_pairs(
                    report.buckets, min_us=report.min_us, max_us=report.max_us, sum_us=report.sum_us
                )
            )
        return total


def _view_changes(statuses: Sequence[NodeStatus | None]) -> int:
    return max((status.view_changes for status in statuses if status), default=0)


def _add_up(timelines: list[list[int]]) -> list[int]:
    length = max(map(len, timelines), default=0)
    return [sum(line[i] for line in timelines if i < len(line)) for i in range(length)]
