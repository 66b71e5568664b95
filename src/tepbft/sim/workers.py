"""Who runs the seeds of a campaign: this process, processes of this machine, or a Dask cluster.

Each takes (first, last) ranges of seeds and hands their runs back as they come. A worker
that dies, stays silent or raises ends the campaign with `WorkerLost`: a range of seeds
that nobody has looked at must not pass for one in which nothing was found.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import time
import traceback
from collections.abc import Iterator
from importlib import import_module
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Protocol

from tepbft.errors import TepbftError
from tepbft.sim.job import Job, SeedRun, run_chunk

CHUNK_SEEDS = 4
SILENT_S = 600.0
"""A worker that takes longer for one range is given up: the simulation hangs."""
JOIN_S = 5.0
FAILED = 3
"""Exit code of a campaign that is itself broken."""

Range = tuple[int, int]
"""First and last seed, both included."""


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
        if isinstance(answer, str):
            raise WorkerLost(seeds, answer)
        runs: list[SeedRun] = answer
        return runs

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
            first, last = connection.recv()
        except (EOFError, OSError):
            return
        answer: Any
        try:
            answer = run_chunk(job, first, last)
        except Exception as error:
            answer = broken(first, error).reason
        try:
            connection.send(answer)
        except OSError:
            return


class Dask:
    """Workers of a Dask cluster, which must have the same version of this package."""

    def __init__(self, address: str) -> None:
        try:
            self._dask: Any = import_module("distributed")
        except ImportError:
            raise TepbftError(
                f"--workers dask://{address}",
                "the package `distributed` is not installed",
                "Install it: pip install 'tepbft[dask]'.",
                exit_code=2,
            ) from None
        try:
            self._client = self._dask.Client(f"tcp://{address}", timeout="10s")
        except (OSError, TimeoutError) as error:
            raise TepbftError(
                f"--workers dask://{address}",
                f"the scheduler does not answer ({error})",
                "Start one with `dask scheduler`, and name its host and port.",
                exit_code=FAILED,
            ) from None
        self.count = max(1, len(self._client.ncores()))

    def run(self, job: Job, ranges: Iterator[Range]) -> Iterator[list[SeedRun]]:
        """See `Workers`."""
        under_way: dict[Any, Range] = {}
        done = self._dask.as_completed()

        def feed() -> None:
            seeds = next(ranges, None)
            if seeds is not None:
                future = self._client.submit(run_chunk, job, *seeds, pure=False)
                under_way[future.key] = seeds
                done.add(future)

        for _ in range(2 * sum(self._client.ncores().values()) or 1):
            feed()
        for future in done:
            seeds = under_way.pop(future.key)
            if future.status != "finished":
                raise WorkerLost(seeds, f"Dask says: {future.exception()}")
            feed()
            yield future.result()

    def close(self) -> None:
        """See `Workers`."""
        self._client.close()


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
