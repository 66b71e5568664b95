"""Who runs the seeds of a campaign: this process, processes of this machine, or a Dask cluster.

Each takes (first, last) ranges of seeds and hands their runs back as they come. A worker
that dies, stays silent or raises ends the campaign with `WorkerLost`: a range of seeds
that nobody has looked at must not pass for one in which nothing was found.
"""

from __future__ import annotations

import logging
import multiprocessing as mp
import os
import re
import signal
import threading
import time
import traceback
from asyncio import CancelledError
from collections.abc import Iterator
from functools import cache
from hashlib import blake2b
from importlib import import_module
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Protocol

from tepbft.errors import TepbftError
from tepbft.sim.job import Job, SeedRun, run_chunk

CHUNK_SEEDS = 4
SILENT_S = 600.0
"""A worker that takes longer for one range is given up: the simulation hangs."""
JOIN_S = 5.0
PATIENCE_S = 30.0
"""A Dask cluster that has no workers for so long is given up."""
CONNECT_S = 10.0
POLL_S = 1.0
CLOSE_S = 2.0
FAILED = 3
"""Exit code of a campaign that is itself broken."""

Range = tuple[int, int]
"""First and last seed, both included."""
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s/:]+):\d{1,5}")
_ALONE = threading.Lock()


class WorkerLost(TepbftError):
    """Some seeds were not run: the campaign says nothing about them."""

    def __init__(self, seeds: Range | None, reason: str) -> None:
        name = "a worker" if seeds is None else f"the worker of seeds {seeds[0]}..{seeds[1]}"
        super().__init__(
            name, reason, "Run these seeds alone, with --workers 1, to see why.", exit_code=FAILED
        )


def broken(seed: int, error: Exception) -> WorkerLost:
    """The simulator itself raised: nothing is known about this seed."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    name = where.filename.rsplit("/", 1)[-1]
    return WorkerLost((seed, seed), f"{type(error).__name__}: {error} at {name}:{where.lineno}")


class Workers(Protocol):
    """Runs ranges of seeds; results come in any order."""

    count: int

    def run(self, job: Job, ranges: Iterator[Range]) -> Iterator[list[SeedRun]]:
        """Run every range. Raises `WorkerLost`."""
        ...

    def close(self) -> None:
        """End everything at once."""
        ...


class Inline:
    """One worker: this process."""

    count = 1

    def run(self, job: Job, ranges: Iterator[Range]) -> Iterator[list[SeedRun]]:
        """See `Workers`."""
        for first, last in ranges:
            for seed in range(first, last + 1):
                try:
                    yield run_chunk(job, seed, seed)
                except TepbftError:
                    raise
                except Exception as error:
                    raise broken(seed, error) from error

    def close(self) -> None:
        """See `Workers`."""


class Processes:
    """Several processes of this machine, started afresh (spawn)."""

    def __init__(self, count: int, silent_s: float = SILENT_S) -> None:
        self.count, self._silent_s = count, silent_s
        self._workers: dict[Connection, SpawnProcess] = {}
        self._busy: dict[Connection, tuple[Range, float]] = {}

    def run(self, job: Job, ranges: Iterator[Range]) -> Iterator[list[SeedRun]]:
        """See `Workers`."""
        for _ in range(self.count):
            self._feed(self._start(job), ranges)
        while self._busy:
            ready = wait(list(self._busy), timeout=1.0)
            for connection in list(self._busy):
                if connection in ready:
                    runs = self._receive(connection)
                    self._feed(connection, ranges)
                    yield runs
            self._look_for_silence()

    def _start(self, job: Job) -> Connection:
        context = mp.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, job), name="tepbft-sim", daemon=True)
        process.start()
        theirs.close()
        self._workers[ours] = process
        return ours

    def _feed(self, connection: Connection, ranges: Iterator[Range]) -> None:
        self._busy.pop(connection, None)
        seeds = next(ranges, None)
        if seeds is None:
            return
        try:
            connection.send(seeds)
        except OSError:
            raise WorkerLost(seeds, "its process has died") from None
        self._busy[connection] = (seeds, time.monotonic())

    def _receive(self, connection: Connection) -> list[SeedRun]:
        seeds, _ = self._busy[connection]
        try:
            answer = connection.recv()
        except (EOFError, OSError):
            process = self._workers[connection]
            process.join(JOIN_S)
            raise WorkerLost(seeds, f"its process has died (exit code {process.exitcode})") from None
        return _runs(seeds, answer)

    def _look_for_silence(self) -> None:
        now = time.monotonic()
        for seeds, since in self._busy.values():
            if now - since > self._silent_s:
                raise WorkerLost(seeds, f"it has been silent for {self._silent_s:.0f} s")

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [process.pid for process in self._workers.values() if process.pid is not None]

    def close(self) -> None:
        """See `Workers`."""
        for connection, process in self._workers.items():
            connection.close()
            process.terminate()
        for process in self._workers.values():
            process.join(JOIN_S)
            if process.is_alive():
                process.kill()
                process.join()
        self._workers.clear()
        self._busy.clear()


def _serve(connection: Connection, job: Job) -> None:
    """A worker process: ends when its parent does, or when told; Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            seeds = connection.recv()
        except (EOFError, OSError):
            return
        try:
            connection.send(_attempt(job, seeds))
        except OSError:
            return


class Dask:
    """Workers of a Dask cluster, which must have the same sources of this package."""

    def __init__(self, address: str, patience_s: float = PATIENCE_S, silent_s: float = SILENT_S) -> None:
        self._name, self._patience_s, self._silent_s = f"--workers dask://{address}", patience_s, silent_s
        if _ADDRESS.fullmatch(address) is None:
            raise TepbftError(
                self._name, "it is not dask://HOST:PORT", "Name the scheduler's host and port.", exit_code=2
            )
        try:
            distributed: Any = import_module("distributed")
        except ImportError:
            raise TepbftError(
                self._name,
                "the package `distributed` is not installed",
                "Install it: pip install 'tepbft[dask]'.",
                exit_code=2,
            ) from None
        for name in [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]:
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what is lost, the report says
        self._client = self._connect(distributed)
        self.count = len(self._client.ncores())

    def _connect(self, distributed: Any) -> Any:
        address = self._name.rpartition("/")[2]
        remedy = "Start one with `dask scheduler`, and name its host and port."
        try:
            client = distributed.Client(f"tcp://{address}", timeout=CONNECT_S, set_as_default=False)
        except (OSError, TimeoutError) as error:
            reason = f"the scheduler does not answer ({_first_line(error)})"
            raise TepbftError(self._name, reason, remedy, exit_code=FAILED) from None
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
        except (OSError, TimeoutError):
            client.close(CLOSE_S)
            remedy = f"Start some: dask worker tcp://{address}."
            raise TepbftError(self._name, "the scheduler has no workers", remedy, exit_code=FAILED) from None
        return client

    def run(self, job: Job, ranges: Iterator[Range]) -> Iterator[list[SeedRun]]:
        """See `Workers`."""
        under_way: dict[Any, tuple[Range, Any]] = {}
        done: Queue[Any] = Queue()

        def feed() -> None:
            seeds = next(ranges, None)
            if seeds is not None:
                future = self._client.submit(run_elsewhere, job, seeds, sources(), pure=False)
                under_way[future.key] = seeds, future
                future.add_done_callback(done.put)

        for _ in range(2 * sum(self._client.ncores().values())):
            feed()
        heard = seen = time.monotonic()
        while under_way:
            try:
                future = done.get(timeout=POLL_S)
            except Empty:
                seen = self._look_for_workers(min(seeds for seeds, _ in under_way.values()), heard, seen)
                continue
            seeds, _ = under_way.pop(future.key)
            runs = self._outcome(seeds, future)
            feed()
            heard = time.monotonic()
            yield runs

    def _look_for_workers(self, seeds: Range, heard: float, seen: float) -> float:
        """Nothing came for a while: `WorkerLost` if that has lasted too long. When workers were last seen."""
        now = time.monotonic()
        if now - heard > self._silent_s:
            raise WorkerLost(seeds, f"the cluster has been silent for {self._silent_s:.0f} s")
        try:
            if self._client.status == "running" and self._client.ncores():
                return now
        except OSError:
            pass
        if now - max(heard, seen) > self._patience_s:
            raise WorkerLost(seeds, f"the scheduler has had no workers for {self._patience_s:.0f} s")
        return seen

    def _outcome(self, seeds: Range, future: Any) -> list[SeedRun]:
        if future.status == "error":
            raise WorkerLost(seeds, f"Dask says: {_first_line(future.exception())}")
        if future.status != "finished":
            raise WorkerLost(seeds, "the connection to the scheduler is lost")
        try:
            answer = future.result(timeout=self._silent_s)
        except (Exception, CancelledError) as error:
            raise WorkerLost(seeds, f"its answer did not arrive ({_first_line(error)})") from None
        return _runs(seeds, answer)

    def close(self) -> None:
        """See `Workers`."""
        self._client.close(CLOSE_S)


def run_elsewhere(job: Job, seeds: Range, wanted: str) -> list[SeedRun] | str:
    """What a Dask worker runs. A planted defect is in the code of the whole process, so its threads
    take turns."""
    if sources() != wanted:
        return "the worker has other sources of this package than the campaign"
    with _ALONE:
        return _attempt(job, seeds)


@cache
def sources() -> str:
    """Digest of the sources of this package: the same seed is the same run only with the same code."""
    root = Path(__file__).resolve().parents[1]
    digest = blake2b(digest_size=16)
    for path in sorted(root.rglob("*.py")):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _attempt(job: Job, seeds: Range) -> list[SeedRun] | str:
    """The runs, or what the simulator raised."""
    try:
        return run_chunk(job, *seeds)
    except Exception as error:
        return broken(seeds[0], error).reason


def _runs(seeds: Range, answer: list[SeedRun] | str) -> list[SeedRun]:
    if isinstance(answer, str):
        raise WorkerLost(seeds, answer)
    return answer


def make_workers(text: str | None) -> Workers:
    """Workers as a command line names them: a number, `dask://HOST:PORT`, or None for one per core."""
    if text is not None and text.startswith("dask://"):
        return Dask(text.removeprefix("dask://"))
    try:
        count = int(text) if text is not None else len(os.sched_getaffinity(0))
    except ValueError:
        count = 0
    if not 1 <= count <= 1024:
        raise TepbftError(
            f"--workers {text}",
            "it is neither a number nor dask://HOST:PORT",
            "Try --workers 4.",
            exit_code=2,
        )
    return Processes(count) if count > 1 else Inline()
